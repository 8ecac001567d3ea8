"""Inspection: every kind of finding from a real file, none in a healthy dataset, and workers that die or hang."""

import json
import os
import subprocess
import sys
import types
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from datasets import DatasetDict

import failing_probe
from video_files import busy_frames, counting_frames, write_audio, write_folder_dataset, write_video
from vidtune.data import inspection
from vidtune.data.findings import KINDS
from vidtune.data.inspection import inspect_videos, print_inspection
from vidtune.data.isolation import Lost, run_isolated
from vidtune.data.probe import FACTS, probe_file
from vidtune.data.rows import to_dataset
from vidtune.data.sources import load_videos

SURVEILLANCE_FIGHT = Path(
    os.environ.get("VIDTUNE_SURVEILLANCE_FIGHT", Path(__file__).parents[2] / "shared/data/surveillance-fight")
)

INDEX_FIRST = {"container_options": {"movflags": "faststart"}}


def probe(path: Path) -> dict:
    return probe_file(str(path))[0]


def write_busy(path: Path, seed: int | None = None, num_frames: int = 20, **options) -> Path:
    """Write a video of its own: what is seen depends on the file's name and folder."""
    seed = zlib.crc32("/".join(path.parts[-2:]).encode()) if seed is None else seed
    return write_video(path, busy_frames(num_frames, seed=seed), **options)


def without_end(path: Path, share: float = 0.6) -> Path:
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
    return path


def with_bytes(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


def with_zeros(path: Path, start: float, end: float) -> Path:
    content = bytearray(path.read_bytes())
    first, last = (round(share * len(content)) for share in (start, end))
    content[first:last] = bytes(last - first)
    path.write_bytes(content)
    return path


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def picture(path: Path, codec: str, pixel_format: str) -> Path:
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 64, 48, pixel_format, Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(busy_frames(1)[0], format="rgb24").reformat(format=pixel_format)
    path.write_bytes(b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)]))
    return path


def sound_with_cover(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        sound, cover = container.add_stream("aac", rate=16000, layout="mono"), container.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(busy_frames(1)[0], format="rgb24")))
        for start in range(0, 8192, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def two_recordings(path: Path, second_size: tuple[int, int], second_start: float) -> Path:
    parts = [
        write_busy(path.with_name("first.ts")),
        write_video(
            path.with_name("second.ts"), busy_frames(20, *second_size), times=second_start + np.arange(20) / 25
        ),
    ]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


BAD_FILES: dict[str, list[tuple[str, Callable[[Path], object]]]] = {
    "missing": [("none.mp4", lambda path: None), ("folder.mp4", lambda path: path.mkdir())],
    "empty": [("empty.mp4", lambda path: path.write_bytes(b""))],
    "not_a_video": [
        ("text.mp4", lambda path: text(path, "this is no video\n" * 50)),
        ("page.mp4", lambda path: text(path, "<!DOCTYPE html><html><body>404 Not Found</body></html>")),
        ("subtitles.mp4", lambda path: text(path, "1\n00:00:00,000 --> 00:00:01,000\nhello\n")),
        ("text.txt", lambda path: text(path, "this is no video\n" * 50)),
        ("noise.mp4", lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000))),
        ("list.m3u8", lambda path: text(path, "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n")),
    ],
    "audio_only": [("sound.mp4", write_audio)],
    "cover_picture": [("cover.mp4", sound_with_cover)],
    "still_picture": [
        ("png.mp4", lambda path: picture(path, "png", "rgb24")),
        ("jpeg.mp4", lambda path: picture(path, "mjpeg", "yuvj420p")),
        ("gif.gif", lambda path: write_busy(path, num_frames=1, codec="gif", pixel_format="rgb8")),
    ],
    "unknown_codec": [("avc.mp4", lambda path: with_bytes(write_busy(path), b"avc1\0", b"zzzz\0"))],
    "bad_timestamps": [
        ("bare.h264", write_busy),
        ("again.ts", lambda path: two_recordings(path, (48, 64), 0)),
    ],
    "truncated": [
        ("index_last.mp4", lambda path: without_end(write_busy(path))),
        ("index_first.mp4", lambda path: without_end(write_busy(path, **INDEX_FIRST))),
        ("by_little.mp4", lambda path: without_end(write_busy(path, **INDEX_FIRST), 0.99)),
        ("matroska.mkv", lambda path: without_end(write_busy(path), 0.99)),
        ("vp9.webm", lambda path: without_end(write_busy(path, codec="libvpx-vp9"))),
        ("avi.avi", lambda path: without_end(write_busy(path, codec="mpeg4"))),
        ("flash.flv", lambda path: without_end(write_busy(path, codec="flv"))),
        ("gif.gif", lambda path: without_end(write_busy(path, codec="gif", pixel_format="rgb8"))),
    ],
    "corrupt": [
        ("holes.mp4", lambda path: with_zeros(write_busy(path), 0.4, 0.5)),
        ("holes.mkv", lambda path: with_zeros(write_busy(path), 0.4, 0.5)),
        ("cut.ts", lambda path: without_end(write_busy(path))),
        ("no_frames.mp4", lambda path: with_zeros(write_busy(path), 0.02, 0.7)),
    ],
    "header_mismatch": [
        ("long.mkv", lambda path: with_bytes(write_busy(path), b"00:00:00.80", b"00:00:02.40")),
        ("short.mkv", lambda path: with_bytes(write_busy(path), b"00:00:00.80", b"00:00:00.20")),
    ],
    "size_changes": [("sizes.ts", lambda path: two_recordings(path, (96, 128), 0.8))],
    "black": [
        ("black.mp4", lambda path: write_video(path, np.zeros((20, 48, 64, 3), np.uint8))),
        ("noise.mp4", lambda path: write_video(path, busy_frames(20) // 12)),
    ],
    "frozen": [("frozen.mp4", lambda path: write_video(path, busy_frames(1).repeat(20, 0)))],
    "shorter_than_clip": [
        ("short.mp4", lambda path: write_busy(path, num_frames=15)),
        ("single.mp4", lambda path: write_busy(path, num_frames=1)),
    ],
}


def inspect_files(rows: list[dict], **options) -> dict:
    """Inspect rows given by `video` (a path, which names the video too), `label`, and what else a row has."""
    rows = [{"video_id": Path(str(row["video"])).name, "split": "train", **row} for row in rows]
    return inspect_videos(to_dataset(rows, "test"), num_proc=1, **options)


def kinds_of(result: dict, name: str) -> list[str]:
    return [finding["kind"] for finding in result["findings"] if Path(finding["path"]).name == name]


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory) -> dict:
    """All bad files, each in a folder named for its kind, inspected in one call."""
    root = tmp_path_factory.mktemp("bad")
    rows = []
    for kind, files in BAD_FILES.items():
        (root / kind).mkdir()
        for name, write in files:
            write(root / kind / name)
            rows.append({"video": str(root / kind / name), "label": kind, "video_id": f"{kind}/{name}"})
    return inspect_files(rows)


@pytest.mark.parametrize("video_id", [f"{kind}/{name}" for kind, files in BAD_FILES.items() for name, _ in files])
def test_a_bad_file_is_named_by_its_kind(bad_files, video_id):
    kind = video_id.partition("/")[0]
    facts = next(facts for facts in bad_files["files"] if facts["video_id"] == video_id)
    own = {finding["kind"]: finding for finding in bad_files["findings"] if finding["path"] == facts["path"]}
    assert kind in own
    # A file that is cut within a frame has a damaged one; a single frame shows the same all the time.
    assert own.keys() <= {kind} | ({"corrupt", "shorter_than_clip"} if kind in ("truncated", "corrupt") else set())
    assert "\n" not in own[kind]["detail"]
    assert (facts["error"] is None) == (facts["frames"] is not None)


def test_the_details_say_what_was_found(bad_files):
    details = {
        f"{finding['kind']}/{Path(finding['path']).name}": finding["detail"] for finding in bad_files["findings"]
    }
    assert details["missing/none.mp4"] == "there is no such file"
    assert details["truncated/vp9.webm"].startswith("its end is missing: by its header 0.80 s; there are 0.")
    assert details["header_mismatch/long.mkv"] == "by its header 2.40 s; there are 0.80 s, 20 frames"
    assert details["size_changes/sizes.ts"] == "from 64 x 48 to 128 x 96 at 0.8 s"
    assert details["shorter_than_clip/short.mp4"] == "15 frames; a clip has 16 and repeats some"
    assert details["black/black.mp4"] == "100% of its frames are black"


def test_every_kind_of_finding_has_a_test():
    elsewhere = {"time_limit", "crashed", "span_outside"}
    of_several = {"two_labels", "two_splits", "group_in_two_splits", "duplicate", "near_duplicate"}
    assert set(BAD_FILES) | elsewhere | of_several == set(KINDS)


def test_what_was_found_is_printed_and_is_json(bad_files, capsys):
    print_inspection(bad_files)
    printed = capsys.readouterr().out
    for kind in {finding["kind"] for finding in bad_files["findings"]}:
        assert f" {kind}: {KINDS[kind][0]}; {KINDS[kind][1]}\n" in printed
    assert "black/black.mp4: 100% of its frames are black\n" in printed
    assert f"findings: {len(bad_files['findings'])} in {len(bad_files['files'])} videos\n" in printed
    assert json.loads(json.dumps(bad_files)) == bad_files


# Facts


def test_the_facts_of_a_file(tmp_path):
    path = write_busy(tmp_path / "a.mp4", fps=Fraction(30000, 1001), rotation=90)
    facts = probe(path)
    assert list(facts) == FACTS
    assert facts.pop("seconds") == pytest.approx(20 * 1001 / 30000, abs=1e-6)
    assert facts.pop("header_seconds") == pytest.approx(20 * 1001 / 30000, abs=1e-3)
    assert facts.pop("fps") == pytest.approx(30000 / 1001, abs=1e-3)
    assert len(facts.pop("sha256")) == 64 and len(facts.pop("hashes")) == 21
    assert facts == {
        "size_bytes": path.stat().st_size,
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "codec": "h264",
        "video_streams": 1,
        "width": 48,
        "height": 64,
        "rotation": 90,
        "constant_rate": True,
        "header_frames": 20,
        "frames": 20,
        "damaged_frames": 0,
        "error": None,
        "problems": {},
    }


VARIABLE = np.cumsum([0.0] + [0.02, 0.05, 0.1] * 6 + [0.2]).tolist()
HEALTHY = {
    "variable.mp4": {"times": VARIABLE},
    "variable.mkv": {"times": VARIABLE},
    "starts_late.mkv": {"times": 5 + np.arange(20) / 25},
    "ntsc.mkv": {"fps": Fraction(30000, 1001)},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "index_first.mov": INDEX_FIRST,
    "b_frames.mp4": {"options": {"bf": "2"}, "b_frames": 2},
    "b_frames.avi": {"options": {"bf": "2", "x264-params": "b-adapt=0:b-pyramid=normal"}, "b_frames": 3},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg1.mpg": {"codec": "mpeg1video", "b_frames": 2},
    "stream.ts": {"b_frames": 2},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "flash.flv": {"codec": "flv"},
    "gif.gif": {"codec": "gif", "pixel_format": "rgb8"},
    "wmv2.wmv": {"codec": "wmv2"},
    "10_bit.mp4": {"pixel_format": "yuv420p10le"},
    "turned.mov": {"rotation": 270},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_file_has_no_problems(tmp_path, name):
    facts = probe(write_busy(tmp_path / name, **HEALTHY[name]))
    assert facts["problems"] == {} and facts["error"] is None
    assert facts["frames"] == 20
    assert facts["constant_rate"] == ("variable" not in name)
    expected = {
        "variable.mp4": VARIABLE[-1] + 0.04,
        "variable.mkv": VARIABLE[-1] + 0.04,
        "ntsc.mkv": 20 * 1001 / 30000,
    }
    assert facts["seconds"] == pytest.approx(expected.get(name, 0.8), abs=0.002)


def test_what_a_player_cuts_off_at_the_start_is_no_mismatch(tmp_path):
    """Cut without re-encoding, an MP4 keeps the frames before its start that others need, and hides them."""
    whole = write_busy(tmp_path / "whole.mp4", num_frames=40, keyframe_every=30)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as output:
        stream = source.streams.video[0]
        copied = output.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = (ticks - round(0.4 / stream.time_base) for ticks in (packet.pts, packet.dts))
                packet.stream = copied
                output.mux(packet)
    facts = probe(tmp_path / "cut.mp4")
    assert (facts["header_frames"], facts["frames"]) == (40, 30)
    assert facts["problems"] == {}


def test_several_video_streams_are_a_fact(tmp_path):
    with av.open(str(tmp_path / "two.mkv"), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in [*busy_frames(20), None]:
            for stream in streams:
                container.mux(stream.encode(None if picture is None else av.VideoFrame.from_ndarray(picture)))
    facts = probe(tmp_path / "two.mkv")
    assert (facts["video_streams"], facts["frames"], facts["problems"]) == (2, 20, {})


def test_a_dark_scene_is_not_black_and_a_still_one_that_flickers_not_frozen(tmp_path):
    dark = busy_frames(20) // 16
    dark[:, 10:14, 10:14] = 90
    assert probe(write_video(tmp_path / "dark.mp4", dark))["problems"] == {}
    assert probe(write_video(tmp_path / "flicker.mp4", counting_frames(20)))["problems"] == {}


def test_a_file_that_freezes_half_way_is_not_frozen(tmp_path):
    frames = np.concatenate([busy_frames(10), busy_frames(1).repeat(10, 0)])
    assert probe(write_video(tmp_path / "half.mp4", frames))["problems"] == {}


def test_a_long_file_is_sampled_evenly_in_constant_memory(tmp_path):
    from vidtune.data.content import MOST_SAMPLES, Span

    span, seen = Span(0.0, 100.0), []
    path = write_video(tmp_path / "a.mp4", busy_frames(40, 32, 32))
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    for index in range(1000):
        span.add(index / 10, frames[index % 40])
        seen.append(len(span._thumbnails))
    assert max(seen) < MOST_SAMPLES and min(seen[MOST_SAMPLES:]) >= MOST_SAMPLES // 2
    assert span._seconds == pytest.approx(np.arange(0, 100, 0.8).tolist())
    span.finish()
    assert (span.frames, len(span.hashes), span._thumbnails) == (1000, 33, [])


# Datasets


def test_a_healthy_dataset_has_no_findings(tmp_path, capsys):
    write_folder_dataset(tmp_path, ["a", "b"], 6, ["train", "test"], num_frames=16)
    result = inspect_videos(load_videos(str(tmp_path)), num_proc=1)
    assert result["findings"] == result["near_duplicates"] == []
    assert result["classes"] == {"a": {"train": 6, "test": 6}, "b": {"train": 6, "test": 6}}
    assert [facts["video_id"] for facts in result["files"]][:2] == ["train/a/0000.mp4", "train/a/0001.mp4"]
    print_inspection(result)
    printed = capsys.readouterr().out
    assert "findings: 0 in 24 videos" in printed and "24 of 24" in printed and "32 x 32 (24)" in printed


def copies(folder: Path) -> list[dict]:
    """Rows of three recordings: `a`, of which there are copies, `b` and `c`."""
    folder.mkdir()
    first = write_busy(folder / "a.mp4", seed=1, num_frames=30)
    (folder / "a_again.mp4").write_bytes(first.read_bytes())
    write_video(folder / "a_mirrored.mp4", busy_frames(30, seed=1)[:, :, ::-1], codec="mpeg4")
    write_busy(folder / "b.mp4", seed=2)
    write_busy(folder / "c.mp4", seed=3)
    names = ["a.mp4", "a_again.mp4", "a_mirrored.mp4", "b.mp4", "c.mp4"]
    return [{"video": str(folder / name), "label": "x", "group": name} for name in names]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"a_again.mp4": ["duplicate"], "a_mirrored.mp4": ["near_duplicate"]}),
        ({"a_again.mp4": {"group": "a.mp4"}, "a_mirrored.mp4": {"group": "a.mp4"}}, {}),
        (
            {"a_again.mp4": {"label": "y"}, "a_mirrored.mp4": {"label": "y"}},
            {"a_again.mp4": ["two_labels"], "a_mirrored.mp4": ["two_labels"]},
        ),
        (
            {"a_again.mp4": {"split": "test"}, "a_mirrored.mp4": {"split": "test", "label": "y"}},
            {"a_again.mp4": ["two_splits"], "a_mirrored.mp4": ["two_labels", "two_splits"]},
        ),
        ({"b.mp4": {"group": "c.mp4"}, "c.mp4": {"split": "test"}}, {"c.mp4": ["group_in_two_splits"]}),
    ],
    ids=["groups", "one group", "labels", "splits", "a group in two splits"],
)
def test_what_is_in_a_dataset_twice(tmp_path, changes, expected):
    rows = copies(tmp_path / "videos")
    for row in rows:
        row |= changes.get(Path(row["video"]).name, {})
    rows.append({"video": str(write_busy(tmp_path / "d.mp4", seed=4)), "label": "y"})
    result = inspect_files(rows)
    found = {Path(row["video"]).name: kinds_of(result, Path(row["video"]).name) for row in rows}
    if "group_in_two_splits" not in str(expected):
        assert {name: kinds for name, kinds in found.items() if kinds} == expected
        assert result["near_duplicates"] == [["a.mp4", "a_again.mp4"], ["a.mp4", "a_mirrored.mp4"]]
    assert found.items() >= expected.items()


def test_the_details_of_copies_name_the_other_video(tmp_path):
    rows = copies(tmp_path / "videos")
    rows[1] |= {"label": "y", "split": "test"}
    rows[2] |= {"split": "test"}
    rows[3] |= {"label": "y"}
    details = {
        (finding["kind"], Path(finding["path"]).name): finding["detail"] for finding in inspect_files(rows)["findings"]
    }
    assert details == {
        ("two_labels", "a_again.mp4"): "the same file as a.mp4, which is labelled x, and this one y",
        ("two_splits", "a_again.mp4"): "the same file as a.mp4, which is in train, and this one in test",
        ("two_splits", "a_mirrored.mp4"): "a mirrored copy of a.mp4, which is in train, and this one in test",
    }


def test_videos_with_several_labels(tmp_path):
    rows = copies(tmp_path / "videos")
    for row, labels in zip(rows, [["x", "y"], ["y", "x"], ["x"], [], ["y"]], strict=True):
        del row["label"]
        row["labels"] = labels
    result = inspect_files(rows)
    assert kinds_of(result, "a_again.mp4") == ["duplicate"]
    assert kinds_of(result, "a_mirrored.mp4") == ["two_labels"]
    assert result["classes"] == {"x": {"train": 3}, "y": {"train": 3}}
    assert result["files"][0]["labels"] == ["x", "y"]
    print_inspection(result)


def test_spans_of_a_file_are_videos_of_their_own(tmp_path):
    still = busy_frames(1, seed=9).repeat(25, 0)
    path = write_video(tmp_path / "long.mp4", np.concatenate([busy_frames(50, seed=1), still]), 25)
    spans = [(None, 1.0), (1.0, 2.0), (2.0, None), (1.0, 1.4), (2.9, 4.0), (3.0, 4.0)]
    rows = [
        {"video": str(path), "video_id": f"{start}-{end}", "label": label, "start_seconds": start, "end_seconds": end}
        for (start, end), label in zip(spans, "xyxyxy", strict=True)
    ]
    result = inspect_files([row | {"group": "long.mp4"} for row in rows])
    assert [facts["frames"] for facts in result["files"]] == [25, 25, 25, 10, 2, None]
    assert [facts["seconds"] for facts in result["files"][:5]] == pytest.approx([1, 1, 1, 0.4, 0.1])
    assert len({facts["sha256"] for facts in result["files"]}) == 1
    assert [(finding["kind"], finding["detail"]) for finding in result["findings"]] == [
        ("frozen", "2 s to its end: 100% of its frames show the same"),
        ("shorter_than_clip", "1 s to 1.4 s: 10 frames; a clip has 16 and repeats some"),
        ("span_outside", "2.9 s to 4 s: the file ends at 3 s, and it is to end at 4 s"),
        ("frozen", "2.9 s to 4 s: 100% of its frames show the same"),
        ("shorter_than_clip", "2.9 s to 4 s: 2 frames; a clip has 16 and repeats some"),
        ("span_outside", "3 s to 4 s: the file lasts 3 s, and it is to start at 3 s and to end at 4 s"),
    ]


def test_videos_in_memory_are_inspected_as_files_are(tmp_path):
    write_folder_dataset(tmp_path, ["a", "b"], 2, num_frames=16)
    (tmp_path / "b/0001.mp4").write_bytes(b"no video")
    on_disk = load_videos(str(tmp_path))

    def embed(row: dict) -> dict:
        return {"video": {"path": "one_name.mp4", "bytes": Path(row["video"]["path"]).read_bytes()}}

    embedded = DatasetDict({split: part.map(embed, features=part.features) for split, part in on_disk.items()})
    of_disk, of_bytes = (inspect_videos(videos, num_proc=1) for videos in (on_disk, embedded))
    for facts, other in zip(of_disk["files"], of_bytes["files"], strict=True):
        assert {name: facts[name] for name in FACTS} == {name: other[name] for name in FACTS}
    assert [finding["path"] for finding in of_bytes["findings"]] == ["b/0001.mp4"]


# Interruptions, crashes and hangs


def test_what_is_known_is_not_decoded_again(tmp_path):
    write_folder_dataset(tmp_path, ["a", "b"], 2, num_frames=16)
    videos, seen = load_videos(str(tmp_path)), {}
    whole = inspect_videos(videos, num_proc=1, on_result=seen.__setitem__)
    assert {facts["video_id"]: facts for facts in whole["files"]} == seen
    known = json.loads(json.dumps({video_id: seen[video_id] for video_id in ("a/0000.mp4", "b/0001.mp4")}))
    for video_id in known:
        (tmp_path / video_id).unlink()
    again = {}
    assert inspect_videos(videos, num_proc=1, known=known, on_result=again.__setitem__) == whole
    assert sorted(again) == ["a/0001.mp4", "b/0000.mp4"]
    known["a/0000.mp4"].pop("hashes")  # of an earlier version, say
    assert kinds_of(inspect_videos(videos, num_proc=1, known=known), "0000.mp4") == ["missing"]


def test_crashes_and_hangs_are_findings_and_all_else_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "probe_file", failing_probe.failing_probe)
    names = ["crash_1.mp4", "fine_1.mp4", "hang.mp4", "crash_2.mp4", "fine_2.mp4"]
    for seed, name in enumerate(names):
        write_busy(tmp_path / name, seed)
    rows = [{"video": str(tmp_path / name), "label": name} for name in names]
    result = inspect_files(rows, time_limit_seconds=1.5)
    assert {Path(finding["path"]).name: (finding["kind"], finding["detail"]) for finding in result["findings"]} == {
        "crash_1.mp4": ("crashed", "its process ended with SIGSEGV"),
        "crash_2.mp4": ("crashed", "its process ended with SIGSEGV"),
        "hang.mp4": ("time_limit", "not decoded within 1.5 s"),
    }
    assert [facts["frames"] for facts in result["files"]] == [None, 20, None, None, 20]
    assert [facts["error"] is None for facts in result["files"]] == [False, True, False, False, True]
    print_inspection(result)


def test_workers_are_isolated():
    """The calls are Python, so that workers need to import nothing."""
    calls = {
        "result": "6 * 7",
        "crash": "__import__('ctypes').string_at(0)",
        "exit": "__import__('os')._exit(3)",
        "hang": "__import__('time').sleep(600)",
    }
    results = dict(run_isolated(eval, ((name, (code,)) for name, code in calls.items()), 2, 1.5))
    assert results == {
        "result": 42,
        "crash": Lost("crashed", "its process ended with SIGSEGV"),
        "exit": Lost("crashed", "its process ended with code 3"),
        "hang": Lost("time_limit", "not decoded within 1.5 s"),
    }


def test_what_a_worker_imports_is_light():
    code = "import vidtune.data.probe, sys; sys.exit(bool({'torch', 'datasets'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_tasks_are_taken_as_workers_get_free():
    taken = []

    def tasks():
        for number in range(20):
            taken.append(number)
            yield number, (str(number),)

    results = run_isolated(eval, tasks(), 1, float("inf"))
    assert next(results) == (0, 0)
    assert len(taken) <= 2
    results.close()


def test_an_error_of_a_call_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(run_isolated(eval, [("bug", ("1 / 0",))], 1, 60))


def test_a_worker_that_cannot_start_is_an_error(monkeypatch):
    """A function of a module that only this process knows."""
    monkeypatch.setitem(sys.modules, "only_here", types.ModuleType("only_here"))
    exec("def function(): pass", vars(sys.modules["only_here"]))
    with pytest.raises(RuntimeError, match="a worker process can't start: its process ended with code 1"):
        list(run_isolated(sys.modules["only_here"].function, [("call", ())], 1, 60))


@pytest.mark.slow
@pytest.mark.skipif(not SURVEILLANCE_FIGHT.is_dir(), reason="the videos are not here")
def test_real_videos_have_no_findings():
    videos = load_videos(str(SURVEILLANCE_FIGHT / "videos.csv"))
    part = DatasetDict(train=videos["train"].select(range(0, 300, 12)))
    result = inspect_videos(part, num_frames=16)
    assert result["findings"] == result["near_duplicates"] == []
    assert {facts["codec"] for facts in result["files"]} == {"h264"}
