"""Trains the tutorial's VGG-7 on HMT, or only says how right given weights are on the test tiles.

    python scripts/train_hmt.py --root /data/Kather_texture_2016_image_tiles_5000
    python scripts/train_hmt.py --root /data/hmt --weights /data/hmt/HMT.h5        no training

The root holds HMT_train and HMT_test, or Kather's eight folders, which are split class by class (563 to train on, 62 to
test). It continues where it was interrupted. A GPU is advised: 150 epochs take hours on a CPU.
"""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]

import argparse
import os

from sise.benchmark import cli, hmt, tutorial
from sise.benchmark.runner import choose_device


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "(default: %(default)s)"
    parser.add_argument("--root", type=Path, default=Path("data/hmt"), help=f"folder of the tiles {default}")
    parser.add_argument("--weights", type=Path, help="only test these weights: HMT.h5, or a file of this script")
    parser.add_argument("--output", type=Path, default=Path("outputs/hmt/vgg7.pt"), help=f"the weights' file {default}")
    parser.add_argument("--epochs", type=int, default=150, help=default)
    parser.add_argument("--batch", type=int, default=32, help=default)
    parser.add_argument("--lr", type=float, default=0.01, help=f"learning rate {default}")
    parser.add_argument("--seed", type=int, default=0, help=f"of split, weights, order and augmentation {default}")
    workers = min(4, os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=workers, help=f"processes that read tiles {default}")
    parser.add_argument("--device", default="auto", help=f"auto, cpu, cuda, cuda:1 ... {default}")
    given = vars(parser.parse_args())
    root, weights, path = given.pop("root"), given.pop("weights"), given.pop("output")
    with cli.readable_errors():
        given["device"] = device = choose_device(given["device"])
        if weights is None:
            right, count = hmt.train(root, path, **given)
            print(f"weights: {path}")
        else:
            network = hmt.network(weights).network.to(device)
            tiles = hmt.HMT(root, seed=given["seed"])
            right, count = tutorial.accuracy(
                network, hmt.batches(tiles, given["batch"], device=device, workers=given["workers"])
            )
    print(f"test accuracy {right}/{count} = {100 * right / count:.2f} %")


if __name__ == "__main__":
    main()
