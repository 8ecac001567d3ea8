"""Metrics, reports and predictions."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidtune.evaluation.classifier import predict_frames as predict_frames


def __getattr__(name: str) -> Any:
    """Import `predict_frames` when it is asked for: the metrics need neither torch nor transformers."""
    if name == "predict_frames":
        from vidtune.evaluation.classifier import predict_frames

        return predict_frames
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
