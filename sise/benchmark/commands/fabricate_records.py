"""Writes FABRICATED records on data of COCO's size, to measure their reading; see configs/fabricate_records.yaml."""

from __future__ import annotations

from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from sise.benchmark import invocation, places
from sise.benchmark.commands import command
from sise.errors import SuiteError


@command.script("fabricate_records")
def main(cfg: DictConfig) -> None:
    from sise.benchmark.performance import fabricated  # --help must not wait for torch

    if cfg.folder is None:
        raise SuiteError(f"which folder? {invocation.typed('fabricate_records')} folder=<elsewhere>; see --help.")
    folder = Path(str(cfg.folder))
    fabricated.check_folder(folder, places.ROOT)
    fabricated.write_data(folder, cfg.count)
    fabricated.write_networks(folder)
    GlobalHydra.instance().clear()  # the table is composed anew, with the networks made here
    for name, count in fabricated.write_runs(folder, cfg.cells):
        print(f"{name}: {count} FABRICATED records")
