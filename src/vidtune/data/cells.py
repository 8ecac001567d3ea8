"""Texts in CSV that no spreadsheet takes for formulas, and these texts read back."""

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""What a spreadsheet computes; and the same with quotes before it, so that a quote of ours is told from theirs."""


def to_cell(text: str) -> str:
    """Put a single quote before a text that a spreadsheet would compute.

    Source: OWASP, CSV injection.
    """
    return f"'{text}" if _FORMULA.match(text) else text


def from_cell(text: str) -> str:
    """Take away the quote that `to_cell` put there: every text is what it was."""
    return text[1:] if text[:1] == "'" and _FORMULA.match(text[1:]) else text
