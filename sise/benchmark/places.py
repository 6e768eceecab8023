"""Where the suite's own files lie: in a checkout beside the package, in an installation within it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
"""The package ``sise``."""
ROOT = PACKAGE.parent
"""The folder that holds the package: the checkout, or Python's folder of installed packages."""
IN_CHECKOUT = (ROOT / "pyproject.toml").is_file()
CONFIGS = ROOT / "configs" if IN_CHECKOUT else PACKAGE / "configs"
PUBLISHED = ROOT / "results" / "published" if IN_CHECKOUT else PACKAGE / "published"
"""The papers' numbers."""


def of_results(file: str | Path) -> Path:
    """A file of published numbers: relative to the checkout; ``results/published/...`` wherever that lies."""
    parts = Path(file).parts
    return PUBLISHED.joinpath(*parts[2:]) if parts[:2] == ("results", "published") else ROOT / file
