"""A probe that is killed by some files and hangs on others, as a codec may; worker processes import it by name."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidtune.data.probe import probe_file


def failing_probe(source: str, spans: Sequence[Any]) -> list[dict[str, Any]]:
    if Path(source).name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if Path(source).name.startswith("hang"):
        time.sleep(600)
    return probe_file(source, spans)
