"""The page to try a model: its answers, its look in a browser with real uploads, and the Space made of it."""

# ruff: noqa: F811 (the fixture `hub` is imported, then named by the tests that take it)

import os
import re
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import HfApi, snapshot_download

import test_export
from browser import chromium, console_errors, requests
from hub_server import hub  # noqa: F401
from run_recipe import exit_code, load_recipe, refused, words
from video_files import moving_square, write_video
from vidtune import app
from vidtune.data.clips import evaluation_views
from vidtune.data.decoding import open_video
from vidtune.evaluation.classifier import load_predictor
from vidtune.evaluation.timeline import Segment

run = test_export.run
LABELS = test_export.LABELS


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "text.mp4").write_text("no video")
    write_video(folder / "short.mp4", moving_square(24, 48, 64), fps=24)
    write_video(folder / "long.mp4", moving_square(50, 48, 64), fps=10)
    with (folder / "large.mp4").open("wb") as file:
        file.truncate(3_000_000)
    return folder


@pytest.fixture(scope="module")
def classifier(run):
    return load_predictor(str(run), device="cpu")


# Answers


def test_an_answer_is_the_models(classifier, videos):
    found = app.answer(classifier, videos / "short.mp4")
    with open_video(videos / "short.mp4") as video:
        views = evaluation_views(video, classifier.clip)
    expected = classifier.probabilities(classifier.logits(views)).tolist()
    assert list(found.probabilities) == LABELS and list(found.probabilities.values()) == expected
    assert np.array_equal(found.frames, views[0].permute(0, 2, 3, 1))
    assert found.spans == [(0, 1)] and len(found.segments) == 1


def test_a_long_video_is_read_window_by_window(classifier, videos, monkeypatch):
    found = app.answer(classifier, videos / "long.mp4")
    assert found.spans == [(0, 2), (1, 3), (2, 4), (3, 5)]
    for (start, end), row in zip(found.spans, found.table, strict=True):
        with open_video(videos / "long.mp4", "auto", start, end) as part:
            views = evaluation_views(part, classifier.clip)
        np.testing.assert_allclose(row, classifier.probabilities(classifier.logits(views)), rtol=1e-4)
    monkeypatch.setattr(app, "MOST_WINDOWS", 2)
    assert app.answer(classifier, videos / "long.mp4").spans == [(0, 2.5), (2.5, 5)]


def test_a_timeline_shows_who_when_and_escapes_labels():
    labels = ["<b>a", "b"]
    spans, table = [(0.0, 2.0), (2.0, 4.0)], [[0.75, 0.25], [0.5, 0.5]]
    drawn = app.timeline(spans, table, labels, [Segment(0, 3, "<b>a", 0.75), Segment(3, 4, "b", 0.5)])
    assert "<b>" not in drawn and drawn.count("&lt;b&gt;a, 75%") == 2
    assert re.findall(r'<rect x="(.*?)" width="(.*?)"', drawn) == [("0.0", "750.0"), ("750.0", "250.0")]
    assert re.findall(r'points="(.*?)"', drawn) == ["250.0,28.0 750.0,52.0", "250.0,76.0 750.0,52.0"]
    assert app.timeline(spans[:1], table[:1], labels, []) == ""


def test_many_labels_have_as_many_curves_as_colours():
    labels = [str(number) for number in range(12)]
    table = np.eye(12)[:2].tolist()
    drawn = app.timeline([(0.0, 1.0), (1.0, 2.0)], table, labels, [Segment(0, 2, "11", 0.5)])
    assert drawn.count("<polyline") == len(app.COLOURS) and 'fill="#999"' in drawn


# In a browser


@pytest.fixture(scope="module")
def url(run):
    page = app.launch(str(run), max_upload_mb=1, block=False)
    yield page.local_url
    page.close()


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


def find(browser, selector, text=""):
    """Wait for an element that holds a text."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    def found(driver):
        elements = driver.find_elements("css selector", selector)
        return next((element for element in elements if text in element.get_attribute("textContent")), None)

    return WebDriverWait(browser, 60, ignored_exceptions=[StaleElementReferenceException]).until(found)


def upload(browser, url, path):
    browser.get(url)
    find(browser, "#video input[type=file]").send_keys(str(path))


@pytest.mark.slow
def test_an_upload_shows_frames_labels_and_timeline_and_asks_nobody_else(browser, url, classifier, videos):
    found = app.answer(classifier, videos / "long.mp4")
    upload(browser, url, videos / "long.mp4")
    assert find(browser, "#timeline li").text.startswith("0.0 to ")
    assert len(browser.find_elements("css selector", "#frames img")) == 4
    assert len(browser.find_elements("css selector", "#timeline polyline")) == len(LABELS)
    shown = find(browser, "#labels").text.split()
    best = max(found.probabilities, key=found.probabilities.get)
    assert shown[shown.index(best) + 1 :][:2] == [best, f"{found.probabilities[best]:.0%}"]
    asked = requests(browser)
    assert asked and all(request.startswith(url) for request in asked), asked
    assert console_errors(browser) == []


@pytest.mark.slow
def test_an_example_is_a_click_away_and_a_short_video_has_no_timeline(browser, url):
    browser.get(url)
    find(browser, ".gallery-item, .gallery button").click()
    find(browser, "#frames img")
    assert not browser.find_elements("css selector", "#timeline svg")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "message"), [("text.mp4", "FFmpeg cannot decode"), ("large.mp4", "1.0 Mb")])
def test_a_file_that_is_refused_says_why(name, message, browser, url, videos):
    upload(browser, url, videos / name)
    text = find(browser, ".toast-messages", message).get_attribute("textContent")
    assert str(videos) not in text and "gradio" not in text


# As a Space


@pytest.fixture
def published(hub, run):
    HfApi().create_repo("tester/mine")
    HfApi().upload_folder(repo_id="tester/mine", folder_path=run)
    return hub


@pytest.mark.slow
def test_a_space_holds_all_that_it_runs_on(published, videos, tmp_path):
    assert exit_code("app", words(model="tester/mine", push_to_hub="tester/try", max_upload_mb=7)) == 0
    assert len(published.repos["spaces/tester/try"].commits) == 2  # the empty one of its creation, and ours
    folder = Path(snapshot_download("tester/try", repo_type="space", local_dir=tmp_path / "space"))
    settings = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert (settings["sdk"], settings["app_file"], settings["models"]) == ("gradio", "app.py", ["tester/mine"])
    pins = (folder / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert {f"gradio=={settings['sdk_version']}", f"torch=={version('torch').partition('+')[0]}"} <= set(pins)
    assert not list(folder.rglob("__pycache__"))

    # It runs by itself, with the code that it brought along
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"GRADIO_SERVER_PORT": port, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": ""}
    program = subprocess.Popen(
        [sys.executable, "app.py"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        line = next(line for line in program.stdout if "http://" in line)
        from gradio_client import Client, handle_file

        client = Client(re.search(r"http://\S+", line)[0], verbose=False)
        labels, frames, _ = client.predict(handle_file(videos / "short.mp4"), api_name="/predict")
        assert {row["label"] for row in labels["confidences"]} == set(LABELS) and frames.count("<img") == 4
        assert (folder / "vidtune" / "__pycache__").is_dir()
    finally:
        program.terminate()
        program.wait()


def test_a_private_model_needs_a_secret(hub, run, capsys):
    HfApi().create_repo("tester/mine", private=True)
    HfApi().upload_folder(repo_id="tester/mine", folder_path=run)
    load_recipe("app").main(words(model="tester/mine", push_to_hub="tester/try", hub_private_repo="true"))
    assert hub.repos["spaces/tester/try"].private
    assert "secret HF_TOKEN" in capsys.readouterr().out


def test_a_model_that_is_not_on_the_hub_is_to_be_published_first(hub, run):
    message = refused(load_recipe("app").main, words(model=run, push_to_hub="tester/try"))
    assert f"hf upload user/name {run}" in message and not hub.repos
    message = refused(load_recipe("app").main, words(model="tester/none", push_to_hub="tester/try"))
    assert message.startswith("model: tester/none") and not hub.repos


def test_a_space_where_the_token_may_not_write(published):
    message = refused(load_recipe("app").main, words(model="tester/mine", push_to_hub="other/try"))
    assert message.startswith("push_to_hub: cannot publish 'other/try' (403")


# What is refused


def test_options_that_cannot_work(run):
    main = load_recipe("app").main
    assert refused(main, []).startswith("model: missing")
    assert refused(main, words(model=run, stride_seconds=3)).startswith("stride_seconds: 3 is more than")
    assert refused(main, words(model=run, server_port=70000)).startswith("server_port: got 70000")
    assert "no folder here" in refused(main, words(model="nowhere/nothing"))


def test_a_port_that_is_taken(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert refused(app.launch, str(run), server_port=port, block=False).startswith(
            f"server_port: {port}: is taken"
        )


def test_without_gradio_one_line_says_what_to_install(run, monkeypatch):
    recipe = load_recipe("app")
    monkeypatch.setattr(recipe, "find_spec", lambda name: None)
    assert refused(recipe.main, words(model=run)).endswith("pip install gradio")
