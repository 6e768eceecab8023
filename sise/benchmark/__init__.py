"""Runs explainers over a dataset and records every metric, one line per (image, class)."""

from sise import extras
from sise.benchmark import process

extras.require("bench", "the benchmark")
process.set_defaults()  # before anything here imports torch
