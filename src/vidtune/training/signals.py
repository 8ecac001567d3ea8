"""SIGTERM and SIGINT, as a scheduler or Ctrl-C sends them, taken as a wish to save and stop."""

import os
import signal
import threading
import time
from types import FrameType

PATIENCE_SECONDS = 1.0
"""Launchers pass on what the terminal has sent already; a second Ctrl-C after this time is a person's."""


class SignalWatch:
    """Notes the first SIGTERM or SIGINT while it is entered, so that a step can be finished before the end.

    Later ones of SIGTERM are passed over, since schedulers and launchers send it twice; a second Ctrl-C ends the
    process as usual. Threads other than the main one can't watch signals, and note none.

    Attributes:
        noted: Number of the signal, 0 where none came.
    """

    def __init__(self) -> None:
        self.noted, self._when = 0, 0.0

    def __enter__(self) -> "SignalWatch":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.noted:
            self.noted, self._when = number, time.monotonic()
            line = f"\n{signal.Signals(number).name}: finishing the step, then saving a checkpoint\n"
            os.write(2, line.encode())  # a progress bar may be in the middle of writing to sys.stderr
        elif number == signal.SIGINT and time.monotonic() - self._when > PATIENCE_SECONDS:
            raise KeyboardInterrupt
