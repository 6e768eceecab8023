"""Draws MNIST-1D curves with the map of each explainer under them: results/figures/mnist1d.png.

python scripts/mnist1d_figure.py
python scripts/mnist1d_figure.py --curves 0003 0017 --weights MNIST1D.h5 --output outputs/curves.png
"""

# ruff: noqa: E402
import sys
from pathlib import Path

# The code beside this script runs, whatever is installed; tabulate.py here would hide the package tabulate.
sys.path[:] = [str(Path(__file__).resolve().parents[1]), *(p for p in sys.path if not p.endswith("scripts"))]

import argparse

from baselines.grad_cam import grad_cam
from baselines.grad_cam_pp import grad_cam_pp
from baselines.integrated_gradients import integrated_gradients
from baselines.rise import rise
from baselines.score_cam import score_cam
from sise.benchmark import mnist1d
from sise.method import ada_sise, sise
from sise.types import SuiteError

EXPLAINERS = {
    "SISE": sise,
    "Ada-SISE": ada_sise,
    "Grad-CAM": grad_cam,
    "Grad-CAM++": grad_cam_pp,
    "Score-CAM": score_cam,
    "RISE": rise,
    "Int. Gradients": integrated_gradients,
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = "(default: %(default)s)"
    parser.add_argument("--curves", nargs="+", default=["0000", "0001", "0002", "0003", "0004"], metavar="ID",
                        help=f"test curves, 0000 to 0999 {default}")  # fmt: skip
    parser.add_argument("--weights", type=Path, help="another file than the weights that ship with the suite")
    parser.add_argument("--output", type=Path, default=Path("results/figures/mnist1d.png"), help=default)
    given = parser.parse_args()
    try:
        mnist1d.draw(mnist1d.network(given.weights), EXPLAINERS, given.output, ids=given.curves)
    except SuiteError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(given.output)


if __name__ == "__main__":
    main()
