"""UCF101, HMDB51, Kinetics and Something-Something v2: small trees in the exact format of their authors."""

import json
import logging
from pathlib import Path

import pytest

from source_checks import assert_rows, one_line_error, split_and_label, touch, write
from vidtune.data.sources import load_videos
from vidtune.data.splits import check_groups

# UCF101: videos from UCF101.rar, lists from UCF101TrainTestSplits-RecognitionTask.zip

UCF101_VIDEOS = [
    f"UCF-101/{folder}/v_{name}_g{group:02}_c{clip:02}.avi"
    for folder, name in (("ApplyEyeMakeup", "ApplyEyeMakeup"), ("HandstandPushups", "HandStandPushups"))
    for group, clip in ((1, 1), (1, 2), (8, 1), (25, 7))
]
UCF101_LISTS = {
    "classInd.txt": "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n",
    "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g25_c07.avi 1\r\n"
    "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\nHandstandPushups/v_HandStandPushups_g25_c07.avi 2\r\n",
    "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\r\nApplyEyeMakeup/v_ApplyEyeMakeup_g01_c02.avi\r\n"
    "HandstandPushups/v_HandStandPushups_g01_c01.avi\r\nHandstandPushups/v_HandStandPushups_g01_c02.avi\r\n",
    "trainlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n"
    "HandstandPushups/v_HandStandPushups_g01_c01.avi 2\n",
    "testlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi\n",
}


def ucf101(root: Path, lists: str = "ucfTrainTestlist") -> Path:
    for name, text in UCF101_LISTS.items():
        write(root / lists / name, text)
    return touch(root, *UCF101_VIDEOS)


@pytest.mark.parametrize("lists", ["ucfTrainTestlist", ".", "UCF-101"])
@pytest.mark.parametrize("dataset_format", ["auto", "ucf101"])
def test_ucf101(tmp_path: Path, lists: str, dataset_format: str) -> None:
    videos = load_videos(str(ucf101(tmp_path, lists)), dataset_format)
    assert_rows(videos, ["ApplyEyeMakeup", "HandstandPushups"])
    assert split_and_label(videos) == {
        "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi": ("train", "ApplyEyeMakeup"),
        "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g25_c07.avi": ("train", "ApplyEyeMakeup"),
        "UCF-101/HandstandPushups/v_HandStandPushups_g08_c01.avi": ("train", "HandstandPushups"),
        "UCF-101/HandstandPushups/v_HandStandPushups_g25_c07.avi": ("train", "HandstandPushups"),
        "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi": ("test", "ApplyEyeMakeup"),
        "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c02.avi": ("test", "ApplyEyeMakeup"),
        "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi": ("test", "HandstandPushups"),
        "UCF-101/HandstandPushups/v_HandStandPushups_g01_c02.avi": ("test", "HandstandPushups"),
    }
    assert list(videos["test"]["group"]) == ["v_ApplyEyeMakeup_g01"] * 2 + ["v_HandStandPushups_g01"] * 2
    assert videos["train"][0]["video"]["path"] == str(tmp_path / UCF101_VIDEOS[2])
    check_groups(videos)


def test_the_second_split_of_ucf101_and_what_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos = load_videos(str(ucf101(tmp_path)), split_number=2)
    assert [len(part) for part in videos.values()] == [2, 1]
    assert list(videos["test"]["video_id"]) == ["UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"]
    (left_out,) = caplog.messages
    assert (
        "left out 5 files that no list names (.avi 5), UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c02.avi" in left_out
    )


def test_a_converted_copy_of_ucf101_without_its_outer_folder(tmp_path: Path) -> None:
    ucf101(tmp_path)
    for path in tmp_path.rglob("*.avi"):
        path.rename(path.with_suffix(".mp4"))
    assert "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.mp4" in split_and_label(load_videos(str(tmp_path)))
    (tmp_path / "UCF-101").rename(tmp_path / "videos")
    assert "videos/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.mp4" in split_and_label(load_videos(str(tmp_path)))


@pytest.mark.parametrize("name", ["classInd.txt", "trainlist01.txt", "testlist01.txt"])
def test_ucf101_without_a_list(tmp_path: Path, name: str) -> None:
    (ucf101(tmp_path) / "ucfTrainTestlist" / name).unlink()
    with one_line_error(f"{tmp_path}: has no {name}, which dataset_format: ucf101 needs", "add it"):
        load_videos(str(tmp_path), "ucf101")


def test_ucf101_without_some_videos(tmp_path: Path) -> None:
    for name in UCF101_VIDEOS[-2:]:
        (ucf101(tmp_path) / name).unlink()
    with one_line_error(
        "trainlist01.txt: line 4: HandstandPushups/v_HandStandPushups_g25_c07 is not in", "fetch what is missing"
    ):
        load_videos(str(tmp_path))
    (tmp_path / UCF101_VIDEOS[-2]).unlink()
    with one_line_error("line 3: HandstandPushups/v_HandStandPushups_g08_c01 is not in", "(and 1 more)"):
        load_videos(str(tmp_path))


def test_ucf101_with_two_copies_of_a_video(tmp_path: Path) -> None:
    touch(ucf101(tmp_path), "small/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.mp4")
    with one_line_error("UCF-101/ApplyEyeMakeup", "small/ApplyEyeMakeup", "are the same video; keep one of them"):
        load_videos(str(tmp_path))


def test_a_list_of_ucf101_with_a_foreign_class(tmp_path: Path) -> None:
    write(ucf101(tmp_path) / "ucfTrainTestlist" / "testlist01.txt", "Yoga/v_Yoga_g01_c01.avi\n")
    with one_line_error("testlist01.txt: line 1: class 'Yoga' is not in classInd.txt"):
        load_videos(str(tmp_path))


# HMDB51: hmdb51_org.rar, test_train_splits.rar

HMDB51_LISTS = {
    "brush_hair": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \nApril_09_brush_hair_u_nm_np1_ba_goo_1.avi 1 \n"
    "brushing_hair_2_brush_hair_h_nm_np1_ba_med_0.avi 2 \nred_head_brush_hair_u_cm_np1_ba_goo_0.avi 0 \n",
    "kick": "American_History_X_kick_f_nm_np1_le_bad_37.avi 1 \nThe_Matrix_6_kick_f_nm_np1_fr_med_6.avi 2 \n",
    "run": "American_History_X_run_f_cm_np1_le_med_17.avi 2 \n"
    "metacafe_coolsoccer_run_f_cm_np10_le_bad_2.avi 1 \nBrushing_Her_Hair__[_NEW_AUDIO_]_UPDATED!!!!.avi 1 \n",
}


def hmdb51(root: Path) -> Path:
    for label, text in HMDB51_LISTS.items():
        write(root / "testTrainMulti_7030_splits" / f"{label}_test_split1.txt", text)
        touch(root, *(f"hmdb51_org/{label}/{line.split()[0]}" for line in text.splitlines()))
    return root


@pytest.mark.parametrize("dataset_format", ["auto", "hmdb51"])
def test_hmdb51(tmp_path: Path, dataset_format: str, caplog: pytest.LogCaptureFixture) -> None:
    videos = load_videos(str(hmdb51(tmp_path)), dataset_format)
    assert_rows(videos, ["brush_hair", "kick", "run"])
    folder = "hmdb51_org"
    assert split_and_label(videos) == {
        f"{folder}/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi": ("train", "brush_hair"),
        f"{folder}/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_1.avi": ("train", "brush_hair"),
        f"{folder}/kick/American_History_X_kick_f_nm_np1_le_bad_37.avi": ("train", "kick"),
        f"{folder}/run/metacafe_coolsoccer_run_f_cm_np10_le_bad_2.avi": ("train", "run"),
        f"{folder}/run/Brushing_Her_Hair__[_NEW_AUDIO_]_UPDATED!!!!.avi": ("train", "run"),
        f"{folder}/brush_hair/brushing_hair_2_brush_hair_h_nm_np1_ba_med_0.avi": ("test", "brush_hair"),
        f"{folder}/kick/The_Matrix_6_kick_f_nm_np1_fr_med_6.avi": ("test", "kick"),
        f"{folder}/run/American_History_X_run_f_cm_np1_le_med_17.avi": ("test", "run"),
    }
    assert [sorted(set(part["group"])) for part in videos.values()] == [
        [
            "brush_hair/April_09",
            "kick/American_History_X",
            "run/Brushing_Her_Hair__[_NEW_AUDIO_]_UPDATED!!!!",
            "run/metacafe_coolsoccer",
        ],
        ["brush_hair/brushing_hair_2", "kick/The_Matrix_6", "run/American_History_X"],
    ]
    check_groups(videos)
    (left_out,) = caplog.messages
    assert "left out 1 files that no list names" in left_out and "red_head" in left_out


def test_hmdb51_without_the_split_that_is_asked_for(tmp_path: Path) -> None:
    with one_line_error("has no <class>_test_split3.txt, which dataset_format: hmdb51 needs"):
        load_videos(str(hmdb51(tmp_path)), split_number=3)


@pytest.mark.parametrize("line", ["x.avi", "x.avi 3", "1"])
def test_a_line_of_hmdb51_that_is_none(tmp_path: Path, line: str) -> None:
    write(hmdb51(tmp_path) / "testTrainMulti_7030_splits" / "run_test_split1.txt", f"{line}\n")
    with one_line_error(f"run_test_split1.txt: line 1: '{line}'; write the name of a video, and 0, 1 or 2"):
        load_videos(str(tmp_path))


# Kinetics: the annotations of DeepMind, the videos as the ActivityNet crawler and CVDF name them

K400_TRAIN = """label,youtube_id,time_start,time_end,split
testifying,---QUuC4vJs,84,94,train
eating spaghetti,--3ouPhoy2A,20,30,train
"pushing car",-0kMHFs8aLE,3,13,train
testifying,gone_gone__,9,19,train
"""
K400_VAL = """label,youtube_id,time_start,time_end,split
testifying,0wR5jVB-WPk,417,427,validate
eating spaghetti,gone2gone2_,0,10,validate
"""
K400_TEST = "youtube_id,time_start,time_end,split\n--6bJUbfpnQ,17,27,test\nabcdefghijk,0,10,test\n"
K400_VIDEOS = [
    "train/---QUuC4vJs_000084_000094.mp4",
    "train/--3ouPhoy2A_000020_000030.mp4",
    "train/-0kMHFs8aLE_000003_000013.mp4",
    "val/0wR5jVB-WPk_000417_000427.mp4",
    "test/--6bJUbfpnQ_000017_000027.mp4",
]


def kinetics(root: Path, videos: list[str]) -> Path:
    for name, text in {"train.csv": K400_TRAIN, "val.csv": K400_VAL, "test.csv": K400_TEST}.items():
        write(root / "annotations" / name, text)
    return touch(root, *videos)


@pytest.mark.parametrize("dataset_format", ["auto", "kinetics"])
def test_kinetics_cut_into_clips(tmp_path: Path, dataset_format: str, caplog: pytest.LogCaptureFixture) -> None:
    videos = load_videos(str(kinetics(tmp_path, K400_VIDEOS)), dataset_format)
    assert_rows(videos, ["eating spaghetti", "pushing car", "testifying"])
    assert split_and_label(videos) == {
        "train/---QUuC4vJs_000084_000094.mp4": ("train", "testifying"),
        "train/--3ouPhoy2A_000020_000030.mp4": ("train", "eating spaghetti"),
        "train/-0kMHFs8aLE_000003_000013.mp4": ("train", "pushing car"),
        "val/0wR5jVB-WPk_000417_000427.mp4": ("validation", "testifying"),
    }
    assert list(videos["train"]["group"]) == ["---QUuC4vJs", "--3ouPhoy2A", "-0kMHFs8aLE"]
    assert set(videos["train"]["start_seconds"]) == {None}
    missing, unlabelled, unlisted = caplog.messages
    assert "left out 2 videos that are not there, gone_gone___000009_000019 first" in missing
    assert "left out 2 videos that have no label, --6bJUbfpnQ_000017_000027 first" in unlabelled
    assert "left out 1 files that no list names (.mp4 1), test/--6bJUbfpnQ_000017_000027.mp4 first" in unlisted


def test_kinetics_in_folders_of_classes_and_as_whole_uploads(tmp_path: Path) -> None:
    names = ["testifying/---QUuC4vJs_000084_000094.mp4", "whole/--3ouPhoy2A.webm", "-0kMHFs8aLE.mkv"]
    videos = load_videos(str(kinetics(tmp_path, [*names, "0wR5jVB-WPk.mp4"])))
    assert [(row["video_id"], row["start_seconds"], row["end_seconds"]) for row in videos["train"]] == [
        ("testifying/---QUuC4vJs_000084_000094.mp4", None, None),
        ("whole/--3ouPhoy2A.webm#20-30", 20.0, 30.0),
        ("-0kMHFs8aLE.mkv#3-13", 3.0, 13.0),
    ]
    assert videos["validation"][0]["video"]["path"] == str(tmp_path / "0wR5jVB-WPk.mp4")


def test_kinetics_without_a_column_for_the_split(tmp_path: Path) -> None:
    text = "label,youtube_id,time_start,time_end\n{},{},1.0,11.0\n{},{},0.5,10.5\n"
    write(tmp_path / "kinetics_train.csv", text.format("a", "aaaaaaaaaaa", "b", "bbbbbbbbbbb"))
    write(tmp_path / "kinetics_val.csv", text.format("a", "ccccccccccc", "b", "ddddddddddd"))
    touch(tmp_path, *(f"{letter * 11}_00000{start}_0000{end}.mp4" for letter, start, end in
                      (("a", 1, 11), ("b", 0, 10), ("c", 1, 11), ("d", 0, 10))))  # fmt: skip
    assert [(split, len(part)) for split, part in load_videos(str(tmp_path)).items()] == [
        ("train", 2),
        ("validation", 2),
    ]


def test_kinetics_without_videos_or_annotations(tmp_path: Path) -> None:
    with one_line_error("holds none of the 6 videos of its csv files; fetch them"):
        load_videos(str(kinetics(tmp_path, [])))
    touch(tmp_path / "other", "a/1.mp4")
    with one_line_error("has no csv file of a split with columns label, youtube_id, time_start, time_end"):
        load_videos(str(tmp_path / "other"), "kinetics")


def test_kinetics_with_a_time_that_is_none(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "label,youtube_id,time_start,time_end,split\na,aaaaaaaaaaa,soon,later,train\n")
    with one_line_error("train.csv: row 1: time_start or time_end is no number"):
        load_videos(str(tmp_path))


# Something-Something v2: the labels of Qualcomm's download package, and webm files of numbers

SSV2_LABELS = {"Putting something on a surface": "0", "Pretending to put something behind something": "1"}
SSV2_TRAIN = [
    {
        "id": "78687",
        "label": "putting potato on a table",
        "template": "Putting [something] on a surface",
        "placeholders": ["potato"],
    },
    {
        "id": "42326",
        "label": "pretending to put a cup behind a box",
        "template": "Pretending to put [something] behind [something]",
        "placeholders": ["a cup", "a box"],
    },
]
SSV2_VALIDATION = [{**SSV2_TRAIN[0], "id": "74225"}]
SSV2_TEST = [{"id": "1420"}, {"id": "3959"}]


def ssv2(root: Path, prefix: str = "") -> Path:
    for name, content in {
        "labels": SSV2_LABELS,
        "train": SSV2_TRAIN,
        "validation": SSV2_VALIDATION,
        "test": SSV2_TEST,
    }.items():
        write(root / "labels" / f"{prefix}{name}.json", json.dumps(content))
    return touch(root, *(f"20bn-something-something-v2/{name}.webm" for name in (78687, 42326, 74225, 1420, 3959)))


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
@pytest.mark.parametrize("dataset_format", ["auto", "ssv2"])
def test_something_something_v2(
    tmp_path: Path, prefix: str, dataset_format: str, caplog: pytest.LogCaptureFixture
) -> None:
    videos = load_videos(str(ssv2(tmp_path, prefix)), dataset_format)
    assert_rows(videos, ["Pretending to put something behind something", "Putting something on a surface"])
    assert split_and_label(videos) == {
        "20bn-something-something-v2/78687.webm": ("train", "Putting something on a surface"),
        "20bn-something-something-v2/42326.webm": ("train", "Pretending to put something behind something"),
        "20bn-something-something-v2/74225.webm": ("validation", "Putting something on a surface"),
    }
    unlabelled, unlisted = caplog.messages
    assert "left out 2 videos that have no label (test-answers.csv would tell it), 1420 first" in unlabelled
    assert "left out 2 files that no list names (.webm 2)" in unlisted


def test_the_answers_of_something_something_v2(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers = "1420;Pretending to put something behind something\n3959;Putting something on a surface\n"
    write(ssv2(tmp_path) / "labels" / "test-answers.csv", answers)
    found = split_and_label(load_videos(str(tmp_path)))
    assert found["20bn-something-something-v2/1420.webm"] == (
        "test",
        "Pretending to put something behind something",
    )
    assert not caplog.messages


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "train.json",
            json.dumps([{**SSV2_TRAIN[0], "template": "Eating [something]"}]),
            ["id 78687", "'Eating someth"],
        ),
        ("train.json", json.dumps([{**SSV2_TRAIN[0], "id": "5"}]), ["train.json: id 5: 5 is not in"]),
        ("train.json", "[", ["train.json: is no JSON"]),
        ("train.json", "[3]", ["train.json: 3 has no id"]),
        ("labels.json", None, ["has no labels.json, which dataset_format: ssv2 needs"]),
        ("train.json", None, ["has no train.json, which dataset_format: ssv2 needs"]),
    ],
)
def test_something_something_v2_that_is_damaged(tmp_path: Path, name: str, text: str | None, words: list[str]) -> None:
    path = ssv2(tmp_path) / "labels" / name
    path.unlink() if text is None else path.write_text(text)
    with one_line_error(*words):
        load_videos(str(tmp_path), "ssv2")


def test_a_set_of_labels_as_a_list_is_refused_in_one_line(tmp_path: Path) -> None:
    (ssv2(tmp_path) / "labels" / "train.json").write_bytes(b"\xff\xfe\x00")
    with one_line_error("train.json: is no UTF-8"):
        load_videos(str(tmp_path))


def test_no_warning_where_nothing_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vidtune")
    load_videos(str(ucf101(tmp_path)))
    assert not caplog.messages
