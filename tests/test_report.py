import json
import subprocess

import numpy as np
import pytest

from vidtune.evaluation import report as report_module
from vidtune.evaluation.report import commit, cpu_name, environment, print_summary, to_json


def scores(**values):
    return {"videos": 10, "failed": 0, "accuracy": 0.5, "top5_accuracy": None, "macro_f1": 0.25} | values


def finished(**values):
    return {
        "metrics": {"validation": scores(), "test": scores(failed=7, accuracy=0.875, top5_accuracy=1.0)},
        "throughput": {
            "train_videos_per_second": 12.34,
            "validation_videos_per_second": 98.0,
            "test_videos_per_second": 99.0,
        },
        "seconds": 61.4,
        "data": {"train": {"videos": 20, "failed": []}},
    } | values


def test_the_environment_tells_versions_hardware_and_commit():
    found = environment(processes=2, precision="bf16", decoder="pyav")
    assert set(found) == set("python platform hardware processes precision decoder packages commit".split())
    assert (found["processes"], found["precision"], found["decoder"]) == (2, "bf16", "pyav")
    assert cpu_name() in found["hardware"] and found["hardware"].endswith(" cores")
    assert all(found["packages"][name] for name in ("torch", "transformers", "datasets", "accelerate", "evaluate"))
    json.loads(to_json(found))


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(report_module, "PACKAGES", ["torch", "no-such-package"])
    packages = environment()["packages"]
    assert packages["torch"] and packages["no-such-package"] is None


def test_the_processor_has_a_name_where_linux_does_not_tell_it(monkeypatch):
    def missing(*_, **__):
        raise OSError

    monkeypatch.setattr(report_module.Path, "read_text", missing)
    assert cpu_name()


@pytest.mark.parametrize("change", [False, True])
def test_the_commit_is_that_of_the_checkout_and_says_whether_files_differ(tmp_path, monkeypatch, change):
    source = tmp_path / "src" / "vidtune" / "evaluation" / "report.py"
    source.parent.mkdir(parents=True)
    source.write_text("")
    monkeypatch.setattr(report_module, "__file__", str(source))
    assert commit() is None  # no checkout

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, "-C", str(tmp_path), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet")
    assert commit() is None  # no commit yet
    git("add", ".")
    git("commit", "--quiet", "-m", "First")
    if change:
        source.write_text("changed")
    assert commit() == git("rev-parse", "HEAD") + ("-dirty" if change else "")


def test_a_report_comes_back_from_its_json():
    report = {
        "text": 'é, [ 1,\n 2 ] and "quotes"',
        "numbers": [1, 2.5, -3e-07],
        "nested": [{"a": [True, None]}],
        "": {},
    }
    assert json.loads(to_json(report)) == report


def test_numbers_of_an_array_share_a_line_and_texts_do_not():
    lines = to_json({"confusion_matrix": [[1, 0], [2, 30]], "labels": ["[ a", "b ]"], "empty": []}).splitlines()
    assert [line.strip() for line in lines] == [
        "{",
        '"confusion_matrix": [',
        "[1, 0],",
        "[2, 30]",
        "],",
        '"labels": [',
        '"[ a",',
        '"b ]"',
        "],",
        '"empty": []',
        "}",
    ]


def test_what_is_not_a_number_becomes_null():
    report = {"loss": float("nan"), "history": [{"grad_norm": float("inf")}, {"values": (1.0, -float("inf"))}]}

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(to_json(report), parse_constant=refuse)
    assert found == {"loss": None, "history": [{"grad_norm": None}, {"values": [1.0, None]}]}


def test_numbers_of_numpy_stay_numbers():
    report = {
        "a": np.float32(0.5),
        "b": np.int64(3),
        "c": np.array([[1, 2]]),
        "d": np.float64("nan"),
        "e": np.bool_(True),
    }
    assert json.loads(to_json(report)) == {"a": 0.5, "b": 3, "c": [[1, 2]], "d": None, "e": True}


def test_what_json_does_not_know_is_written_as_text(tmp_path):
    assert json.loads(to_json({"path": tmp_path})) == {"path": str(tmp_path)}


def test_the_summary_shows_scores_speed_and_what_to_do_next(tmp_path, capsys):
    print_summary(finished(), tmp_path, "python recipes/predict.py --model [run]")
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.strip()}
    assert rows["validation"] == ["10", "0", "0.500", "0.250", "98"]
    assert rows["test"] == ["10", "7", "0.875", "1.000", "0.250", "99"]
    assert "trained at 12.3 videos/s, 61 s in all" in printed
    assert f"saved:     {tmp_path}\n" in printed
    assert "predict:   python recipes/predict.py --model [run]\n" in printed
    assert "left out" not in printed


def test_the_summary_of_several_labels_a_video_shows_their_mean_average_precision(tmp_path, capsys):
    metrics = {"test": scores(mean_average_precision=0.625)}
    print_summary(finished(metrics=metrics), tmp_path, "predict")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["split", "videos", "failed", "accuracy", "mAP", "macro", "F1", "videos/s"] in rows  # no empty column
    assert ["test", "10", "0", "0.500", "0.625", "0.250", "99"] in rows


def test_the_summary_names_the_first_five_videos_that_were_left_out(tmp_path, capsys):
    failed = [{"path": f"/videos/[{index}].mp4", "reason": "the file is empty"} for index in range(7)]
    print_summary(finished(data={"train": {"videos": 20, "failed": failed}}), tmp_path, "predict")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out of train")]
    assert lines[0] == "left out of train: /videos/[0].mp4: the file is empty"
    assert len(lines) == 6 and lines[5] == "left out of train: 2 more, see report.json"


def test_the_summary_leaves_scores_empty_that_there_are_none_of(tmp_path, capsys):
    empty = scores(videos=0, failed=3, accuracy=None, macro_f1=None)
    print_summary(finished(metrics={"test": empty}), tmp_path, "predict")
    assert ["test", "0", "3", "99"] in [line.split() for line in capsys.readouterr().out.splitlines()]
