"""Writes FABRICATED records on data of COCO's size, to measure their reading; see configs/fabricate_records.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from sise.benchmark.commands.fabricate_records import main

if __name__ == "__main__":
    main()
