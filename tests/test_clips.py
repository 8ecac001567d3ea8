import importlib
import random
import sys
import textwrap

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value, Video
from torch.utils.data import DataLoader

from video_files import counting_frames, frame_indices, moving_square, write_video
from vidtune.data.clips import (
    FAILED,
    PADDING,
    ClipFormat,
    EpochSampler,
    EvaluationClips,
    TrainingClips,
    apply_transform,
    collate,
    evaluation_views,
    failure,
    load_transform,
    open_row,
    seeded,
    unreadable_videos,
)
from vidtune.errors import InputError, VideoError

CLIP = ClipFormat(num_frames=4, image_size=16)
WHOLE_PICTURE = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "horizontal_flip": 0.0}


def rows(paths, spans=None):
    """Videos of two labels in turn, as the sources return them."""
    columns = {
        "video": [{"path": str(path), "bytes": None} for path in paths],
        "label": [index % 2 for index in range(len(paths))],
        "video_id": [f"id-{index}" for index in range(len(paths))],
    }
    features = {"video": Video(decode=False), "label": ClassLabel(names=["a", "b"]), "video_id": Value("string")}
    if spans:
        for column, values in zip(("start_seconds", "end_seconds"), zip(*spans, strict=True), strict=True):
            columns[column], features[column] = list(values), Value("float64")
    return Dataset.from_dict(columns, features=Features(features))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    paths = [write_video(folder / f"{seed}.mp4", moving_square(12, 24, 32, seed), fps=12) for seed in range(5)]
    return rows(paths)


@pytest.fixture(scope="module")
def counting(tmp_path_factory):
    """A video of 16 frames in 4 s, each telling its index."""
    return write_video(tmp_path_factory.mktemp("counting") / "count.mp4", counting_frames(16), fps=4)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    (folder / "text.mp4").write_text("this is not a video at all")
    (folder / "empty.mp4").touch()
    whole = write_video(folder / "whole.mp4", moving_square(12), fps=12)
    return rows([folder / "text.mp4", whole, folder / "empty.mp4", folder / "missing.mp4"])


def several(videos, labels):
    """The same videos with lists of labels, of three that there are."""
    feature = List(ClassLabel(names=["a", "b", "c"]))
    return videos.remove_columns("label").add_column("labels", labels, feature=feature)


@pytest.fixture
def transforms(tmp_path, monkeypatch):
    """Write a module `my_transforms_N` into the working folder; returns its name."""
    written = []

    def write(source):
        name = f"my_transforms_{len(written)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        written.append(name)
        importlib.invalidate_caches()
        return name

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield write
    for name in written:
        sys.modules.pop(name, None)


PYTORCHVIDEO = """
    from pytorchvideo.transforms import Div255, Permute, RandAugment, RandomShortSideScale
    from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip

    train = Compose(
        [
            Div255(),
            RandomShortSideScale(min_size=18, max_size=24),
            RandomCrop(16),
            RandomHorizontalFlip(),
            Permute((1, 0, 2, 3)),
            RandAugment(magnitude=9, num_layers=2),
            Permute((1, 0, 2, 3)),
        ]
    )
"""


def global_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


# Training


def test_a_training_clip_is_uint8_with_its_label_and_row(videos):
    clips = TrainingClips(videos, CLIP)
    assert len(clips) == 5
    item = clips[0, 3]
    assert item["pixel_values"].shape == (4, 3, 16, 16) and item["pixel_values"].dtype == torch.uint8
    assert (item["labels"], item["row"], item["failed"]) == (1, 3, False)


def test_a_clip_depends_on_seed_epoch_and_row_alone(videos):
    clips = TrainingClips(videos, CLIP, seed=7, color_jitter=0.3)
    first = clips[2, 1]["pixel_values"]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    for index in ((0, 0), (2, 2), (5, 1)):
        clips[index]
    assert torch.equal(clips[2, 1]["pixel_values"], first)
    assert torch.equal(TrainingClips(videos, CLIP, seed=7, color_jitter=0.3)[2, 1]["pixel_values"], first)
    for other in (clips[3, 1], clips[2, 2], TrainingClips(videos, CLIP, seed=8, color_jitter=0.3)[2, 1]):
        assert not torch.equal(other["pixel_values"], first)


def test_reading_a_clip_leaves_the_global_generators_alone(videos):
    before = global_states()
    TrainingClips(videos, CLIP, color_jitter=0.3)[0, 0]
    EvaluationClips(videos, CLIP)[0]
    assert global_states() == before


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_no_and_two_workers_give_the_same_batches(videos, context):
    clips = TrainingClips(videos, CLIP, seed=3, color_jitter=0.3)
    sampler = EpochSampler(len(videos), seed=3)
    sampler.epoch = 2
    options = {"batch_size": 2, "sampler": sampler, "collate_fn": collate}
    alone = list(DataLoader(clips, **options))
    shared = list(DataLoader(clips, **options, num_workers=2, multiprocessing_context=context))
    assert len(alone) == len(shared) == 3
    for one, two in zip(alone, shared, strict=True):
        assert torch.equal(one["pixel_values"], two["pixel_values"])
        assert torch.equal(one["labels"], two["labels"])


def test_a_training_clip_takes_one_frame_of_each_part(counting):
    clips = TrainingClips(rows([counting]), ClipFormat(4, 32), **WHOLE_PICTURE)
    seen = [set() for _ in range(4)]
    for epoch in range(40):
        indices = frame_indices(clips[epoch, 0]["pixel_values"], 16)
        for part, index in enumerate(indices):
            assert 4 * part <= index < 4 * part + 4
            seen[part].add(index)
    assert seen == [set(range(start, start + 4)) for start in (0, 4, 8, 12)]


def test_a_dense_training_clip_takes_consecutive_frames(counting):
    clips = TrainingClips(rows([counting]), ClipFormat(4, 32, "dense", fps=4.0), **WHOLE_PICTURE)
    starts = set()
    for epoch in range(40):
        start, *others = frame_indices(clips[epoch, 0]["pixel_values"], 16)
        assert others == [start + 1, start + 2, start + 3]
        starts.add(start)
    assert min(starts) == 0 and max(starts) <= 12 and len(starts) > 8


def test_a_training_clip_stays_inside_its_span(counting):
    clips = TrainingClips(rows([counting], [(1.0, 2.0)]), ClipFormat(4, 32), **WHOLE_PICTURE)
    for epoch in range(10):
        assert frame_indices(clips[epoch, 0]["pixel_values"], 16) == [4, 5, 6, 7]


def test_a_broken_video_becomes_zeros_with_the_label_of_failures(broken):
    clips = TrainingClips(broken, CLIP)
    for row in (0, 2, 3):
        item = clips[0, row]
        assert (item["labels"], item["row"], item["failed"]) == (FAILED, row, True)
        assert item["pixel_values"].shape == (4, 3, 16, 16) and item["pixel_values"].dtype == torch.uint8
        assert not item["pixel_values"].any()
    assert not clips[0, 1]["failed"]


def test_videos_may_be_bytes(counting):
    videos = rows([counting])
    content = [{"path": None, "bytes": counting.read_bytes()}]
    videos = videos.remove_columns("video").add_column("video", content, feature=Video(decode=False))
    item = TrainingClips(videos, ClipFormat(4, 32), **WHOLE_PICTURE)[0, 0]
    assert [index // 4 for index in frame_indices(item["pixel_values"], 16)] == [0, 1, 2, 3]


# Evaluation


def test_evaluation_takes_the_middle_frame_of_each_part(counting):
    item = EvaluationClips(rows([counting]), ClipFormat(4, 32))[0]
    assert item["pixel_values"].shape == (1, 4, 3, 32, 32) and item["pixel_values"].dtype == torch.uint8
    assert frame_indices(item["pixel_values"][0], 16) == [2, 6, 10, 14]


def test_the_frames_of_each_view_can_stand_in_another_order(counting):
    backwards = [3, 2, 1, 0]
    clips = EvaluationClips(
        rows([counting]), ClipFormat(4, 32), temporal_views=2, frame_order=lambda count, video_id: np.array(backwards)
    )
    assert [frame_indices(view, 16) for view in clips[0]["pixel_values"]] == [[12, 8, 4, 0], [14, 10, 6, 2]]


def test_temporal_views_by_hand(counting):
    segments = EvaluationClips(rows([counting]), ClipFormat(4, 32), temporal_views=2)[0]["pixel_values"]
    assert [frame_indices(view, 16) for view in segments] == [[0, 4, 8, 12], [2, 6, 10, 14]]
    dense = EvaluationClips(rows([counting]), ClipFormat(4, 32, "dense", fps=4.0), temporal_views=3)[0]["pixel_values"]
    assert [frame_indices(view, 16) for view in dense] == [[0, 1, 2, 3], [6, 7, 8, 9], [12, 13, 14, 15]]


def test_a_video_shorter_than_the_clip_repeats_its_last_frame(tmp_path):
    path = write_video(tmp_path / "short.mp4", counting_frames(2), fps=4)
    item = EvaluationClips(rows([path]), ClipFormat(4, 32, "dense", fps=4.0))[0]
    assert frame_indices(item["pixel_values"][0], 2) == [0, 1, 1, 1]


def test_evaluation_stays_inside_the_span(counting):
    videos = rows([counting, counting, counting], [(2.0, 4.0), (2.0, None), (None, 1.0)])
    clips = EvaluationClips(videos, ClipFormat(4, 32))
    indices = [frame_indices(clips[row]["pixel_values"][0], 16) for row in range(3)]
    assert indices == [[9, 11, 13, 15], [9, 11, 13, 15], [0, 1, 2, 3]]


def test_the_crops_of_the_first_clip_come_first(tmp_path):
    frames = counting_frames(16, height=32, width=96)
    frames[:, :, 64:] = 0  # the right third is black
    path = write_video(tmp_path / "wide.mp4", frames, fps=4)
    views = EvaluationClips(rows([path]), ClipFormat(4, 32), temporal_views=2, spatial_crops=3)[0]["pixel_values"]
    assert views.shape == (6, 4, 3, 32, 32)
    assert [frame_indices(views[view], 16) for view in (0, 1)] == [[0, 4, 8, 12]] * 2
    assert [frame_indices(views[view], 16) for view in (3, 4)] == [[2, 6, 10, 14]] * 2
    assert views[[2, 5]].float().mean() < 3


def test_evaluation_is_the_same_at_every_call(videos):
    clips = EvaluationClips(videos, CLIP, temporal_views=2, spatial_crops=3)
    assert len(clips) == 5
    assert torch.equal(clips[2]["pixel_values"], clips[2]["pixel_values"])


def test_a_broken_video_becomes_as_many_views_of_zeros(broken):
    item = EvaluationClips(broken, CLIP, temporal_views=2, spatial_crops=3)[0]
    assert item["pixel_values"].shape == (6, 4, 3, 16, 16) and not item["pixel_values"].any()
    assert (item["labels"], item["row"], item["failed"]) == (FAILED, 0, True)


def test_the_views_of_an_opened_video_are_those_of_the_dataset(videos):
    with open_row(videos[0]) as opened:
        views = evaluation_views(opened, CLIP, 2, 3)
    assert torch.equal(views, EvaluationClips(videos, CLIP, temporal_views=2, spatial_crops=3)[0]["pixel_values"])


def test_both_decoders_give_the_same_clip(videos):
    clips = [EvaluationClips(videos, CLIP, decoder=decoder)[0]["pixel_values"] for decoder in ("auto", "pyav")]
    assert torch.equal(*clips)


# Several clips of a video


def test_the_clips_of_a_video_are_of_the_same_frames_each_augmented_on_its_own(counting):
    clips = TrainingClips(rows([counting]), ClipFormat(4, 32), num_sample=3, **WHOLE_PICTURE)
    for epoch in range(5):
        one, two, three = clips[epoch, 0]["pixel_values"]
        assert torch.equal(one, two) and torch.equal(one, three)  # nothing is drawn but the frames
    clips = TrainingClips(rows([counting]), ClipFormat(4, 32), num_sample=3, color_jitter=0.5)
    one, two, three = clips[0, 0]["pixel_values"]
    assert not torch.equal(one, two) and not torch.equal(one, three) and not torch.equal(two, three)


def test_more_clips_of_a_video_leave_the_first_as_it_was(videos):
    one, three = (TrainingClips(videos, CLIP, seed=3, color_jitter=0.3, num_sample=number) for number in (1, 3))
    clip = one[1, 2]["pixel_values"]
    assert clip.shape == (4, 3, 16, 16)
    assert three[1, 2]["pixel_values"].shape == (3, 4, 3, 16, 16)
    assert torch.equal(three[1, 2]["pixel_values"][0], clip)
    assert torch.equal(three[1, 2]["pixel_values"], three[1, 2]["pixel_values"])


def test_each_clip_of_a_video_is_a_draw_of_a_transform_of_the_users(videos, transforms):
    name = transforms(PYTORCHVIDEO)
    one, two = TrainingClips(videos, CLIP, transform=f"{name}:train", num_sample=2)[0, 0]["pixel_values"]
    assert not torch.equal(one, two)


def test_a_transform_that_works_in_place_changes_its_own_clip_alone(videos, transforms):
    name = transforms("def train(clip): return clip.bitwise_not_()[..., :16, :16]")
    one, two = TrainingClips(videos, CLIP, transform=f"{name}:train", num_sample=2)[0, 0]["pixel_values"]
    assert torch.equal(one, two)


def test_a_row_that_is_drawn_again_gives_another_clip(videos):
    clips = TrainingClips(videos, CLIP, seed=3, num_sample=2, color_jitter=0.3)
    drawn = torch.cat([clips[1, 2]["pixel_values"], clips[1, 2, 1]["pixel_values"], clips[1, 2, 2]["pixel_values"]])
    for index, clip in enumerate(drawn):
        assert not any(torch.equal(clip, other) for other in drawn[:index])
    assert torch.equal(clips[1, 2, 0]["pixel_values"], clips[1, 2]["pixel_values"])


def test_all_augmentations_give_the_same_in_workers(videos):
    options = {"rand_augment": "rand-m7-n4-mstd0.5-inc1", "random_erasing": 0.5, "num_sample": 2}
    clips = TrainingClips(videos, CLIP, seed=3, **options)
    loaders = [
        DataLoader(clips, batch_size=2, sampler=EpochSampler(5, 1, [1, 2, 3, 4, 5]), collate_fn=collate, num_workers=n)
        for n in (0, 2)
    ]
    for one, two in zip(*loaders, strict=True):
        assert torch.equal(one["pixel_values"], two["pixel_values"]) and torch.equal(one["rows"], two["rows"])


# Several labels of a video


def test_several_labels_are_a_one_for_each(videos):
    videos = several(videos, [[0], [2, 1], [], [2], [0, 1, 2]])
    expected = [[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1], [1, 1, 1]]
    training = collate([TrainingClips(videos, CLIP)[0, row] for row in range(5)])["labels"]
    evaluation = collate([EvaluationClips(videos, CLIP)[row] for row in range(5)])["labels"]
    for labels in (training, evaluation):
        assert labels.dtype == torch.float32 and labels.tolist() == expected


def test_all_labels_of_a_broken_video_are_those_of_failures(broken):
    videos = several(broken, [[0], [0, 2], [], [1]])
    clips = TrainingClips(videos, CLIP, num_sample=2)
    batch = collate([clips[0, row] for row in (0, 1, 2)])
    assert batch["labels"].tolist() == [[FAILED] * 3] * 2 + [[1, 0, 1]] * 2 + [[FAILED] * 3] * 2
    assert batch["failed_rows"] == [0, 2]
    assert EvaluationClips(videos, CLIP)[0]["labels"].tolist() == [FAILED] * 3


# Order and batches


def test_an_epoch_holds_every_row_once_in_an_order_of_its_own():
    sampler = EpochSampler(50, seed=1)
    orders = []
    for epoch in range(3):
        sampler.epoch = epoch
        indices = list(sampler)
        assert {found for found, _ in indices} == {epoch} and len(sampler) == 50
        orders.append([row for _, row in indices])
        assert sorted(orders[-1]) == list(range(50))
        assert list(sampler) == indices
    assert orders[0] != orders[1] != orders[2] != orders[0] != list(range(50))
    other = EpochSampler(50, seed=2)
    assert [row for _, row in other] != orders[0]


def weighted_rows(weights, epoch=0, seed=1):
    sampler = EpochSampler(len(weights), seed, weights)
    sampler.epoch = epoch
    indices = list(sampler)
    assert len(indices) == len(sampler) == len(weights)
    assert {index[0] for index in indices} == {epoch}
    return [index[1] for index in indices]


def test_weighted_rows_are_drawn_in_proportion():
    weights = [1.0] * 900 + [9.0] * 100  # a tenth of the videos, half of the weight
    drawn = np.concatenate([weighted_rows(weights, epoch) for epoch in range(20)])
    assert abs((drawn >= 900).mean() - 0.5) < 0.02
    assert len(set(drawn.tolist())) > 990


def test_rows_without_weight_are_never_drawn():
    assert set(weighted_rows([0, 2, 0, 0, 1, 0, 0, 0])) == {1, 4}


def test_weighted_rows_are_decided_by_seed_and_epoch():
    weights = list(range(1, 51))
    assert weighted_rows(weights) == weighted_rows(weights)
    assert weighted_rows(weights) == weighted_rows([weight / 7 for weight in weights])
    assert weighted_rows(weights) != weighted_rows(weights, epoch=1)
    assert weighted_rows(weights) != weighted_rows(weights, seed=2)


def test_no_index_is_drawn_twice():
    sampler = EpochSampler(6, 0, [1, 1, 1, 1, 1, 20])
    indices = list(sampler)
    assert len(set(indices)) == 6
    repeats = [index[2] for index in indices if index[1] == 5 and len(index) == 3]
    assert len(repeats) > 1 and repeats == list(range(1, len(repeats) + 1))
    assert all(type(value) is int for index in indices for value in index)


def test_processes_share_the_weighted_rows_of_an_epoch_out():
    from accelerate.data_loader import prepare_data_loader

    class Indices(torch.utils.data.Dataset):
        def __len__(self):
            return 24

        def __getitem__(self, index):
            return {"index": torch.tensor((*index, 0)[:3])}

    def loader(processes, process):
        sampler = EpochSampler(24, 3, range(24))
        sampler.epoch = 2
        loaded = DataLoader(Indices(), batch_size=12 // processes, sampler=sampler)
        prepared = prepare_data_loader(loaded, num_processes=processes, process_index=process, put_on_device=False)
        return [[tuple(index) for index in batch["index"].tolist()] for batch in prepared]

    alone, first, second = loader(1, 0), loader(2, 0), loader(2, 1)
    assert [sorted(one + other) for one, other in zip(first, second, strict=True)] == [
        sorted(batch) for batch in alone
    ]
    assert len({index for batch in alone for index in batch}) == 24


def test_an_epoch_that_has_begun_keeps_its_number():
    sampler = EpochSampler(3)
    running = iter(sampler)
    next(running)
    sampler.epoch = 1
    assert [epoch for epoch, _ in running] == [0, 0]


def test_indices_are_plain_numbers():
    assert all(type(value) is int for index in EpochSampler(3) for value in index)


def test_an_epoch_is_filled_up_with_what_no_process_reads(videos, tmp_path):
    sampler = EpochSampler(5, 1, multiple_of=4)
    indices = list(sampler)
    assert len(sampler) == len(indices) == 8 and sorted(indices[:5]) == [(0, row) for row in range(5)]
    assert indices[5:] == [(0, 0, PADDING)] * 3
    gone = rows([tmp_path / "gone.mp4"])  # which can't be opened, and is not
    for num_sample in (1, 2):
        padding = TrainingClips(several(gone, [[0]]), CLIP, num_sample=num_sample)[0, 0, PADDING]
        item = TrainingClips(several(videos, [[0], [1], [], [2], []]), CLIP, num_sample=num_sample)[0, 1]
        batch = collate([item, padding])
        assert batch["rows"].tolist() == [1] and batch["labels"].tolist() == [[0, 1, 0]] * num_sample
        batch = collate([padding, padding])
        assert batch["pixel_values"].shape == (num_sample, 4, 3, 16, 16) and batch["failed_rows"] == []
        assert batch["labels"].tolist() == [[FAILED] * 3] * num_sample


def test_a_batch_stacks_clips_and_lists_the_rows_that_failed(broken):
    clips = TrainingClips(broken, CLIP)
    batch = collate([clips[0, row] for row in range(4)])
    assert batch["pixel_values"].shape == (4, 4, 3, 16, 16) and batch["pixel_values"].dtype == torch.uint8
    assert batch["labels"].tolist() == [FAILED, 1, FAILED, FAILED] and batch["labels"].dtype == torch.int64
    assert batch["failed_rows"] == [0, 2, 3]
    assert batch["rows"].tolist() == [0, 1, 2, 3] and batch["rows"].dtype == torch.int64 and batch["epoch"] == 0


def test_a_batch_holds_all_clips_of_the_first_video_first(broken, videos):
    clips = TrainingClips(videos, CLIP, num_sample=2, color_jitter=0.3)
    items = [clips[7, row] for row in (3, 0, 4)]
    batch = collate(items)
    assert batch["pixel_values"].shape == (6, 4, 3, 16, 16) and batch["pixel_values"].dtype == torch.uint8
    for place, item in enumerate(items):
        assert torch.equal(batch["pixel_values"][2 * place : 2 * place + 2], item["pixel_values"])
    assert batch["labels"].tolist() == [1, 1, 0, 0, 0, 0] and batch["labels"].dtype == torch.int64
    assert batch["rows"].tolist() == [3, 0, 4] and batch["epoch"] == 7 and batch["failed_rows"] == []
    failed = collate([TrainingClips(broken, CLIP, num_sample=2)[0, row] for row in (0, 1)])
    assert failed["labels"].tolist() == [FAILED, FAILED, 1, 1] and failed["failed_rows"] == [0]
    assert failed["pixel_values"].shape == (4, 4, 3, 16, 16)


def test_a_batch_of_an_evaluation_keeps_the_views_apart(videos):
    clips = EvaluationClips(videos, CLIP, temporal_views=2)
    batch = collate([clips[row] for row in (1, 2)])
    assert batch["pixel_values"].shape == (2, 2, 4, 3, 16, 16)
    assert batch["labels"].tolist() == [1, 0] and batch["rows"].tolist() == [1, 2] and batch["epoch"] == 0


# Broken videos


def test_unreadable_videos_are_named_with_their_reasons(broken):
    problems = unreadable_videos(broken)
    assert [problem["path"].rpartition("/")[2] for problem in problems] == ["text.mp4", "empty.mp4", "missing.mp4"]
    assert problems[1]["reason"] == "the file is empty"
    assert problems[2]["reason"] == "there is no such file"
    assert all(problem["path"] not in problem["reason"] for problem in problems)


def test_at_most_so_many_videos_are_opened_spread_over_all(videos, monkeypatch):
    opened = []

    def note(video, decoder):
        opened.append(video["video_id"])
        return open_row(video, decoder)

    monkeypatch.setattr("vidtune.data.clips.open_row", note)
    assert unreadable_videos(videos, most=3) == []
    assert opened == ["id-0", "id-2", "id-4"]


def test_without_videos_none_is_unreadable(videos):
    assert unreadable_videos(videos.select([])) == []


def test_a_failure_without_a_path_is_named_by_its_id():
    videos = Dataset.from_dict(
        {"video": [{"path": None, "bytes": b"nothing like a video"}], "label": [0], "video_id": ["shard-1/7"]},
        features=Features({"video": Video(decode=False), "label": Value("int64"), "video_id": Value("string")}),
    )
    problem = failure(videos, 0)
    assert problem["path"] == "shard-1/7" and "FFmpeg cannot decode it" in problem["reason"]


def test_a_video_that_is_fine_on_a_second_try_is_said_to_be(videos):
    problem = failure(videos, 0)
    assert problem["path"].endswith("0.mp4") and problem["reason"] == "failed once, and was read on a second try"


def test_opening_a_broken_row_names_the_file(broken):
    with pytest.raises(VideoError, match=r"empty\.mp4: the file is empty"):
        open_row(broken[2])


# Transforms of the user's


def test_a_transform_of_pytorchvideo_replaces_ours(videos, transforms):
    name = transforms(PYTORCHVIDEO)
    clips = TrainingClips(videos, CLIP, seed=3, transform=f"{name}:train")
    before = global_states()
    first = clips[1, 0]["pixel_values"]
    assert first.shape == (4, 3, 16, 16) and first.dtype == torch.uint8 and first.float().std() > 5
    assert global_states() == before
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    clips[0, 1]
    assert torch.equal(clips[1, 0]["pixel_values"], first)
    assert not torch.equal(clips[2, 0]["pixel_values"], first)


def test_a_transform_of_pytorchvideo_gives_the_same_in_workers(videos, transforms):
    clips = TrainingClips(videos, CLIP, seed=3, transform=f"{transforms(PYTORCHVIDEO)}:train")
    options = {"batch_size": 2, "sampler": EpochSampler(5), "collate_fn": collate}
    alone, shared = list(DataLoader(clips, **options)), list(DataLoader(clips, **options, num_workers=2))
    for one, two in zip(alone, shared, strict=True):
        assert torch.equal(one["pixel_values"], two["pixel_values"])


def test_a_transform_gets_channels_first_uint8(videos, transforms):
    name = transforms("""
        def train(clip):
            assert clip.dtype.is_floating_point is False and clip.shape == (3, 4, 24, 32)
            return clip[..., :16, :16]
    """)
    item = TrainingClips(videos, CLIP, transform=f"{name}:train")[0, 0]
    assert item["pixel_values"].shape == (4, 3, 16, 16)


def test_float_clips_are_rounded_and_kept_in_range():
    values = torch.tensor([-0.005, 0.0, 0.5, 1.0, 1.005]).repeat(3).view(3, 1, 1, 5)
    frames = torch.zeros(1, 3, 1, 5, dtype=torch.uint8)

    def transform(clip):
        return values.expand(3, 1, 5, 5)

    clip = apply_transform(transform, frames, 5, np.random.default_rng(0))
    assert clip.dtype == torch.uint8 and clip[0, 0, 0].tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.zeros(4, 3, 16, 16, dtype=torch.uint8), r"returned shape \(4, 3, 16, 16\); return \(3, 4, 16, 16\)"),
        (torch.zeros(3, 4, 16, 17, dtype=torch.uint8), r"returned shape \(3, 4, 16, 17\)"),
        (torch.full((3, 4, 16, 16), 255.0), "returned values from 255 to 255"),
        (torch.full((3, 4, 16, 16), -2.1), "leave out Normalize"),
        (torch.full((3, 4, 16, 16), float("nan")), "returned values from nan to nan"),
        (torch.zeros(3, 4, 16, 16, dtype=torch.int64), "returned torch.int64; return uint8"),
        ({"video": torch.zeros(3, 4, 16, 16)}, "returned a dict; return a tensor"),
        (None, "returned a NoneType; return a tensor"),
    ],
)
def test_what_a_transform_must_not_return(result, message):
    frames = torch.zeros(4, 3, 24, 32, dtype=torch.uint8)
    with pytest.raises(InputError, match=f"train_transform: .*{message}") as caught:
        apply_transform(lambda clip: result, frames, 16, np.random.default_rng(0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["no_such_module:train", "math:no_such_function", "math", "math:", ":train", ".math:sqrt", "", "math:pi"]
)
def test_a_transform_that_cannot_be_imported_is_named(name):
    with pytest.raises(InputError, match=f"train_transform: {name}") as caught:
        load_transform(name)
    assert "\n" not in str(caught.value)


def test_a_transform_is_found_in_the_working_folder(transforms):
    name = transforms("def train(clip): return clip")
    assert load_transform(f"{name}:train")(1) == 1


def test_an_error_of_the_transform_reaches_the_user_through_workers(videos, transforms):
    name = transforms("def train(clip): return clip")
    clips = TrainingClips(videos, CLIP, transform=f"{name}:train")
    with pytest.raises(InputError, match=r"train_transform: returned shape \(3, 4, 24, 32\)"):
        next(iter(DataLoader(clips, batch_size=2, sampler=EpochSampler(5), collate_fn=collate, num_workers=1)))


def test_generators_are_put_back_even_after_an_error():
    before = global_states()
    with pytest.raises(RuntimeError), seeded(5):
        draws = random.random(), np.random.rand(), torch.rand(1).item()
        raise RuntimeError
    assert global_states() == before
    with seeded(5):
        assert draws == (random.random(), np.random.rand(), torch.rand(1).item())
