"""Models as files that need none of their Python code: ONNX for onnxruntime, or a program of torch.export.

Both take normalised clips, float32 `(N, T, C, H, W)` with any N, and give logits `(N, num_labels)`; configuration and
processor of the model stand beside them.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from vidtune.errors import InputError, first_line
from vidtune.models.positions import clip_shape
from vidtune.models.trust import check_code

FILES = {"onnx": "model.onnx", "torch_export": "model.pt2"}
"""The file of each format, by which a folder is known to hold an exported model."""

WEIGHTS_ENDING = ".data"
"""What is added to an ONNX file's name for the file of its weights, where they are too large to stand inside."""

MOST_WEIGHTS_INSIDE = 1_500_000_000
"""Bytes of weights that stand inside an ONNX file, which can't be larger than 2 GiB."""


@dataclass(frozen=True)
class ExportedModel:
    """A model read from a file of `FILES`, which computes on the CPU.

    Attributes:
        run: Takes clips and returns logits, see the module.
        config: The model's configuration.
    """

    run: Callable[[Tensor], Tensor]
    config: PretrainedConfig

    def __call__(self, pixels: Tensor) -> Tensor:
        """Score clips, float32 `(N, T, C, H, W)`, normalised: `(N, num_labels)`."""
        return self.run(pixels)


class Logits(nn.Module):
    """A model as a function of the clips alone, which returns the logits alone.

    Args:
        model: Any of AutoModelForVideoClassification.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Score clips, float32 `(N, T, C, H, W)`, normalised: `(N, num_labels)`."""
        logits: Tensor = self.model(**{self.model.main_input_name: pixel_values}).logits
        return logits.flatten(1)


def export_model(model: PreTrainedModel, path: Path, export_format: str) -> None:
    """Write a model, in evaluation mode and on the CPU, as a file that takes any number of clips at once.

    Args:
        model: Any of AutoModelForVideoClassification.
        path: The file. Weights too large for an ONNX file go beside it, under its name and WEIGHTS_ENDING.
        export_format: A key of `FILES`.

    Raises:
        InputError: If the exporter can't follow the model's code.
    """
    export = {"onnx": export_onnx, "torch_export": export_torch}[export_format]
    frames, size = clip_shape(model.config)
    clips = torch.zeros(2, frames, 3, size, size)  # of a batch of one, the exporter would make a constant
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch to itself
            batch = ({0: Dim("batch")},)
            export(torch.export.export(Logits(model), (clips,), dynamic_shapes=batch), path)
    except Exception as error:  # whatever the exporter meets on its way through a model
        cause = error.__cause__ or error
        kind = model.config.model_type
        raise InputError(f"model: {kind}: can't be exported as {export_format}: {first_line(cause)}") from error


def export_onnx(program: ExportedProgram, path: Path) -> None:
    """Write a program as ONNX, with the input `pixel_values` and the output `logits`."""
    weights = sum(tensor.nbytes for tensor in program.state_dict.values())
    torch.onnx.export(
        program,
        f=path,
        input_names=["pixel_values"],
        output_names=["logits"],
        external_data=weights > MOST_WEIGHTS_INSIDE,
        verbose=False,
    )


def export_torch(program: ExportedProgram, path: Path) -> None:
    """Write a program as PyTorch's own archive, a ZIP of graph and weights."""
    torch.export.save(program, path)


def exported_file(name: str) -> Path | None:
    """Find the file of an exported model, given it or its folder; None if `name` is neither."""
    path = Path(name)
    if path.is_dir():
        return next((path / file for file in FILES.values() if (path / file).is_file()), None)
    return path if path.suffix in {Path(file).suffix for file in FILES.values()} and path.is_file() else None


def load_exported(path: Path, trust_remote_code: bool = False) -> ExportedModel:
    """Load an exported model to compute on the CPU.

    Args:
        path: As of `exported_file`; config.json stands beside it.
        trust_remote_code: Whether a `.pt2` may be loaded, which can run code that its author put there, as any file of
            pickles can. An ONNX file can't.

    Raises:
        InputError: If it can't be read, takes no clips, its configuration is missing, onnxruntime is, or it is not to
            be trusted.
    """
    load = load_onnx if path.suffix == ".onnx" else load_torch
    if load is load_torch and not trust_remote_code:
        raise InputError(
            f"model: {path}: PyTorch reads it with pickle, which can run code of whoever made it; if you trust them "
            "add --trust_remote_code, or export the model as onnx"
        )
    if not (path.parent / "config.json").is_file():
        raise InputError(f"model: {path}: has no config.json beside it; keep the files that export.py wrote together")
    check_code(path.parent, str(path), "model", trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(  # nosec B615 # of a folder
            path.parent, trust_remote_code=trust_remote_code
        )
        return ExportedModel(load(path), config)
    except InputError:
        raise
    except Exception as error:  # whatever transformers, onnxruntime and torch raise
        raise InputError(f"model: {path}: can't be loaded: {first_line(error)}; export it again") from None


def load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """Load an ONNX file: a function from clips to logits.

    Raises:
        InputError: If onnxruntime isn't installed, or the model's input isn't clips.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"model: {path}: needs onnxruntime; pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 5:
        raise InputError(f"model: {path}: takes no clips; give a file that recipes/export.py wrote")

    def run(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {inputs[0].name: pixels.cpu().numpy()})[0])

    return run


def load_torch(path: Path) -> Callable[[Tensor], Tensor]:
    """Load an archive of torch.export: a function from clips to logits."""
    run: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return run
