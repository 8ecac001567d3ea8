"""The loss since the last log entry, kept in checkpoints: a run that is resumed between two entries logs the same."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "running_loss.json"


@dataclass
class RunningLoss:
    """What Trainer adds up, and forgets when it is resumed.

    Attributes:
        losses: Of each process, the sum over the steps since the last log entry.
        total: Sum over the log entries.
        last_logged: Step of the last log entry.
    """

    losses: list[float]
    total: float
    last_logged: int

    def save(self, checkpoint: str) -> None:
        """Write it into a checkpoint."""
        Path(checkpoint, FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, checkpoint: str) -> "RunningLoss | None":
        """Read it from a checkpoint; None if it has none."""
        path = Path(checkpoint, FILE)
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
