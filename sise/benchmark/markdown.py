"""Tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

RULES = {"l": "---", "r": "--:"}


def markdown_table(lines: Sequence[Sequence[str]], align: str = "l") -> str:
    """A table in Markdown, without a line break at its end.

    Args:
        lines: The headings, then the rows; ``|`` is escaped here.
        align: Of the first columns, ``l`` for words or ``r`` for numbers each; all others hold numbers.
    """
    rule = [RULES[side] for side in align.ljust(len(lines[0]), "r")[: len(lines[0])]]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in (escaped[0], rule, *escaped[1:]))


def number(value: float, form: str = "+.2f") -> str:
    """A number in a table's cell, signed and to two digits if ``form`` says nothing else; a dash for NaN."""
    return "–" if math.isnan(value) else format(value, form)
