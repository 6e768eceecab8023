"""All tables at once: which can be made, which are, and what each replaces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sise.benchmark import invocation
from sise.benchmark.tables.build import build
from sise.benchmark.tables.definitions import has_model, named_in, shows
from sise.benchmark.tables.formats import to_csv, to_latex, to_markdown, to_text
from sise.benchmark.tables.judging import Shipped
from sise.benchmark.tables.published import read_published
from sise.benchmark.tables.result_files import ResultFolder
from sise.benchmark.tables.runs import find_runs, method_of
from sise.benchmark.tables.table import Run, Table
from sise.errors import SuiteError, choose

__all__ = ["tabulate"]

# the command ------------------------------------------------------------------------------------------------------
Writer = Callable[[Table, Mapping[str, Any], Sequence[Run], ResultFolder], list[Path]]
"""``(table, its definition, all runs, results folder) -> files written``."""


def tabulate(
    definitions: Mapping[str, Mapping[str, Any]],
    *,
    outputs: str | Path,
    results: str | Path,
    published: str | Path,
    table: str | None = None,
    dataset: str | None = None,
    controls: Iterable[str] = (),
    shipped: Shipped = lambda definition, model: {},
    spreads: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
    writers: Sequence[Writer] = (),
    latex: str = "means",
    overwrite: bool = False,
    say: Any = print,
) -> list[Path]:
    """Makes every table that has records, or ``table`` only, and writes and prints it.

    A dataset and model that no other definition covers go into ``default``. A table does not take the place of one of
    more pairs, unless ``overwrite`` says so.

    Args:
        definitions: By name, from ``configs/table/``.
        outputs: Folder of the run folders.
        results: Folder for the tables.
        published: The papers' numbers, see :func:`read_published`.
        table: Name of a definition; ``None`` = all.
        dataset: Only this one; ``None`` = each that has records.
        controls: Names of the explainers that are controls.
        shipped, spreads: See :func:`build`.
        writers: Write further files about each table; a definition with a ``layout`` of its own is theirs alone.
        latex: What the cells of the LaTeX show, a key of :data:`SHOWN`.
        overwrite: Replace tables of more pairs, and delete what a former table had beside it.
        say: Takes the readable table.

    Returns:
        The files written.

    Raises:
        SuiteError: If there are no records to make a table of.
    """
    runs = find_runs(outputs)
    found = sorted({(run.identity["dataset"], run.identity["model"]) for run in runs})
    plan = _plan(definitions, found, table, dataset, runs)
    if not plan:
        have = ", ".join(f"{d}/{m}" for d, m in found) or "nothing"
        wanted = " ".join(filter(None, [table and f"table={table}", dataset and f"dataset={dataset}"])) or "any table"
        command = invocation.typed("evaluate")
        raise SuiteError(f"no records for {wanted} below {outputs} (found: {have}); make some with {command}")
    numbers = read_published(published)
    folder, files = ResultFolder(Path(results), overwrite, say), []
    for definition, where in plan:
        others = [d for d in definitions.values() if d["name"] != definition["name"]]
        elsewhere = {(c["explainer"], c["variant"]) for d in others for c in d.get("columns") or ()}
        made = build(
            definition, where, runs, numbers, controls=controls, elsewhere=elsewhere, shipped=shipped, spreads=spreads
        )
        if not definition.get("layout"):
            say(to_text(made))
            texts = {"csv": to_csv(made), "md": to_markdown(made), "tex": to_latex(made, latex)}
            written = folder.write({f"{made.name}.{suffix}": text for suffix, text in texts.items()})
            files += written
            if written:
                say(f"-> {Path(results) / made.name}.{{csv,md,tex}}\n")
        for writer in writers if made.average == "pair" else ():  # their tests are of means over pairs
            files += writer(made, definition, runs, folder)
    return files


def _plan(
    definitions: Mapping[str, Mapping[str, Any]],
    found: Sequence[tuple[str, str]],
    table: str | None,
    dataset: str | None,
    runs: Sequence[Run] = (),
) -> list[tuple[Mapping[str, Any], str]]:
    """Which (definition, dataset) to make, given the (dataset, model) found.

    A definition with a ``reference`` compares things with it, and is made once one of these was run. What it shows is
    still another definition's to show, unless it names its datasets. One that ``needs`` explainers is made where one of
    these was run. One that says ``unrun`` is made without records
    too, if it is asked for: its published numbers with nothing beside them.
    """
    if table is not None:
        choose("table", table, list(definitions))
    left, named = set(found), named_in(definitions)
    plan = []
    for name, definition in definitions.items():
        datasets = definition.get("datasets")
        if name == "default":
            continue
        hits = {
            (d, m)
            for d, m in found
            if has_model(definition, d, m) and (datasets is None or d in datasets or (table == name and d == dataset))
        }
        if table is None and runs:
            shown = [run.identity for run in runs if shows(name, definition, run, named)]
            hits &= {(identity["dataset"], identity["model"]) for identity in shown}
        if needs := definition.get("needs"):
            hits &= {(i["dataset"], i["model"]) for i in (run.identity for run in runs) if i["explainer"] in needs}
        if definition.get("reference"):
            wanted = {(c["explainer"], c["variant"]) for c in definition["columns"]}
            wanted.discard((definition["reference"]["explainer"], definition["reference"]["variant"]))
            hits &= {(run.identity["dataset"], run.identity["model"]) for run in runs if method_of(run) in wanted}
        if datasets or not definition.get("reference"):
            left -= hits
        if table in (None, name):
            plan += [(definition, d) for d in sorted({d for d, _ in hits})]
    if table is not None and not plan and definitions[table].get("unrun"):
        plan = [(definitions[table], dataset or definitions[table]["datasets"][0])]
    if "default" in definitions and table in (None, "default"):
        for d in sorted({d for d, _ in left}):
            plan.append(({**definitions["default"], "models": sorted(m for where, m in left if where == d)}, d))
    return [(definition, d) for definition, d in plan if dataset in (None, d)]
