"""A fitted probe as files: the pipeline by skops, which runs no code of a file, and what it belongs to as JSON."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from vidtune.data.clips import ClipFormat
from vidtune.errors import InputError, first_line
from vidtune.evaluation.classifier import PROBE_RECORD, Classifier, weights_digest
from vidtune.evaluation.probing import Probe, check_packages, log_probabilities
from vidtune.models.features import load_features
from vidtune.models.loading import CLIP_RECORD, clip_settings
from vidtune.training.checkpoints import write_bytes, write_text

PIPELINE = "probe.skops"

TRUSTED = ("xgboost.core.Booster", "xgboost.sklearn.XGBClassifier")
"""Types that a file may hold beside those of scikit-learn and NumPy that skops knows to be harmless."""

FIELDS = {"probe", "model", "revision", "fingerprint", "pooling", "layer", "labels", "clip", "temperature"}


def save_probe(folder: Path, probe: Probe, record: Mapping[str, Any]) -> None:
    """Write a probe into a folder.

    Args:
        folder: Made where it is missing.
        probe: The probe.
        record: All of FIELDS but the temperature: `probe`, its name; `model` and `revision`, where the backbone is,
            and its `fingerprint`; `pooling` and `layer` of the features; `labels`; and the settings of the `clip`.
    """
    import skops.io

    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / PIPELINE, skops.io.dumps(probe.pipeline))
    write_text(folder / PROBE_RECORD, json.dumps({**record, "temperature": probe.temperature}, indent=2) + "\n")


def load_probe(
    name: str,
    *,
    device: str | None = None,
    sampling: str | None = None,
    fps: float | None = None,
    frame_stride: int | None = None,
    trust_remote_code: bool = False,
) -> Classifier:
    """Load a probe with the backbone whose features it reads.

    Args:
        name: Its folder.
        device: Of the backbone, as torch names it; None: the first GPU, else the CPU.
        sampling: Refused if it differs from what the probe was fitted with.
        fps: Likewise.
        frame_stride: Likewise.
        trust_remote_code: Whether code that lies in the backbone's checkpoint may be run.

    Raises:
        InputError: If a file is missing or something else, holds types that are not trusted, or the backbone is not
            there or another than the probe was fitted on.
    """
    folder = Path(name)
    record = _read_record(folder / PROBE_RECORD)
    pipeline, digest = _read_pipeline(folder / PIPELINE, record["probe"])
    clip = record["clip"]
    views = {key: clip.get(key) for key in ("sampling", "fps", "frame_stride")}
    network, settings, mean, std = load_features(
        record["model"],
        record["revision"],
        record["pooling"],
        record["layer"],
        **views,
        trust_remote_code=trust_remote_code,
    )
    fingerprint = weights_digest(network.model)
    if fingerprint != record["fingerprint"] or settings != clip:
        raise InputError(
            f"model: {name}: was fitted on features of another model than {record['model']} is now; fit it again with "
            "extract_features.py"
        )
    config = PretrainedConfig(id2label=dict(enumerate(record["labels"])), **clip)
    trained = {key: value for key, value in views.items() if value is not None}
    setattr(config, CLIP_RECORD, trained)
    clip_settings(config, sampling, fps, frame_stride)  # refuses others
    setattr(config, CLIP_RECORD, trained | {"temperature": record["temperature"]})
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network.to(chosen)

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        logs = log_probabilities(pipeline, network(pixels).float().cpu().numpy())
        return torch.from_numpy(logs).to(chosen, torch.float32)

    fingerprint = sha256((fingerprint + digest).encode()).hexdigest()
    return Classifier(forward, config, ClipFormat(**clip), mean, std, chosen, fingerprint)


def _read_record(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"model: {file}: can't be read ({first_line(error)}); fit the probe again") from None
    if not isinstance(record, dict) or set(record) != FIELDS:
        raise InputError(f"model: {file}: is no record of a probe; fit the probe again with extract_features.py")
    return record


def _read_pipeline(file: Path, probe: str) -> tuple[Any, str]:
    """Load a pipeline of trusted types only, and digest its file."""
    check_packages([probe])
    import skops.io

    try:
        content = file.read_bytes()
        unknown = sorted(set(skops.io.get_untrusted_types(data=content)) - {*TRUSTED})
        pipeline = None if unknown else skops.io.loads(content, trusted=TRUSTED)
    except Exception as error:  # whatever skops and zipfile raise of a broken file
        raise InputError(f"model: {file}: can't be read ({first_line(error)}); fit the probe again") from None
    if unknown:
        raise InputError(f"model: {file}: holds {unknown[0]}, which no probe of ours does; it is not loaded")
    return pipeline, sha256(content).hexdigest()
