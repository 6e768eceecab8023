"""Writes one self-contained HTML page of everything in results/; see configs/report.yaml."""

from __future__ import annotations

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from sise.benchmark.commands import command


@command.script("report")
def main(cfg: DictConfig) -> None:
    from sise.benchmark.report import page  # --help must not wait for torch

    settings = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    print(f"-> {page.write(settings)}")
