"""Where this checkout lies: tests find its files from here, wherever they lie themselves."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WITNESSES = ROOT / "tests" / "witnesses"
