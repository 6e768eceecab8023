"""The list of audits, and running them: asking the papers' data and weights which reading their numbers belong to.

Each audit is a short function from a `Bench` to an `Audit`, a table with a verdict. On a stand-in it runs all the same,
to show that it works, but concludes nothing and leaves no file; on a part of the papers' data it says so.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from sise.benchmark import invocation
from sise.benchmark.markdown import markdown_table
from sise.benchmark.records.environment import without_folders, without_places
from sise.benchmark.records.files import csv_text
from sise.benchmark.studies.audits.accuracy import u1, v4
from sise.benchmark.studies.audits.centre import v7
from sise.benchmark.studies.audits.context import Audit, Bench
from sise.benchmark.studies.audits.feature_maps import u2, u3
from sise.benchmark.studies.audits.readings import u4, u5, u6, u7
from sise.benchmark.tables.result_files import ResultFolder
from sise.errors import SuiteError, choose

__all__ = ["AUDITS", "run"]

#: Audits of the ground truth alone, which need neither pictures nor networks.
OF_ANNOTATIONS = ("V4", "V7")

AUDITS: dict[str, Callable[[Bench], Audit]] = {
    "U1": u1, "U2": u2, "U3": u3, "U4": u4, "U5": u5, "U6": u6, "U7": u7, "V4": v4, "V7": v7,
}  # fmt: skip


# --- running and writing ----------------------------------------------------------------------------------------------
def run(cfg: DictConfig, overrides: Sequence[str], asked: Sequence[str]) -> list[Audit]:
    """Runs audits and prints them; keeps those of the papers' data and weights.

    Args:
        cfg: ``configs/doctor.yaml``, composed; ``audit_<audit>_<dataset>.{csv,md}`` go to its ``results``.
        overrides: The command line's.
        asked: Names of audits; "all" is all.

    Raises:
        SuiteError: If a name is unknown or data or weights are missing.
    """
    names = list(AUDITS) if "all" in asked else [choose("audit", name, (*AUDITS, "all")) for name in asked]
    bench, done = Bench(cfg, overrides), []
    for name in names:
        bench.left_out = {}
        bench.limit = cfg.limits[cfg.dataset.budget][name] if cfg.limit is None else cfg.limit
        if not bench.ids:
            raise SuiteError(f"audit={name}: limit={bench.limit} leaves no image; give limit=1 or more")
        audit = AUDITS[name](bench)
        alone = name in OF_ANNOTATIONS
        stand_in, incomplete = bench.stand_in(networks=not alone), bench.incomplete(annotations=alone)
        if stand_in or (incomplete and not alone):
            audit = dataclasses.replace(audit, verdict=f"no conclusion: {stand_in or incomplete}")
        elif incomplete:
            audit = dataclasses.replace(audit, verdict=f"{incomplete}: {audit.verdict}")
        text = _markdown(audit, bench, overrides)
        print(text)
        if not stand_in:
            results, stem = ResultFolder(Path(cfg.results), cfg.overwrite), f"audit_{name}_{bench.dataset.name}"
            rows = csv_text(audit.rows)
            if results.write({f"{stem}.csv": rows, f"{stem}.md": text}):
                print(f"-> {results.path / stem}.{{csv,md}}\n")
        done.append(audit)
    return done


def _markdown(audit: Audit, bench: Bench, overrides: Sequence[str]) -> str:
    lines = [list(map(str, audit.shown.columns))]
    for row in audit.shown.itertuples(index=False):
        lines.append(["–" if isinstance(v, float) and math.isnan(v) else str(v) for v in row])
    table = markdown_table(lines, "l" * len(lines[0]))
    verdict = audit.verdict[0].upper() + audit.verdict[1:]
    images = f"{len(bench.ids)} of {len(bench.dataset.ids)} images"
    if bench.left_out:
        first = without_folders(next(iter(bench.left_out.values())))
        images += f", {len(bench.left_out)} of them left out, which could not be read (the first: {first})"
    command = f"{invocation.typed('doctor')} {shlex.join(map(without_places, overrides))}".rstrip()
    title = f"# Audit {audit.name} on {bench.dataset.name}"
    return f"{title}\n\n{audit.question}\n\n{table}\n\n**{verdict}.**\n\n{images}: `{command}`\n"
