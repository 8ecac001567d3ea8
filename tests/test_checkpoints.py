import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

from run_recipe import refused
from vidtune.training.checkpoints import (
    check_output_dir,
    clear_run,
    close_output_dir,
    find_checkpoint,
    move_checkpoint,
    move_files,
    open_output_dir,
    rotate_checkpoints,
    write_text,
)


def make(folder, *names):
    """Write files, each with its name for content."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder


def make_checkpoint(folder):
    """Write what a whole checkpoint has."""
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.save({}, folder / name)
    return folder


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink())


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_new_or_an_empty_folder_may_be_written_to(tmp_path, overwrite):
    check_output_dir(tmp_path, resume=False, overwrite=overwrite)
    check_output_dir(tmp_path / "new", resume=False, overwrite=overwrite)
    assert not (tmp_path / "new").exists()


def test_a_run_may_be_resumed_or_replaced_but_only_when_asked_to(tmp_path):
    make(tmp_path, "model.safetensors")
    (tmp_path / "config.yaml").write_text("dataset: demo\nconfig_overrides: {}\nhub_model_id: null\n")
    check_output_dir(tmp_path, resume=True, overwrite=False)
    check_output_dir(tmp_path, resume=False, overwrite=True)
    message = refused(check_output_dir, tmp_path, resume=False, overwrite=False)
    assert str(tmp_path) in message and "--overwrite" in message and "--resume_from_checkpoint auto" in message


def test_processes_that_check_one_empty_folder_at_once_do_not_mistake_each_other_for_files(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        checks = [pool.submit(check_output_dir, tmp_path, resume=False, overwrite=False) for _ in range(400)]
    assert [check.result() for check in checks] == [None] * 400


@pytest.mark.parametrize("name", ["new", "empty"])
def test_there_is_nothing_to_resume_in_a_new_or_an_empty_folder(tmp_path, name):
    (tmp_path / "empty").mkdir()
    assert "holds no run" in refused(check_output_dir, tmp_path / name, resume=True, overwrite=True)


@pytest.mark.parametrize(("resume", "overwrite"), [(False, False), (True, False), (False, True)])
def test_a_folder_of_something_else_is_refused_whatever_was_asked(tmp_path, resume, overwrite):
    make(tmp_path, "thesis.tex", "README.md", "checkpoint-7/x")
    (tmp_path / "config.yaml").write_text("lr: 1\n")  # many programs call theirs so
    message = refused(check_output_dir, tmp_path, resume=resume, overwrite=overwrite)
    assert "holds files of something else" in message


def test_a_file_is_no_output_folder(tmp_path):
    make(tmp_path, "file")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("long" * 100)):
        assert "can't be written" in refused(check_output_dir, path, resume=False, overwrite=True)


def test_a_folder_is_locked_as_long_as_a_run_goes_on(tmp_path):
    lock = open_output_dir(tmp_path / "new" / "run")
    assert "another run is writing into it" in refused(open_output_dir, tmp_path / "new" / "run")
    close_output_dir(lock)
    close_output_dir(open_output_dir(tmp_path / "new" / "run"))
    assert tree(tmp_path / "new" / "run") == []


def test_auto_finds_the_newest_whole_checkpoint(tmp_path):
    for step in (2, 9, 10):
        make_checkpoint(tmp_path / f"checkpoint-{step}")
    make(tmp_path, "checkpoint-11/model.safetensors", "checkpoint-best/trainer_state.json", "checkpoint-12")
    make(tmp_path, ".unfinished/checkpoint-13/trainer_state.json")
    assert find_checkpoint("auto", tmp_path) == tmp_path / "checkpoint-10"
    assert find_checkpoint("true", tmp_path) == tmp_path / "checkpoint-10"


def test_a_checkpoint_can_be_named(tmp_path):
    elsewhere = make_checkpoint(tmp_path / "elsewhere")
    make_checkpoint(tmp_path / "run" / "checkpoint-3")
    assert find_checkpoint(str(elsewhere), tmp_path / "run") == elsewhere


def test_a_run_without_a_checkpoint_says_how_to_start_afresh(tmp_path):
    make(tmp_path, "config.yaml", "checkpoint-4/optimizer.pt")
    assert "start afresh with --overwrite" in refused(find_checkpoint, "auto", tmp_path)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_a_state_is_no_checkpoint(tmp_path, name):
    (tmp_path / "empty").mkdir()
    assert "is no checkpoint" in refused(find_checkpoint, str(tmp_path / name), tmp_path)


def test_clearing_a_run_removes_what_it_wrote_and_nothing_else(tmp_path):
    others = [
        "notes.md",
        "config.yaml.bak",
        "checkpoint-notes.txt",
        "checkpoint-best/model.safetensors",
        "checkpoint-7",
        "my_model.safetensors",
        "logs/checkpoint-3/trainer_state.json",
        "videos/report.json",
    ]
    make(tmp_path, *others)
    make(tmp_path, "config.yaml", "report.json", "README.md", "config.json", "training_args.bin")
    make(tmp_path, "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json")
    make(tmp_path, "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
    make(tmp_path, "checkpoint-2/model.safetensors", "checkpoint-10/rng_state.pth", ".unfinished/checkpoint-11/a")
    clear_run(tmp_path)
    assert tree(tmp_path) == sorted(others)
    clear_run(tmp_path)


def test_clearing_a_run_leaves_what_a_link_leads_to(tmp_path):
    archive = make(tmp_path / "archive", "model.safetensors")
    run = make(tmp_path / "run", "config.yaml")
    (run / "checkpoint-5").symlink_to(archive)
    (run / "model.safetensors").symlink_to(archive / "model.safetensors")
    clear_run(run)
    assert tree(archive) == ["model.safetensors"]
    assert tree(run) == ["checkpoint-5"]


def test_clearing_a_folder_that_is_not_there_does_nothing(tmp_path):
    clear_run(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_moved_files_replace_their_namesakes_and_their_folder_goes(tmp_path):
    target = make(tmp_path / "target", "kept")
    (target / "model").write_text("old")
    move_files(make(tmp_path / "staged", "model", "config"), target)
    assert tree(tmp_path) == ["target/config", "target/kept", "target/model"]
    assert (target / "model").read_text() == "model"
    assert not (tmp_path / "staged").exists()


def test_a_staged_checkpoint_gets_its_name(tmp_path):
    move_checkpoint(make(tmp_path / "staging" / "checkpoint-3", "model", "sub/state"), tmp_path / "checkpoint-3")
    assert tree(tmp_path) == ["checkpoint-3/model", "checkpoint-3/sub/state"]


def test_a_staged_checkpoint_takes_the_place_of_its_namesake(tmp_path):
    make(tmp_path / "checkpoint-3", "old")
    move_checkpoint(make(tmp_path / "staging" / "checkpoint-3", "new"), tmp_path / "checkpoint-3")
    assert tree(tmp_path) == ["checkpoint-3/new"]


def test_an_old_checkpoint_is_removed_only_when_the_new_one_has_its_name(tmp_path, monkeypatch):
    final, staged = make(tmp_path / "checkpoint-3", "old"), make(tmp_path / "staging" / "checkpoint-3", "new")
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: pytest.fail("removed") if not final.is_dir() else None)
    move_checkpoint(staged, final)
    assert tree(final) == ["new"]


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [
        (None, None, [2, 9, 10, 11]),
        (5, None, [2, 9, 10, 11]),
        (2, None, [10, 11]),
        (1, None, [11]),
        (2, 2, [2, 11]),
        (3, 2, [2, 10, 11]),
        (1, 2, [2, 11]),
        (1, 11, [11]),
    ],
)
def test_rotation_removes_the_oldest_but_neither_the_best_nor_the_newest(tmp_path, limit, best, kept):
    for step in (2, 9, 10, 11):
        make(tmp_path, f"checkpoint-{step}/trainer_state.json", f"checkpoint-{step}/model")
    make(tmp_path, "checkpoint-notes.txt", "checkpoint-1/notes")
    (tmp_path / ".unfinished").mkdir()
    rotate_checkpoints(tmp_path, limit, best and f"elsewhere/checkpoint-{best}")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*(f"checkpoint-{step}" for step in [1, *kept]), "checkpoint-notes.txt", ".unfinished"}
    assert not any((tmp_path / ".unfinished").iterdir())


def test_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_text(path, "premier: é\n")
    assert path.read_text(encoding="utf-8") == "premier: é\n"
    write_text(path, "second")
    assert path.read_text() == "second" and tree(tmp_path) == ["report.json"]

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match=re.escape("disk full")):
        write_text(path, "third")
    assert path.read_text() == "second"
