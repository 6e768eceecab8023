"""Runs explainers over a dataset and records every metric, one line per (image, class)."""

from sise.benchmark import process

process.set_defaults()  # before anything here imports torch
