"""The words of a command line, before Hydra reads them.

Hydra's grammar knows numbers, lists, sweeps and casts. A path or a name is none of these, whatever it looks like:
``image=2024_05_01`` is a folder, not the number 20240501. Values of such settings are put in Hydra's quotes here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from sise.errors import SuiteError

TEXTS = frozenset(
    {"image", "images", "out", "outputs", "results", "published", "page", "variant", "only", "model.loader.layers",
     "dataset", "engine", "experiment", "explainer", "metrics", "model", "protocol", "table"}
)  # fmt: skip
"""Settings that are paths, names, files of ``configs/``, or lists of them ..."""
TEXT_NAMES = frozenset({"root", "name", "label", "weights", "classes", "target", "arch", "cam_layer", "split"})
"""... settings whose last part says so (``dataset.root``) ..."""
TEXT_GROUPS = frozenset({"roots", "weights"})
"""... and all settings of these."""
SWITCHES = ("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m",
            "--shell-completion", "-sc")  # fmt: skip
"""Hydra's options without a value ..."""
OPTIONS = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
           "--experimental-rerun", "--info", "-i")  # fmt: skip
"""... and those that the next word belongs to."""


def is_text(key: str) -> bool:
    """Whether the setting's value is a path or a name, or a list of them."""
    parts = key.lstrip("+").split(".")
    return key.lstrip("+") in TEXTS or parts[-1] in TEXT_NAMES or parts[0] in TEXT_GROUPS


def settings_of(words: Sequence[str]) -> Iterator[str]:
    """The words that are neither options of Hydra nor these options' values.

    Raises:
        UnknownOption: At the first word that looks like an option and is none.
    """
    rest = iter(words)
    for word in rest:
        if word in OPTIONS:
            next(rest, None)
        elif word.startswith("-") and word not in SWITCHES and word.split("=", 1)[0] not in OPTIONS:
            raise UnknownOption(word, next(rest, ""))
        elif not word.startswith("-"):
            yield word


class UnknownOption(Exception):
    """``--explainer sise``: the option, and the word behind it."""

    def __init__(self, word: str, following: str) -> None:
        super().__init__(word)
        name, equals, value = word.lstrip("-").partition("=")
        self.word, self.key = word, name.replace("-", "_")
        self.value = value if equals else following if "=" not in following and following[:1] != "-" else ""


def check_settings_once(words: Sequence[str]) -> None:
    """Refuses words that set nothing, and two that set the same differently: Hydra takes the last without a word.

    Raises:
        SuiteError: On the first such word.
    """
    given: dict[str, str] = {}
    for word in words:
        key, equals, _ = word.partition("=")
        if word.startswith("~"):
            continue
        if not equals or not key.strip("+ "):
            raise SuiteError(
                f"{word!r} sets nothing; settings are written key=value. A value with a blank needs quotes around the "
                "whole word: 'image=my cat.jpg'."
            )
        key = key.lstrip("+")
        if given.setdefault(key, word) != word:
            raise SuiteError(f"{key} is given twice: {given[key]!r} and {word!r}; leave one out.")


def for_hydra(words: Sequence[str]) -> list[str]:
    """The words with paths and names in Hydra's quotes, where Hydra would read them as something else.

    What remains Hydra's: ``null``, lists ``[a,b]`` (unless there is a file of that name), values that are in quotes
    already, interpolations ``${...}`` and, with ``-m``, sweeps ``a,b`` and ``choice(a,b)``.
    """
    sweep = "-m" in words or "--multirun" in words
    return [_quoted_word(_of_own_network(word, words), sweep) for word in words]


def _of_own_network(word: str, words: Sequence[str]) -> str:
    """What people type of a network of their own, as Hydra and Python take it.

    ``model.target=nets/mynet.py:Net`` becomes ``model.target=nets.mynet.Net``. An argument, ``model.args.width=32``,
    is added, since no configuration lists what a user's class takes.
    """
    if word.startswith("model.args.") and "model=module" in words:
        return f"++{word}"
    found = re.fullmatch(r"(model\.target=)(?:\./)?((?:\w+/)*\w+)\.py:(\w[\w.]*)", word)
    return f"{found[1]}{found[2].replace('/', '.')}.{found[3]}" if found else word


def as_typed(word: str) -> str:
    """A word of :func:`for_hydra` as a user types it."""
    found = parsed([word])
    if found and is_text(found[0].key_or_group) and isinstance(value := found[0].value(), str):
        plain = f"{word.split('=', 1)[0]}={value}"
        again = parsed(for_hydra([plain]))
        if again and again[0].value() == value:
            return plain
    return word


def parsed(words: Sequence[str]) -> list[Override]:
    """The settings among the words, as far as Hydra can read them."""
    found = []
    for word in words:
        if not word.startswith("-") and ("=" in word or word.startswith("~")):
            try:
                found += OverridesParser.create().parse_overrides([word])
            except HydraException:  # Hydra says what is wrong with it
                continue
    return found


def _quoted_word(word: str, sweep: bool) -> str:
    key, equals, value = word.partition("=")
    if word.startswith(("-", "~")) or not equals or not is_text(key):
        return word
    if sweep and re.fullmatch(r"(choice|range|interval|glob|shuffle|sort|tag|extend_list)\(.*\)", value):
        return word
    # os.path.exists, since Path.exists raises for lists that are longer than a file's name may be
    pieces = _split(value) if sweep and not os.path.exists(value) else [value]
    return f"{key}=" + ",".join(_quoted(piece) for piece in pieces)


def _quoted(value: str) -> str:
    """A value for Hydra: quoted if it would be read as anything but this text; each element of a list."""
    in_quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if value in ("", "null") or in_quotes:
        return value
    if value[0] == "[" and value[-1] == "]" and not os.path.exists(value):
        inside = value[1:-1].strip()
        return "[" + ",".join(_quoted(element.strip()) for element in _split(inside)) + "]" if inside else "[]"
    if re.fullmatch(r"[\w./%+@-]+", value, re.ASCII) and parsed([f"key={value}"])[0].value() == value:
        return value  # nothing here that a sweep would hand on to its jobs with a backslash
    return QuotedString(value, Quote.single).with_quotes()


def _split(text: str) -> list[str]:
    """The parts between commas outside of quotes and brackets."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and not parts[-1].strip():  # else an apostrophe within a name
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        if character == "," and depth <= 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts
