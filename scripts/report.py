"""Writes one self-contained HTML page of everything in results/; see configs/report.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from sise.benchmark.commands.report import main

if __name__ == "__main__":
    main()
