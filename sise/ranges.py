"""What settings of explainers and metrics may be, beside their types: ``n_masks: Count``.

A range stands in the annotation, where the harness reads it before the first image: a setting outside it is refused
before anything is computed. A function that is called from Python checks for itself what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any


@dataclass(frozen=True)
class Range:
    """What holds of a value besides its type.

    Attributes:
        words: How a message says it after the type: ``from 1``.
        holds: Whether a value of the right type is in it.
        names: All that are in it, where it is of names.
    """

    words: str
    holds: Callable[[Any], bool]
    names: Sequence[str] = ()


def at_least(least: float) -> Range:
    """Numbers from ``least`` on."""
    return Range(f"from {least}", lambda value: value >= least)


def one_of(names: Sequence[str]) -> Range:
    """Names that there are."""
    return Range(f"one of {', '.join(names)}", names.__contains__, names)


def each(inside: Range) -> Range:
    """Lists of at least one value, every one of them in a range."""
    words = f"with at least one value, each {inside.words}"
    return Range(words, lambda values: len(values) > 0 and all(map(inside.holds, values)))


ABOVE_ZERO = Range("above 0", lambda value: value > 0)
NotEmpty = Range("with at least one value", lambda values: len(values) > 0)

Count = Annotated[int, at_least(1)]
FromTwo = Annotated[int, at_least(2)]
OddCount = Annotated[int, Range("odd and from 1", lambda value: value >= 1 and value % 2 == 1)]
Percents = Annotated[int, Range("from 1 to 100", lambda value: 1 <= value <= 100)]
Seed = Annotated[int, Range("from 0 to 2^63 - 1", lambda value: 0 <= value < 2**63)]
FromZero = Annotated[float, at_least(0)]
Positive = Annotated[float, ABOVE_ZERO]
Share = Annotated[float, Range("from 0 to 1", lambda value: 0 <= value <= 1)]
ShareAboveZero = Annotated[float, Range("above 0 and up to 1", lambda value: 0 < value <= 1)]
EachPositive = Annotated[Sequence[float], each(ABOVE_ZERO)]
Shares = Annotated[Sequence[float], each(Range("strictly between 0 and 1", lambda value: 0 < value < 1))]
