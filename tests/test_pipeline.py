"""An epoch is the same bytes for any number of workers and processes and after a restart; memory stays flat."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from datasets import Dataset, DatasetDict, concatenate_datasets
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from test_clips import rows
from test_trainer import build
from video_files import busy_frames, write_video
from vidtune.data.clips import ClipFormat, EpochSampler, EvaluationClips, TrainingClips, collate
from vidtune.data.preparation import prepare_videos
from vidtune.data.sources import load_videos

# Four workers are more than some machines have cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

NUM_VIDEOS = 12
CLIP = ClipFormat(num_frames=4, image_size=32)
SOURCES = {
    "b_frames.mp4": {"options": {"crf": "23", "x264-params": "bframes=3:b-pyramid=normal"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"b": "200k", "lossless": "0"}},
    "turned.mkv": {"rotation": 90, "options": {"crf": "23"}},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "long.mp4": {"fps": 0.25, "options": {"crf": "23", "bf": "2"}},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Dataset:
    """Videos of several containers and codecs, one of them long, and spans of some."""
    folder = tmp_path_factory.mktemp("videos")
    paths = []
    for number in range(NUM_VIDEOS):
        name = list(SOURCES)[number % len(SOURCES)]
        options = {"fps": 25} | SOURCES[name]
        paths.append(write_video(folder / f"{number}_{name}", busy_frames(20, 48, 64, seed=number), **options))
    return rows(paths, [(0.2, 0.7) if number % 4 == 3 else (None, None) for number in range(NUM_VIDEOS)])


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory) -> Dataset:
    """The same, prepared."""
    folder = tmp_path_factory.mktemp("prepared") / "dataset"
    videos = source.add_column("group", source["video_id"][:])
    prepare_videos(DatasetDict(train=videos), folder, short_side=40, videos_per_shard=5, num_proc=1)
    return load_videos(str(folder))["train"]


@pytest.fixture(params=["source", "prepared"])
def videos(request) -> Dataset:
    return request.getfixturevalue(request.param)


def clips_of(videos: Dataset) -> TrainingClips:
    return TrainingClips(videos, CLIP, seed=3, color_jitter=0.3)


def loader_of(videos: Dataset, epoch: int = 0, workers: int = 0, batch_size: int = 2, context: str = "fork"):
    """The batches of an epoch, as VideoTrainer orders and stacks them."""
    sampler = EpochSampler(len(videos), seed=3)
    sampler.epoch = epoch
    return DataLoader(
        clips_of(videos),
        batch_size=batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context=context if workers else None,
    )


def checksum(batch: dict) -> str:
    assert batch["failed_rows"] == []
    return hashlib.sha256(batch["pixel_values"].numpy().tobytes() + batch["labels"].numpy().tobytes()).hexdigest()


def clip_checksums(batch: dict) -> list[str]:
    return [hashlib.sha256(clip.numpy().tobytes()).hexdigest() for clip in batch["pixel_values"]]


def test_any_number_of_workers_gives_the_same_batches(videos):
    alone, one, four = ([checksum(batch) for batch in loader_of(videos, workers=workers)] for workers in (0, 1, 4))
    assert len(set(alone)) == NUM_VIDEOS / 2
    assert alone == one == four


@pytest.mark.slow
def test_spawned_workers_give_the_same_batches_of_a_prepared_dataset(prepared):
    spawned = loader_of(prepared, workers=1, context="spawn")
    assert [checksum(batch) for batch in spawned] == [checksum(batch) for batch in loader_of(prepared)]


def test_every_epoch_has_other_clips(videos):
    epochs = [{sum for batch in loader_of(videos, epoch) for sum in clip_checksums(batch)} for epoch in range(3)]
    assert [len(clips) for clips in epochs] == [NUM_VIDEOS] * 3
    assert len(set.union(*epochs)) == 3 * NUM_VIDEOS


def test_two_processes_share_the_clips_of_one(videos):
    alone = [clip_checksums(batch) for batch in loader_of(videos, epoch=1, batch_size=4)]
    # What each of two processes gets from accelerate, as from the Trainer.
    halves = [
        prepare_data_loader(
            loader_of(videos, epoch=1, batch_size=2),
            num_processes=2,
            process_index=process,
            put_on_device=False,
            use_seedable_sampler=True,
        )
        for process in range(2)
    ]
    first, second = ([clip_checksums(batch) for batch in half] for half in halves)
    assert len(first) == len(second) == len(alone)
    for one, two, both in zip(first, second, alone, strict=True):
        assert set(one) | set(two) == set(both) and not set(one) & set(two)


def test_an_epoch_goes_on_where_it_was_interrupted(videos):
    whole = [checksum(batch) for batch in loader_of(videos, epoch=2)]
    prepared = prepare_data_loader(loader_of(videos, epoch=2, workers=1), put_on_device=False)
    assert [checksum(batch) for batch in skip_first_batches(prepared, 4)] == whole[4:]


def test_evaluation_is_the_same_for_any_number_of_workers(videos):
    clips = EvaluationClips(videos, CLIP, temporal_views=2, spatial_crops=3)
    sums = []
    for workers in (0, 1, 4):
        loader = DataLoader(clips, batch_size=3, collate_fn=collate, num_workers=workers)
        sums.append([checksum(batch) for batch in loader])
    assert sums[0] == sums[1] == sums[2]


class Checksums(TrainerCallback):
    """Keeps the checksum of every batch that a trainer is given."""

    def __init__(self, trainer):
        self.seen, prepare = [], trainer._prepare_inputs

        def note(inputs):
            self.seen.append(checksum(inputs))
            return prepare(inputs)

        trainer._prepare_inputs = note


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_run_that_is_resumed_amid_an_epoch_gets_the_same_batches(prepared, tmp_path, workers):
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2, "dataloader_num_workers": workers}
    straight = build(tmp_path / "run", None, clips_of(prepared), **options)
    all_of_them = Checksums(straight)
    straight.train()
    assert len(set(all_of_them.seen)) == len(all_of_them.seen) == 6  # two epochs of three batches
    resumed = build(tmp_path / "again", None, clips_of(prepared), **options)
    rest = Checksums(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert rest.seen == all_of_them.seen[2:]


def resident_bytes(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096


@pytest.mark.soak
def test_the_memory_of_a_worker_is_flat_over_ten_thousand_clips(videos):
    many = concatenate_datasets([videos] * (11_000 // NUM_VIDEOS + 1))
    batches = iter(loader_of(many, workers=1, batch_size=10))
    worker = batches._workers[0].pid
    used = []
    for number, _ in zip(range(1100), batches, strict=False):
        if number >= 100 and number % 20 == 0:
            used.append(resident_bytes(worker))
    assert len(used) == 50
    assert np.max(used) / np.min(used) < 1.05, [round(size / 2**20) for size in used]
