"""Counts the feature maps that each reading of Ada-SISE's rule keeps; see configs/kept_maps.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from sise.benchmark.commands.kept_maps import main

if __name__ == "__main__":
    main()
