"""Do metrics, images, seeds, networks and data sets agree on the explainers? See configs/rank_agreement.yaml."""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from sise.benchmark.commands.rank_agreement import main

if __name__ == "__main__":
    main()
