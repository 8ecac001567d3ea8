r"""Convert the weights of a checkpoint from a pickle, which could run code when opened, to safetensors, which can't.

    python recipes/convert.py --model user/name --output_dir outputs/name
    python recipes/finetune.py --model_name_or_path outputs/name --dataset my_videos

The pickle is read by torch.load(weights_only=True), which refuses all but tensors. Everything else is copied.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from vidtune.arguments import parse
from vidtune.errors import InputError, exit_code
from vidtune.options import ConvertArguments
from vidtune.training.checkpoints import check_output_dir, sync

SECTIONS = {"convert": ConvertArguments}


def main(argv: list[str] | None = None) -> None:
    """Find the checkpoint, read its weights and write the folder, which is whole or not there."""
    options: ConvertArguments = parse(argv, __doc__, SECTIONS, training=False).convert
    output_dir = Path(options.output_dir)
    check_output_dir(output_dir, resume=False, overwrite=False)

    from huggingface_hub import save_torch_state_dict

    from vidtune.hub import FILES_OF_VALUES, locate_pickles
    from vidtune.models.trust import pickled_weights
    from vidtune.models.weights import read_pickle

    folder = locate_pickles(str(options.model), "model", options.model_revision)
    pickles = pickled_weights([path.name for path in folder.iterdir()])
    if not pickles:
        raise InputError(f"model: {options.model}: has no pickle to convert; give it to the other recipes as it is")
    if len(pickles) > 1 and not pickles[0].startswith("pytorch_model"):
        raise InputError(f"model: {options.model}: which of {', '.join(pickles)}? Remove all but the weights")
    weights = {}
    for name in pickles:
        weights |= read_pickle(folder / name, "model", "its weights can't be had without running its code")
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}-", dir=output_dir.parent) as temporary:
        whole = Path(temporary) / output_dir.name
        whole.mkdir()
        for path in folder.iterdir():
            if path.is_file() and FILES_OF_VALUES.fullmatch(path.name):
                shutil.copyfile(path, whole / path.name)
        stem = "adapter_model" if pickles[0].startswith("adapter") else "model"
        save_torch_state_dict(weights, whole, filename_pattern=stem + "{suffix}.safetensors")
        sync(whole)
        whole.rename(output_dir)
    print(f"saved:     {output_dir}, {len(weights)} tensors as safetensors")


if __name__ == "__main__":
    sys.exit(exit_code(main))
