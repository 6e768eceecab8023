"""Says how far runs are: done, missing, stale and failed pairs per cell, and the time left; see configs/status.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from sise.benchmark.commands.status import main

if __name__ == "__main__":
    main()
