"""The errors a user can mend; recipes turn them into one line on stderr and an exit code."""


class InputError(ValueError):
    """Bad input: the message is one line that names the field or file, the value and the remedy.

    Recipes print it and exit with code 2.
    """


class VideoError(InputError):
    """A video that cannot be decoded: the message names it and says why."""


class PublishError(RuntimeError):
    """A finished model that could not be published: the message says where it is saved and what publishes it.

    Recipes print it and exit with code 1.
    """
