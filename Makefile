# make demo, make test, make quality, make audit: each sets up what it needs. VENV=path chooses where.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test quality audit clean

demo: $(VENV)/installed
	$(BIN)/accelerate launch --config_file accelerate_config.yaml recipes/finetune.py --config recipes/configs/demo.yaml --overwrite

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not soak" --cov --cov-report term-missing:skip-covered

quality: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(VENV)/installed
	$(BIN)/bandit --quiet --recursive src recipes
	$(BIN)/python .ci/audit.py

$(VENV)/installed: pyproject.toml
	@echo "Installing into $(VENV): some minutes and 6 GB, most of it PyTorch"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) outputs build dist src/*.egg-info
