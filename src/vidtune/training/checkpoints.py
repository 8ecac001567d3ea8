"""Folders of runs and checkpoints: checked before, and never half-written under their final names."""

import json
import logging
import os
import re
import shutil
import tempfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from vidtune.errors import InputError

logger = logging.getLogger(__name__)

STAGING = ".unfinished"
"""Folder in `output_dir` where checkpoints and models are written before they get their names."""

LOCK = ".lock"
"""The file in `output_dir` that a running run holds locked."""

RUN_MARK = "config.yaml"
"""The file by which a folder is known to hold a run."""

RUN_FILES = (
    RUN_MARK,
    "report.json",
    "report.html",
    "predictions.parquet",
    "README.md",
    "curves.png",
    "per_class.png",
    "confusion.png",
    "reconstructions.png",
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-?????-of-?????.safetensors",
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter/*.json",
    "adapter/*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
)
STATE = "trainer_state.json"
"""The file without which a folder is no checkpoint."""

CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def check_output_dir(output_dir: Path, resume: bool, overwrite: bool) -> None:
    """Check that a run may write into a folder: it is new, empty, or a run that is to be resumed or replaced.

    Raises:
        InputError: If it holds something else, or can't be written.
    """
    check_writable(output_dir)
    if not output_dir.exists() or all(is_unfinished(path) for path in output_dir.iterdir()):
        if resume:
            raise InputError(f"resume_from_checkpoint: {output_dir} holds no run; leave it out, or mend --output_dir")
        return
    if not is_run(output_dir):
        raise InputError(f"output_dir: {output_dir}: holds files of something else; give a new or an empty folder")
    if not resume and not overwrite:
        raise InputError(
            f"output_dir: {output_dir}: holds another run; give another folder, "
            "--resume_from_checkpoint auto, or --overwrite"
        )


def check_writable(output_dir: Path, field: str = "output_dir") -> None:
    """Check that a folder can be written, or made; errors call it `field`.

    Raises:
        InputError: If it can't.
    """
    try:
        found = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
        # Named as unfinished, since other processes of this run look into the folder, too
        with tempfile.TemporaryDirectory(prefix=".", suffix=STAGING, dir=found):
            pass
    except OSError as error:
        raise InputError(f"{field}: {output_dir}: can't be written ({error.strerror}); give another folder") from None


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run of ours, by what its config.yaml says: others call a file so, too."""
    try:
        config = yaml.safe_load((folder / RUN_MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(config, dict) and {"dataset", "config_overrides", "hub_model_id"} <= config.keys()


def is_unfinished(path: Path) -> bool:
    """Whether a file or folder is one that an interrupted run had not given its name yet."""
    return path.name.startswith(".") and (path.name.endswith(STAGING) or path.name == LOCK)


def open_output_dir(output_dir: Path) -> FileLock:
    """Make the folder of a run and lock it, as long as the lock that is returned lives.

    Raises:
        InputError: If it can't be made, or another run is writing into it.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output_dir / LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"output_dir: {output_dir}: another run is writing into it; give another folder") from None
    except OSError as error:
        raise InputError(f"output_dir: {output_dir}: can't be written to ({error.strerror}); give another") from None
    return lock


def close_output_dir(lock: FileLock) -> None:
    """Unlock the folder of a run that is finished."""
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def find_checkpoint(resume_from_checkpoint: str, output_dir: Path) -> Path:
    """Find the checkpoint to resume from.

    Args:
        resume_from_checkpoint: A folder, or `auto` for the newest whole one of the run. Checkpoints get their names
            when they are whole, but one may have been copied or deleted by half since: that is named and passed over.
        output_dir: Folder of the run.

    Raises:
        InputError: If there is none.
    """
    if resume_from_checkpoint.lower() not in ("auto", "true"):
        checkpoint = Path(resume_from_checkpoint)
        if not (checkpoint / STATE).is_file():
            raise InputError(f"resume_from_checkpoint: {checkpoint}: is no checkpoint; give its folder, or auto")
        if problem := half_written(checkpoint):
            raise InputError(f"resume_from_checkpoint: {checkpoint}: {problem}; give another one, or auto")
        return checkpoint
    passed_over = []
    for checkpoint in reversed(list_checkpoints(output_dir)):
        problem = half_written(checkpoint)
        if not problem:
            return checkpoint
        passed_over.append(f"{checkpoint.name} ({problem})")
        logger.warning("resume_from_checkpoint: %s is passed over: %s", checkpoint, problem)
    found = f"no whole checkpoint: {', '.join(passed_over)}" if passed_over else "no checkpoint"
    raise InputError(f"resume_from_checkpoint: {output_dir} holds {found}; start afresh with --overwrite")


def half_written(checkpoint: Path) -> str | None:
    """Say what is missing or cut short in a checkpoint, as one that was copied half; None if it is whole.

    Weights are checked by their size, archives of torch by the directory at their end; nothing is loaded.
    """
    for path in sorted({checkpoint / STATE, *checkpoint.glob("*.json")}):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return f"{path.name} is cut short"
    names = {path.name for path in checkpoint.iterdir()}
    sharded = any(name.startswith(("global_step", "pytorch_model_fsdp")) for name in names)
    if not sharded and not any(fnmatch(name, "*model*.safetensors") for name in names):
        return "it has no weights"
    if not sharded:
        for name in ("optimizer.pt", "scheduler.pt"):
            if name not in names:
                return f"it has no {name}"
    for folder in [checkpoint / name for name in names if name.startswith(("pytorch_model_fsdp_", "optimizer_"))]:
        if not (folder / ".metadata").is_file():  # which is written last
            return f"{folder.name} is cut short"
    for index in checkpoint.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(shards - names):
            return f"it has no {missing[0]}"
    for path in sorted(checkpoint.glob("*")):
        if path.suffix == ".safetensors" and not _is_whole_safetensors(path):
            return f"{path.name} is cut short"
        if path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):
            return f"{path.name} is cut short"
    return None


def _is_whole_safetensors(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np"):
            return True
    except (SafetensorError, OSError):
        return False


def list_checkpoints(output_dir: Path) -> list[Path]:
    """List the checkpoints of a run, in the order of their steps."""
    found = [(int(match[1]), path) for path in output_dir.iterdir() if (match := CHECKPOINT.fullmatch(path.name))]
    return [path for _, path in sorted(found) if (path / STATE).is_file()]


def clear_run(output_dir: Path) -> None:
    """Remove what a run has written into its folder, and nothing else."""
    for path in output_dir.glob("*"):
        if path.name == STAGING or (CHECKPOINT.fullmatch(path.name) and path.is_dir() and not path.is_symlink()):
            shutil.rmtree(path)
    for pattern in reversed((*RUN_FILES, "training_args.bin")):  # the mark last, or the rest is nobody's
        for path in output_dir.glob(pattern):
            path.unlink()


def move_files(folder: Path, target: Path) -> None:
    """Move whole files into a folder, each replacing its namesake at once, and remove their old folder."""
    sync(folder)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (target / path.name).exists():
            shutil.rmtree(target / path.name)  # a file would be replaced, a folder is not
        os.replace(path, target / path.name)
    folder.rmdir()


def move_checkpoint(staged: Path, final: Path) -> None:
    """Give a whole checkpoint its name."""
    sync(staged)
    replaced = staged.with_name(f"{final.name}-replaced")
    if final.exists():  # a run that was resumed from an earlier one comes by again
        final.rename(replaced)
    staged.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)


def rotate_checkpoints(output_dir: Path, save_total_limit: int | None, best: str | None) -> None:
    """Remove the oldest checkpoints beyond a limit, but never the best or the newest.

    Args:
        output_dir: Folder of the run.
        save_total_limit: How many to keep; None for all.
        best: Path of the best checkpoint, if it is known.
    """
    checkpoints = list_checkpoints(output_dir)
    removable = [path for path in checkpoints[:-1] if best is None or path.name != Path(best).name]
    excess = 0 if save_total_limit is None else len(checkpoints) - save_total_limit
    for path in removable[: max(0, excess)]:
        removed = output_dir / STAGING / f"{path.name}-removed"
        path.rename(removed)  # from now on it is no checkpoint, however much of it is left
        shutil.rmtree(removed)


def write_text(path: Path, text: str) -> None:
    """Write a file that is whole or not there."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there."""
    temporary = path.with_name(f".{path.name}.unfinished")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def sync(folder: Path) -> None:
    """Have the files of a folder written to the disk, so that a rename never precedes their content."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
