"""One thread per test process, unless OMP_NUM_THREADS says otherwise: small tensors gain nothing from more."""

import os

import sise.benchmark  # isort: skip  # before torch, which reads what it sets in the environment
import torch

assert sise.benchmark.process.DEFAULTS.keys() <= os.environ.keys()
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
