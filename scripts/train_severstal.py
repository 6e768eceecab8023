"""Trains SISE's ResNet-101 on the recast Severstal and puts its confusion matrix beside the published one.

    python scripts/train_severstal.py --root /data/severstal
    python scripts/train_severstal.py --root /data/severstal --arch resnet18 --size 64 --limit 500 --epochs 2   to try

It continues where it was interrupted; when the epochs are done it only evaluates. A GPU is strongly advised.
"""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]

import argparse
import logging
import os

import torch

from sise.benchmark import cli
from sise.benchmark.runner import choose_device
from sise.benchmark.severstal import Severstal
from sise.benchmark.severstal_training import Settings, evaluate, report, train

ROOT = Path(__file__).resolve().parents[1]


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    paper, default = Settings(), "(default: %(default)s)"
    add = parser.add_argument
    add("--root", type=Path, default=Path("data/severstal"), help=f"folder of train.csv and train_images {default}")
    add("--output", type=Path, default=Path("outputs/severstal"), help=f"folder of the weights {default}")
    add("--results", type=Path, default=Path("results"), help=f"folder of the confusion matrix {default}")
    add("--device", default="auto", help=f"auto, cpu, cuda, cuda:1 ... {default}")
    add("--workers", type=int, default=min(4, os.cpu_count() or 1), help=f"processes that read images {default}")
    add("--threads", type=int, default=0, help="CPU threads; 0 = torch's choice")
    add("--restart", action="store_true", help="begin anew instead of continuing")
    add("--all-12568", action="store_true", help="every strip, not only those with a defect")
    add("--black-below", type=float, default=10.0, help=f"mean grey value under which a tile is black {default}")
    add("--split-seed", type=int, default=0, help=f"seed of the splits {default}")
    settings = parser.add_argument_group("training; the defaults are the paper's where it gives one")
    add = settings.add_argument
    add("--arch", default=paper.arch, help=f"torchvision's resnet18, 34, 50 or 101 {default}")
    add("--epochs", type=int, default=paper.epochs, help=default)
    add("--lr", type=float, default=paper.lr, help=f"initial learning rate {default}")
    add("--halve-every", type=int, default=paper.halve_every, help=f"epochs between halvings of it {default}")
    add("--batch", type=int, default=paper.batch, help=f"tiles per step; not in the paper {default}")
    add("--momentum", type=float, default=paper.momentum, help=f"not in the paper {default}")
    add("--weight-decay", type=float, default=paper.weight_decay, help=f"not in the paper {default}")
    add("--size", type=int, default=paper.size, help=f"side of the network's input {default}")
    add("--limit", type=int, default=None, help="only so many tiles per subset, for a try-out")
    add("--select", default=paper.select, choices=("best", "last"), help=f"which epoch's weights to keep {default}")
    add("--seed", type=int, default=paper.seed, help=f"of weights and order {default}")
    add("--precision", default=paper.precision, choices=("fp32", "bf16"), help=default)
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    """Trains, evaluates and writes the confusion matrix."""
    given = vars(arguments)
    settings = Settings(**{name: given[name] for name in Settings.__dataclass_fields__})
    device = choose_device(arguments.device)
    dataset = Severstal(
        arguments.root,
        subset="train",
        all_12568=arguments.all_12568,
        black_below=arguments.black_below,
        seed=arguments.split_seed,
        cache=arguments.output.parent / ".severstal",
    )
    weights = train(
        dataset, settings, arguments.output, device=device, workers=arguments.workers, restart=arguments.restart
    )
    result = evaluate(dataset, weights, settings, device=device, workers=arguments.workers)
    print(report(result, ROOT / "results" / "published" / "severstal_confusion.csv", arguments.results))
    other = {"model.loader.arch": (settings.arch, Settings().arch), "dataset.loader.seed": (arguments.split_seed, 0),
             "dataset.loader.all_12568": (arguments.all_12568, False),
             "dataset.loader.black_below": (arguments.black_below, 10.0)}  # fmt: skip
    needed = "".join(f" {key}={value}" for key, (value, default) in other.items() if value != default)
    print(f"\nweights: {weights}\nnext: python scripts/evaluate.py experiment=sise_table2 "
          f"dataset.root={arguments.root} model.weights={weights}{needed}")  # fmt: skip


def main() -> None:
    """Turns an expected error into one readable message."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = parse_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with cli.readable_errors():
        run(arguments)


if __name__ == "__main__":
    main()
