"""Words of others on a terminal."""

import re

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What a terminal obeys instead of showing: escape sequences begin so, and writing from right to left."""


def printable(text: object) -> str:
    r"""Write what a terminal would obey as it is written in Python: `\x1b` for ESC; lines and tabs stay.

    Names of files and labels are other people's: printed as they are, they could clear the screen, rename its window,
    or write over what stands there.
    """
    return _OBEYED.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))
