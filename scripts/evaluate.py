"""Runs explainers over a dataset and records every metric, one line per (image, class)."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from sise.benchmark.commands.evaluate import main

if __name__ == "__main__":
    main()
