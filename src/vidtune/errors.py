"""The errors a user can mend; recipes turn them into one line on stderr and an exit code."""

import sys
from collections.abc import Callable
from pathlib import Path


class InputError(ValueError):
    """Bad input: the message is one line that names the field or file, the value and the remedy.

    Recipes print it and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        # Values and paths that the message quotes may hold line breaks.
        super().__init__(" ".join(message.splitlines()))


class VideoError(InputError):
    """A video that cannot be decoded: the message names it and says why."""


class PublishError(RuntimeError):
    """A finished model that could not be published: the message says where it is saved and what publishes it.

    Recipes print it and exit with code 1.
    """


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type if it says nothing."""
    lines = str(error).strip().splitlines()
    if not lines or isinstance(error, KeyError):  # a key alone says little
        return f"{type(error).__name__} {error}".strip()
    return lines[0]


def exit_code(main: Callable[[], object]) -> int:
    """Run a recipe: 0; 2 with one line on bad input; 1 with one line where publishing failed; 130 on Ctrl-C."""
    recipe = Path(sys.argv[0]).name
    try:
        main()
    except (InputError, PublishError) as error:
        # An error of a data-loader worker arrives with the worker's traceback; the message stands at its end.
        name = f"{type(error).__module__}.{type(error).__name__}: "
        line = " ".join(str(error).splitlines()).strip().rpartition(name)[2]
        sys.stderr.write(f"{recipe}: {line}\n")
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt:
        sys.stderr.write(f"{recipe}: interrupted\n")
        return 130
    return 0
