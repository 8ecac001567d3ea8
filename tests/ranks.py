"""Runs recipes/finetune.py several times in processes that torchrun started, and notes which videos each reads.

torchrun --nproc_per_node 2 tests/ranks.py notes '{"dataset": ...}' ...
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

from run_recipe import finetune
from vidtune.data import clips


def main(folder: Path, runs: list[dict[str, str]]) -> None:
    """Run with each of the options; `folder/<run>-<process>.txt` says what was opened: epoch, or -, and video."""
    multiprocessing.set_start_method("fork")  # workers note what they read, too
    open_row, item = clips.open_row, clips.TrainingClips.__getitem__
    epoch: int | str = "-"
    name = ""

    def noted_item(self, index):
        nonlocal epoch
        epoch = index[0]
        try:
            return item(self, index)
        finally:
            epoch = "-"

    def noted_video(video, decoder="auto"):
        with open(folder / f"{name}-{os.environ['RANK']}.txt", "a") as notes:
            notes.write(f"{epoch} {video['video_id']}\n")
        return open_row(video, decoder)

    clips.open_row, clips.TrainingClips.__getitem__ = noted_video, noted_item
    for options in runs:
        name = Path(options["output_dir"]).name
        finetune(**options)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [json.loads(options) for options in sys.argv[2:]])
