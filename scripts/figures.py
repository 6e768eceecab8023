"""Draws panels of maps, masks, the fusion cascade and the sanity checks; see configs/figures.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from sise.benchmark.commands.figures import main

if __name__ == "__main__":
    main()
