"""The errors a user can mend; recipes turn them into one line on stderr and an exit code."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from vidtune.card import without_secrets
from vidtune.children import kill_children
from vidtune.printing import printable

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""What a disk says that takes no more."""


class InputError(ValueError):
    """Bad input: the message is one line that names the field or file, the value and the remedy.

    Recipes print it and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        # Values and paths that the message quotes may hold line breaks, and what a terminal obeys.
        super().__init__(printable(" ".join(message.splitlines())))


class VideoError(InputError):
    """A video that cannot be decoded: the message names it and says why."""


class RunError(RuntimeError):
    """What ended a run though its input was good: the message is one line that says what, and how to go on.

    Recipes print it and exit with code 1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.splitlines())))


class PublishError(RunError):
    """A finished model that could not be published: the message says where it is saved and what publishes it."""


class Interrupted(BaseException):
    """A signal that asked the process to end; recipes exit with 128 and its number, as shells do.

    Args:
        number: Number of the signal.
        message: What was saved, and how to go on.
    """

    def __init__(self, number: int, message: str = "stopped; what was saved before is whole") -> None:
        super().__init__(f"{signal.Signals(number).name}: {message}")
        self.number = number


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type if it says nothing."""
    lines = str(error).strip().splitlines()
    if not lines or isinstance(error, KeyError):  # a key alone says little
        return f"{type(error).__name__} {error}".strip()
    return lines[0]


def exit_code(main: Callable[[], object]) -> int:
    """Run a recipe.

    Returns:
        0; 2 with one line on bad input; 1 with one line where the run failed otherwise, as on a full disk; 143 on
        SIGTERM and 130 on Ctrl-C.
    """
    recipe = Path(sys.argv[0]).name
    try:
        with _ended_by_sigterm():
            main()
    except (InputError, RunError) as error:
        # An error of a data-loader worker arrives with the worker's traceback; the message stands at its end.
        name = f"{type(error).__module__}.{type(error).__name__}: "
        line = " ".join(str(error).splitlines()).strip().rpartition(name)[2]
        sys.stderr.write(f"{recipe}: {without_secrets(line)}\n")
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        file = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"{recipe}: {file}{error.strerror}; make room, and run the same command again\n")
        return 1
    except Interrupted as error:
        sys.stderr.write(f"{recipe}: {error}\n")
        return 128 + error.number
    except KeyboardInterrupt:
        sys.stderr.write(f"{recipe}: interrupted\n")
        return 130
    finally:
        kill_children()
    return 0


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM raise Interrupted in this process, so that what is half-written is removed; not in its children."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            os._exit(128 + number)
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
