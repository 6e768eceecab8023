"""The extras of pyproject.toml: what is not installed with the core, and how to install it."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from sise.errors import SuiteError

__all__ = ["MissingExtra", "how_to_install", "missing", "require"]

_DISTRIBUTION = "sise-benchmark"
_CHECKOUT = Path(__file__).resolve().parents[1]


class MissingExtra(SuiteError, ImportError):
    """Something needs packages of an extra that is not installed."""


def how_to_install(extra: str) -> str:
    """The command that installs an extra of a checkout; behind a wheel, which no index has, its absent packages."""
    if (_CHECKOUT / "pyproject.toml").is_file():
        return f"pip install -e '.[{extra}]'"
    asked = _asked_by(extra)
    absent = [asked[name] for name in missing(extra)] or list(asked.values())
    return " ".join(["pip install", *(f"'{one}'" for one in absent)])


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed; none where the suite itself is not, and cannot say."""
    return [name for name in _asked_by(extra) if not _is_installed(name)]


def _asked_by(extra: str) -> dict[str, str]:
    """The packages of an extra, each with the versions that are asked for."""
    try:
        requirements = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    named = [one.partition(";")[0].strip() for one in requirements if re.search(rf"extra == ['\"]{extra}['\"]", one)]
    return {found[0]: one for one in named if (found := re.match(r"[\w.-]+", one)) and "[" not in one}


def require(extra: str, what: str) -> None:
    """Checks that the packages of an extra are there.

    Args:
        extra: Its name.
        what: Who needs it, for the message.

    Raises:
        MissingExtra: If one is not.
    """
    absent = missing(extra)
    if absent:
        others = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise MissingExtra(
            f"{what} needs packages that are not installed ({absent[0]}{others}): {how_to_install(extra)}"
        )


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
