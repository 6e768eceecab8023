"""Trains the tutorial's shallow network on MNIST-1D, in less than a minute.

    python scripts/train_mnist1d.py                     the weights that ship with the suite
    python scripts/train_mnist1d.py --seed 1 --output outputs/mnist1d/seed1.pt

Another file than the shipped one is used with model.weights=<file>.
"""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]

import argparse
import time

import torch

from sise.benchmark import cli, mnist1d


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "(default: %(default)s)"
    parser.add_argument("--output", type=Path, default=mnist1d.shipped_weights(), help=f"the weights' file {default}")
    parser.add_argument("--epochs", type=int, default=200, help=default)
    parser.add_argument("--batch", type=int, default=20, help=default)
    parser.add_argument("--lr", type=float, default=0.01, help=f"learning rate {default}")
    parser.add_argument("--seed", type=int, default=0, help=f"of the initial weights and the order {default}")
    given = vars(parser.parse_args())
    path = given.pop("output")
    torch.set_num_threads(1)  # batches of twenty curves gain nothing from more
    begun = time.perf_counter()
    with cli.readable_errors():
        share = mnist1d.train(path, **given)
    print(f"test accuracy {100 * share:.1f} % after {time.perf_counter() - begun:.0f} s; weights: {path}")


if __name__ == "__main__":
    main()
