import io
import json
import re
import warnings
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from browser import chromium, console_errors, requests
from video_files import moving_square, write_video
from vidtune.errors import VideoError
from vidtune.evaluation.charts import Line, line_chart, ticks
from vidtune.evaluation.gallery import cards, choose, gallery_rows
from vidtune.evaluation.metrics import video_metrics
from vidtune.evaluation.page import report_page, share, write_page
from vidtune.evaluation.pictures import card_pictures
from vidtune.evaluation.scoring import Scores, split_metrics
from vidtune.evaluation.summary import classes, confusion, curves, scored_split
from vidtune.evaluation.thumbnails import MOST_BYTES, animated_thumbnail

EVIL = ["<script>alert(1)</script>", "\"quoted' & </script><b>", "x" * 80]
HISTORY = [
    {"loss": 1.5, "learning_rate": 0.001, "epoch": 1.0, "step": 10},
    {"eval_loss": 1.25, "eval_accuracy": 0.5, "eval_macro_f1": 0.4, "epoch": 1.0, "step": 10},
    {"loss": 0.5, "learning_rate": 0.0005, "epoch": 2.0, "step": 20},
    {"eval_loss": 0.75, "eval_accuracy": 0.75, "eval_macro_f1": 0.7, "epoch": 2.0, "step": 20},
]


def table(probabilities: list, truth: list, names: list[str], failed: tuple[int, ...] = ()) -> pa.Table:
    """Predictions of videos 0, 1, ... of the given true labels (names, or lists of them)."""
    several = isinstance(truth[0], list)
    predicted = [[name for name, p in zip(names, row, strict=True) if p > 0.5] for row in probabilities]
    if not several:
        predicted = [names[int(np.argmax(row))] for row in probabilities]
    kind = pa.list_(pa.string()) if several else pa.string()
    rows = range(len(truth))
    columns = {
        "video_id": pa.array([f"id{row}" for row in rows]),
        "path": pa.array([f"/data/test/some/{row}.mp4" for row in rows]),
        "group": pa.array([f"id{row}" for row in rows]),
        "label": pa.array(truth, kind),
        "prediction": pa.array([None if row in failed else predicted[row] for row in rows], kind),
        "probabilities": pa.array([None if row in failed else [*map(float, probabilities[row])] for row in rows]),
        "failed": pa.array([row in failed for row in rows]),
    }
    return pa.table(columns).replace_schema_metadata({"labels": json.dumps(names)})


def report(names: list[str], metrics: dict, **more: object) -> dict:
    """What a report holds, with these metrics of its test split."""
    return {
        "recipe": "finetune",
        "command": "python recipes/finetune.py --dataset <b>",
        "config": {"dataset": "<i>data</i>", "hub_model_id": None},
        "model": {"name_or_path": "</title><b>", "type": "videomae", "parameters": 12345, "newly_initialised": []},
        "labels": names,
        "clip": {"num_frames": 8},
        "data": {"test": {"videos": 9, "failed": [{"path": "/d/<img src=x>.mp4", "reason": "the file is empty"}]}},
        "metrics": {"test": metrics} if metrics else {},
        "history": HISTORY,
        "environment": {"hardware": "a CPU", "packages": {"torch": "2.9"}},
        "seconds": 60.0,
    } | more


def scored(seed: int, num_videos: int, names: list[str], skill: float = 2.0, several: bool = False) -> tuple:
    """A report and predictions of a model that guesses more or less well."""
    rng = np.random.default_rng(seed)
    logits, truth = rng.normal(size=(num_videos, len(names))), rng.integers(0, len(names), num_videos)
    logits[np.arange(num_videos), truth] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = [names[label] for label in truth]
    if several:
        truth = (rng.random((num_videos, len(names))) < 0.4).astype(int)
        probabilities = 1 / (1 + np.exp(2 - 4 * truth - rng.normal(size=truth.shape)))
        labels = [[name for name, one in zip(names, row, strict=True) if one] for row in truth]
    groups = [f"id{row}" for row in range(num_videos)]
    metrics = split_metrics(Scores(probabilities, truth, 0.5, 1.0), groups, names, 1.5)
    return report(names, metrics), table(probabilities.tolist(), labels, names)


@pytest.fixture(scope="module")
def webp(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_video(tmp_path_factory.mktemp("videos") / "a.mp4", moving_square(20, 60, 320))
    return animated_thumbnail({"video": {"path": str(path), "bytes": None}})


# Which videos


def test_the_gallery_has_confident_mistakes_uncertain_videos_and_some_of_each_cell():
    names = ["a", "b"]
    right = [0.95, 0.9, 0.85, 0.8, 0.75, 0.7]  # rows 0 to 5, all of a
    wrong = [0.4, 0.1, 0.3, 0.2]  # rows 6 to 9, of a, taken for b with 0.6, 0.9, 0.7, 0.8
    rows = [[p, 1 - p] for p in right + wrong] + [[0.45, 0.55], [0.5, 0.5]]  # of b, and a failed one
    predictions = table(rows, ["a"] * 10 + ["b", "b"], names, failed=(11,))
    gallery = choose(predictions, most=9)
    assert gallery.mistakes == [7, 9, 8]
    assert gallery.uncertain == [10, 6, 5]
    # cells of mistakes first: a taken for b has 7, 9, 8 which are shown; then a, a: 0, 1, 2; then b, b: 10
    assert gallery.examples == [0, 1, 2]
    assert gallery_rows(predictions, most=9) == [7, 9, 8, 10, 6, 5, 0, 1, 2]
    assert gallery_rows(predictions, most=7) == [7, 9, 10, 6, 0, 1, 8]
    assert len(gallery_rows(predictions)) == 11


def test_the_gallery_of_several_labels_goes_by_the_worst_label():
    names = ["a", "b"]
    rows = [[0.9, 0.2], [0.9, 0.9], [0.1, 0.6], [0.95, 0.55]]
    truth = [["a"], ["a"], ["a", "b"], ["a", "b"]]  # right, b wrong by 0.9, a wrong by 0.9 and b right, right
    gallery = choose(table(rows, truth, names))
    assert gallery.mistakes == [1, 2]
    assert gallery.uncertain == [3, 2, 0, 1]  # 0.05, 0.1, 0.3 and 0.4 from 0.5
    shown = cards(table(rows, truth, names), {"id1": b"webp"})
    assert [card["right"] for card in shown] == [False, False, True, True]
    assert shown[0]["predicted"] == [("a", 0.9), ("b", 0.9)] and shown[0]["true"] == [("a", 0.9)]
    assert shown[0]["image"] == "data:image/webp;base64,d2VicA==" and shown[1]["image"] is None
    assert [card["cell"] for card in shown] == [None] * 4


def test_a_card_has_labels_probabilities_cell_and_a_short_path():
    predictions = table([[0.25, 0.75], [0.9, 0.1]], ["a", "a"], ["a", "b"])
    wrong, right = cards(predictions, {})
    assert wrong == {
        "path": "0.mp4",
        "right": False,
        "true": [("a", 0.25)],
        "predicted": [("b", 0.75)],
        "cell": (0, 1),
        "mistake": 0,
        "uncertain": 0,
        "image": None,
    }
    assert right["cell"] == (0, 0) and right["mistake"] is None and right["uncertain"] == 1


def test_the_gallery_of_failed_videos_is_empty():
    assert gallery_rows(table([[0.5, 0.5]], ["a"], ["a", "b"], failed=(0,))) == []


# Numbers and charts


def test_labels_are_listed_worst_first_and_those_without_videos_last():
    metrics = video_metrics(np.eye(3)[[0, 1, 1]], np.array([0, 0, 1]), ["a", "b", "c"])
    assert [row["name"] for row in classes(metrics)] == ["a", "b", "c"]
    assert [row["support"] for row in classes(metrics)] == [2, 1, 0]


def test_of_many_labels_those_with_the_most_mistakes_are_shown():
    matrix = np.diag([5] * 50)
    matrix[7, 3], matrix[45, 46] = 2, 9
    found = confusion({"confusion_matrix": matrix.tolist()}, [str(label) for label in range(50)])
    assert found["most"] == [(9, 45, 46), (2, 7, 3)]
    assert found["mistakes"] == 11
    assert len(found["shown"]) == 40 and {3, 7, 45, 46} <= set(found["shown"])
    assert found["shown"] == sorted(found["shown"])


def test_curves_come_from_the_log():
    drawn = curves([*HISTORY, {"train_runtime": 3.0, "epoch": 2.0}])
    assert [line.points for line in drawn["Loss"]] == [[(1.0, 1.5), (2.0, 0.5)], [(1.0, 1.25), (2.0, 0.75)]]
    assert [line.name for line in drawn["Scores on validation"]] == ["accuracy", "macro F1"]
    assert drawn["Learning rate"][0].points == [(1.0, 0.001), (2.0, 0.0005)]
    many = [{"loss": 1.0, "epoch": step / 10} for step in range(1001)]
    assert 100 <= len(curves(many)["Loss"][0].points) <= 200
    assert curves(HISTORY[:1]) == curves([]) == {}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 12, [0, 5, 10, 15]), (3, 3, [3, 4, 5, 6]), (0.91, 0.99, None)],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
    found = ticks(low, high)
    assert expected is None or found == expected
    assert 2 <= len(found) <= 7 and found[0] <= low and found[-1] >= high


def test_a_chart_puts_points_where_they_belong():
    chart = line_chart([Line("<a>", [(0, 0), (1, 1)], ["<b>", ""])], "x", "y", x_range=(0, 1), y_range=(0, 1))
    assert '<polyline points="44.0 182.0 340.0 10.0"/>' in chart
    assert "&lt;a&gt;" in chart and "&lt;b&gt;" in chart and "<a>" not in chart


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "50.0\u202f%"), (1.0, "100\u202f%"), (0.9996, "100\u202f%"), (None, "-")]
)
def test_shares_are_written_as_percentages(value, text):
    assert share(value) == text


def test_the_page_is_about_the_test_split_if_there_is_one():
    assert scored_split({"metrics": {"validation": {}, "test": {}}}) == "test"
    assert scored_split({"metrics": {"train": {}, "validation": {}}}) == "validation"
    assert scored_split({"metrics": {"pooled": {}}}) == "pooled"
    assert scored_split({"metrics": {}}) == ""


# The page, as text


def test_labels_and_paths_are_escaped():
    page = report_page(*scored(0, 12, EVIL, skill=0.0), {})
    assert page.count("<script>") == page.count("</script>") == 1
    for text in ("<script>alert", "</script><b>", "</title><b>", "<img src", "<i>data", "--dataset <b>", "\"quoted'"):
        assert text not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 3


def test_secrets_and_the_home_folder_are_taken_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    result, predictions = scored(0, 4, ["a", "b"])
    result["command"] = f"python x.py --dataset /home/someone/videos --token hf_{'a' * 34}"
    page = report_page(result, predictions, {})
    assert "someone" not in page and "hf_a" not in page and "~/videos" in page


@pytest.mark.parametrize("metrics", [{}, video_metrics(np.zeros((2, 2)), np.array([-100, -100]), ["a", "b"])])
def test_a_report_without_scores_has_a_page(metrics):
    page = report_page(report(["a", "b"], metrics, history=[]), None, {})
    assert "No video was scored." in page and "the file is empty" in page
    assert card_pictures(report(["a", "b"], metrics, history=[])) == {}


def test_a_page_of_pooled_predictions_has_cards_without_pictures():
    result, predictions = scored(1, 12, ["a", "b"], skill=0.5)
    result |= {"model": {}, "clip": {}, "history": [], "config": {"dataset": None}, "recipe": "evaluate"}
    page = report_page(result, predictions, {})
    assert "no picture" in page and "data-of=" in page and "data:image/webp" not in page


def test_what_one_group_leaves_unknown_is_left_out():
    result, predictions = scored(2, 6, ["a", "b"])
    result["metrics"]["test"] |= {
        "intervals": {"accuracy": None, "macro_f1": None},
        "calibration": None,
        "coverage": [],
    }
    result["shortcuts"] = {"normal": {"accuracy": 0.5, "interval": None}, "conclusion": "All videos are of one group."}
    result["comparison"] = {"with": "<u>", "videos": 6, "difference": -0.25, "interval": None, "p_value": None}
    page = report_page(result, predictions, {})
    assert "-25.0 points" in page and "&lt;u&gt;" in page and "All videos are of one group." in page


def test_a_page_of_many_videos_stays_below_5_megabytes():
    names = [f"label {number}" for number in range(400)]
    result, predictions = scored(3, 1000, names, skill=3.0)
    thumbnails = {f"id{row}": bytes(MOST_BYTES) for row in range(1000)}
    page = report_page(result, predictions, thumbnails)
    assert page.count("data:image/webp;base64,") == 60
    assert len(page.encode()) < 5_000_000


# Pictures


def test_a_thumbnail_moves_and_is_small(webp):
    with Image.open(io.BytesIO(webp)) as picture:
        assert picture.format == "WEBP" and picture.n_frames == 10
        assert picture.size == (240, 45)
        first = np.asarray(picture.convert("RGB")).astype(int)
        picture.seek(9)
        last = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(last - first).max() > 50
    assert len(webp) <= MOST_BYTES


def test_a_thumbnail_shows_the_span_of_its_row(tmp_path):
    frames = np.zeros((20, 32, 32, 3), np.uint8)
    frames[10:] = 255
    path = write_video(tmp_path / "a.mp4", frames, fps=10)
    row = {"video": {"path": str(path), "bytes": None}, "start_seconds": 1.0, "end_seconds": 2.0}
    with Image.open(io.BytesIO(animated_thumbnail(row))) as picture:
        assert np.asarray(picture.convert("RGB")).min() > 200


def test_noise_becomes_a_thumbnail_within_the_limit(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (10, 360, 480, 3), dtype=np.uint8)
    path = write_video(tmp_path / "a.mp4", frames, options={"qp": "20"})
    assert len(animated_thumbnail({"video": {"path": None, "bytes": path.read_bytes()}})) <= MOST_BYTES


def test_a_video_that_can_not_be_decoded_has_no_thumbnail(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nothing")
    row = {"video": {"path": str(tmp_path / "a.mp4"), "bytes": None}, "video_id": "id0"}
    with pytest.raises(VideoError):
        animated_thumbnail(row)
    result, predictions = scored(1, 1, ["a", "b"])
    write_page(tmp_path, result, predictions, [row])
    assert "no picture" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "report.html"}


def test_pictures_of_a_card():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a label in another script or in TeX's signs is no reason to warn
        pictures = card_pictures(scored(0, 12, ["$x_{$", "走路", "x" * 80])[0])
    assert list(pictures) == ["curves.png", "per_class.png", "confusion.png"]
    for content in pictures.values():
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "PNG" and min(picture.size) > 100
    assert list(card_pictures(scored(0, 12, ["a", "b"], several=True)[0])) == ["curves.png", "per_class.png"]
    assert list(card_pictures(scored(0, 99, [str(label) for label in range(41)])[0])) == ["curves.png"]


# The page, in a browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


def visit(browser, tmp_path: Path, page: str, width: int = 1200) -> None:
    """Open a page as a window, or a phone, so many pixels wide shows it."""
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    device = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    requests(browser), console_errors(browser)
    browser.get(f"file://{quote(str(tmp_path / 'report.html'))}")
    browser.execute_script("document.documentElement.style.scrollBehavior = 'auto'")  # a click waits for no scrolling


def visible(browser) -> list[str]:
    """Paths on the cards of the gallery that are shown, in order."""
    script = "return [...document.querySelectorAll('#gallery li:not([hidden]) .path')].map(path => path.textContent)"
    return browser.execute_script(script)


def find(browser, selector: str):
    return browser.find_element("css selector", selector)


@pytest.mark.slow
def test_a_click_on_a_confusion_filters_the_gallery(browser, tmp_path, webp):
    names = ["<b>a</b>", "b"]
    chances = [0.9, 0.8, 0.3, 0.2, 0.7, 0.4]
    predictions = table([[p, 1 - p] for p in chances], [names[0]] * 4 + [names[1]] * 2, names)
    probabilities = np.array([[p, 1 - p] for p in chances])
    result = report(names, video_metrics(probabilities, np.array([0, 0, 0, 0, 1, 1]), names))
    visit(browser, tmp_path, report_page(result, predictions, {f"id{row}": webp for row in range(6)}))
    assert visible(browser) == ["3.mp4", "2.mp4", "4.mp4"]  # wrong with 0.8, 0.7 and 0.7
    find(browser, ".matrix [data-cell='0-1']").click()
    assert sorted(visible(browser)) == ["2.mp4", "3.mp4"]
    assert find(browser, "#status").text == "2 of 2 videos"
    chip = find(browser, "#chip")
    assert chip.text.startswith("<b>a</b> → b") and chip.is_displayed()
    assert browser.switch_to.active_element == chip
    chip.send_keys("\n")  # by keyboard
    assert not chip.is_displayed() and visible(browser) == ["3.mp4", "2.mp4", "4.mp4"]
    cell = find(browser, ".matrix [data-cell='1-0']")
    assert cell.get_attribute("aria-label") == "true b, predicted <b>a</b>: 1 video"
    cell.send_keys(" ")
    assert visible(browser) == ["4.mp4"] and cell.get_attribute("aria-pressed") == "true"
    find(browser, "[data-view='uncertain']").click()
    assert visible(browser)[0] == "5.mp4" and len(visible(browser)) == 6
    assert requests(browser) == [f"file://{quote(str(tmp_path / 'report.html'))}"]
    assert console_errors(browser) == []


@pytest.mark.slow
def test_pictures_play_and_pause(browser, tmp_path, webp):
    result, predictions = scored(0, 12, ["a", "b"], skill=0.0)
    visit(browser, tmp_path, report_page(result, predictions, {f"id{row}": webp for row in range(12)}))
    browser.execute_script("document.getElementById('videos').scrollIntoView()")
    wait_for(browser, "document.querySelector('#gallery li:not([hidden]) img').naturalWidth === 240")
    find(browser, "#motion").click()
    wait_for(browser, "document.querySelector('#gallery li:not([hidden]) img').src.startsWith('data:image/png')")
    assert find(browser, "#motion").text == "Play pictures"
    find(browser, "#motion").click()
    wait_for(browser, "document.querySelector('#gallery li:not([hidden]) img').src.startsWith('data:image/webp')")
    assert console_errors(browser) == []


def wait_for(browser, condition: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(f"return {condition}"))


@pytest.mark.slow
def test_light_and_dark(browser, tmp_path):
    def background() -> int:
        script = "return getComputedStyle(document.body).backgroundColor"
        return sum(int(number) for number in re.findall(r"\d+", browser.execute_script(script))[:3])

    for scheme, is_dark in (("light", False), ("dark", True)):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        visit(browser, tmp_path, report_page(*scored(0, 12, ["a", "b"]), {}))
        assert (background() < 150) == is_dark
        find(browser, "#theme").click()
        assert (background() < 150) != is_dark
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.slow
@pytest.mark.parametrize("names", [["a", "b"], EVIL, [f"a label of number {number}" for number in range(101)]])
def test_a_phone_needs_no_scrolling_to_the_side(browser, tmp_path, names):
    result, predictions = scored(0, 150, names)
    result["shortcuts"] = {"normal": {"accuracy": 0.5, "interval": [0.25, 0.75]}, "conclusion": "x"}
    result["comparison"] = {"with": "y" * 90, "videos": 9, "difference": 0.1, "interval": [-0.1, 0.3], "p_value": 0.4}
    result["data"]["test"]["failed"] *= 101
    visit(browser, tmp_path, report_page(result, predictions, {}), width=360)
    sizes = "return [document.documentElement.scrollWidth, window.innerWidth]"
    assert browser.execute_script(sizes) == [360, 360]
    assert console_errors(browser) == []


# The recipe


@pytest.mark.slow
def test_finetune_writes_page_and_pictures(tmp_path):
    from run_recipe import finetune
    from video_files import write_folder_dataset

    write_folder_dataset(tmp_path / "videos", ["red", "blue"], 8)
    finetune(dataset=tmp_path / "videos", output_dir=tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "data:image/webp;base64," in page and "What is taken for what" in page
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "[report.html](report.html)" in card
    for name in ("curves.png", "per_class.png", "confusion.png"):
        assert f"]({name})" in card and (tmp_path / "run" / name).stat().st_size > 1000
