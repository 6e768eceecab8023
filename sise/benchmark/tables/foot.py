"""The notes below a table: all that a reader must know."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pandas as pd

from sise.benchmark import invocation
from sise.benchmark.metric_facts import lower_said
from sise.benchmark.places import CONFIGS
from sise.benchmark.records.departures import SEEDS, Budget, Departure, departures
from sise.benchmark.records.environment import without_folders
from sise.benchmark.records.store import pairs_of
from sise.benchmark.tables import arithmetic
from sise.benchmark.tables.judging import data_gaps, unexplained
from sise.benchmark.tables.runs import _distinct, clusters_of, commands_of, first_values, method_of, runs_of
from sise.benchmark.tables.statistics import AVERAGES
from sise.benchmark.tables.table import Column, Note, Run, Shown, Table
from sise.benchmark.tables.transparency import FULL, seen_through
from sise.benchmark.tables.words import METRICS, PROTOCOLS, STATUS, label_of
from sise.types import REMARKS, Remark

MOST_COMMANDS = 3  # of evaluate.py, below a table


def commands_below(
    definition: Mapping[str, Any], dataset: str, runs: Sequence[Run], columns: Sequence[Column]
) -> tuple[str, ...]:
    """The commands that made a table's records, else, if they are unknown, too many or not all, its experiment's; then
    tabulate's own."""
    keys = {(c.explainer, c.variant) for c in columns} | {tuple(c.against.split("/")) for c in columns}
    if reference := definition.get("reference"):
        keys.add((reference["explainer"], reference["variant"]))
    runs = [run for run in runs if method_of(run) in keys]
    name, commands = definition["name"], commands_of(runs)
    experiment = definition.get("experiment") or name
    if not commands or len(commands) > MOST_COMMANDS or any(map(unexplained, runs)):
        where = "" if dataset == "shapes" else f" dataset={dataset}"
        known = (CONFIGS / f"experiment/{experiment}.yaml").exists()
        commands = [f"{invocation.typed('evaluate')} experiment={experiment}{where}"] if known else []
    average, papers = (definition.get(key) or "pair" for key in ("average", "published_average"))
    setting = "" if average == papers else f" table.average={average}"
    return (*commands, f"{invocation.typed('make_tables')} table={name}{setting}")


def budgets_of(runs: Sequence[Run], column: Column) -> list[Budget]:
    """What the runs of a column were given, and their seeds, beside the paper's."""
    stated = dict.fromkeys(Budget(**run.identity["budget"]) for run in runs if run.identity.get("budget"))
    seeds = [Budget("seeds", "seeds", len(runs), column.seeds)] if runs and len(runs) < column.seeds else []
    return [*stated, *seeds]


def departures_of(
    runs: Sequence[Run], column: Column, shipped: Mapping[tuple[str, str, int | None], Mapping[str, Any]]
) -> list[Departure]:
    """In what the runs of a column are not what is shipped for it.

    Args:
        runs: Of the column, one per seed.
        column: A variant that has the name of a protocol belongs to that protocol.
        shipped: Configurations of the experiment's cells by (explainer, variant, seed). A run of another seed is
            compared with any of the column; one whose column is none of them has departed as it says itself.
    """
    cells = {seed: cell for (*of_cell, seed), cell in shipped.items() if of_cell == [column.explainer, column.variant]}
    found: list[Departure] = []
    for run in runs:
        seed = run.identity.get("seed")
        if seed in cells:
            own = departures(run.identity["config"], cells[seed])
        elif cells:
            own = departures(run.identity["config"], next(iter(cells.values())), ignored=SEEDS)
        else:
            own = run.departures
        if column.variant in PROTOCOLS and run.identity["protocol"] != column.variant:
            own = [Departure("protocol", run.identity["protocol"], column.variant), *own]
        found += own
    budgeted = {f"explainer.call.{budget.setting}" for budget in budgets_of(runs, column)}
    return [departure for departure in _distinct(found) if departure.key not in budgeted]


def foot(table: Table, runs: Sequence[Run]) -> list[Note]:
    """What a reader must know beside the numbers, most general first."""
    shown = {(m, c): g for m in table.models for c in table.columns if (g := runs_of(runs, m, c))}
    notes = [
        *_how_to_read(table),
        *_variants(shown),
        *_sources(table, shown),
        *_of_columns(table, shown),
        *_shared_by_columns(shown),
    ]
    for model in table.models:
        groups = {column: group for (m, column), group in shown.items() if m == model}
        own = [*_unequal_pairs(model, groups), *_arithmetic(table, model, groups), *_limits_of_data(model, groups)]
        own += seen_through(table, model, groups)
        notes += [replace(note, model=model) for note in own]
    return notes


PASSES = frozenset({"forward_passes", "backward_passes"})
SHOWN = {
    "means": "",
    "errors": " ± standard error (images as clusters)",
    "everything": " ± standard error (images as clusters) [published value and status]",
}
"""What a cell can show, and what then stands beside its mean."""


def reading(table: Table, show: str) -> str:
    """How to read a cell that shows one of :data:`SHOWN`."""
    return (
        f"Cells: mean over {AVERAGES[table.average]}{SHOWN[show]}. Bold: best, underlined: second best, of the "
        "compared explainers; controls take no part, nor do further variants of SISE and Ada-SISE, nor costs of a "
        "reduced budget, and a metric whose methods cover different pairs has no places. "
        f"{lower_said(table.metrics, 'costs')} – is no value."
    )


def _how_to_read(table: Table) -> list[Note]:
    notes = [reading(table, "everything")]
    counts = table.cells["status"].value_counts()
    for key in [key for key in STATUS if key in counts]:
        mark, meaning = STATUS[key]
        notes.append(f"Status {mark + ' ' if mark else ''}{key} ({counts[key]} cells): {meaning}.")
    if PASSES & set(table.metrics):
        notes.append("Passes are an image's, shared by its classes: one pass for three classes is 0.33 for each.")
    return [Note(text, about_marks=True) for text in notes]


def _variants(shown: Shown) -> list[Note]:
    """What each variant means; urgent where a run departs from its preset."""
    variants: dict[str, dict[tuple[str, bool], list[str]]] = {}  # variant: {what it means: columns}
    for (_, column), group in shown.items():
        for run in group:
            meaning = _protocol(run), bool(run.departures)
            variants.setdefault(run.variant, {}).setdefault(meaning, []).append(column.label)
    notes = []
    for variant, meanings in sorted(variants.items()):
        for (text, departs), labels in meanings.items():
            whose = f" of {', '.join(dict.fromkeys(labels))}" if len(meanings) > 1 else ""
            notes.append(Note(f"Variant {variant}{whose}: {text}.", urgent=departs))
    return notes


def _sources(table: Table, shown: Shown) -> list[Note]:
    """Weights, data and machines."""
    used = [run for group in shown.values() for run in group]
    notes = []
    for model in table.models:
        mine = [run for run in used if run.identity["model"] == model]
        for text, official in dict.fromkeys((_weights(run), run.identity["weights_official"]) for run in mine):
            notes.append(Note(f"{label_of(model)}: {text}.", urgent=not official, model=model))
    for column in table.columns:
        own = [run for (_, shown_column), group in shown.items() if shown_column == column for run in group]
        if column.model and own:
            notes.append(Note(f"{column.label}: {own[0].identity['model_note'].rstrip('.')}."))
    if used and not all(run.identity["complete_dataset"] for run in used):
        pairs = max(run.identity["expected_pairs"] for run in used)
        notes.append(Note(f"Dataset {table.dataset}: not the complete official set (the pairs found: {pairs})."))
    if (worst := max((run.place_error for run in used), default=0.0)) > 0:
        notes.append(Note(f"Scores depend on a mask's place in its batch by up to {worst:.2g} of the largest score on "
                          "a machine behind these records."))  # fmt: skip
    if (worst := max((run.drift for run in used), default=0.0)) > 0:
        kinds = sorted({run.identity["config"]["engine"]["precision"] for run in used if run.drift})
        notes.append(Note(f"Masked passes in {', '.join(kinds)} change scores by up to {worst:.2g} of the largest from "
                          "fp32's, measured on a run's first image."))  # fmt: skip
    if "seconds" in table.metrics:
        devices = sorted({device for run in used for device in run.devices})
        notes.append(Note(f"Seconds measured on: {', '.join(devices) or 'unknown'}."))
    return notes


def _of_columns(table: Table, shown: Shown) -> list[Note]:
    """What single columns lack, and how far their seeds lie apart."""
    every = []
    for (model, column), group in shown.items():
        notes = []
        who = f"{label_of(model)}, {column.label}"
        cells = {metric: table.cell(model, metric, column) for metric in table.metrics}
        failed = [run.records.facts for run in group if run.records.facts.failed]
        if failed:
            reason, count = without_folders(failed[0].first_failure), sum(facts.failed for facts in failed)
            notes.append(Note(f"{who}: {count} FAILED, not in the means; the first: {reason}.", urgent=True))
        for kind, words in (("undefined", "values set by definition"), ("missing", "values MISSING, not in the means")):
            counted = [f"{metric} {cell[kind]}" for metric, cell in cells.items() if cell[kind]]
            if counted:
                notes.append(Note(f"{who}: {words}: {', '.join(counted)}.", urgent=kind == "missing"))
        remarks: Counter[Remark] = Counter()
        for run in group:
            said = run.records.listed("remarks").items()
            remarks.update({cast("Remark", remark): len(maps) for remark, maps in said})
        for remark, count in remarks.items():
            maps = sum(run.records.facts.good for run in group)
            notes.append(Note(f"{who}: {count} of {maps} maps: {REMARKS[remark]}."))
        if len(group) > 1:
            spread = [f"{metric} {cell['seed s.d.']:.2f}" for metric, cell in cells.items()]
            notes.append(Note(f"{who}: mean of {len(group)} seeds; s.d. across seeds: {', '.join(spread)}."))
        every += [replace(note, model=model) for note in notes]
    return every


def _shared_by_columns(shown: Shown) -> list[Note]:
    """What several columns of a network have in common, said once."""
    shared: dict[tuple[str, Note], list[str]] = {}
    for (model, column), group in shown.items():
        expected = max(run.identity["expected_pairs"] for run in group)
        good = {int(run.identity.get("seed") or 0): run.records.facts.good for run in group}
        short = {seed: count for seed, count in good.items() if count != expected}
        done = ", ".join((f"seed {s}: " if len(group) > 1 else "") + f"{n} of {expected}" for s, n in short.items())
        reduced = [budget for budget in budgets_of(group, column) if not budget.full]
        for note in (
            *(Note(f"budget: {budget}", urgent=True, about_budget=True) for budget in reduced),
            *(Note(f"data: {gap}", urgent=True) for gap in data_gaps(group)),
            *(Note(doubt, urgent=True) for doubt in dict.fromkeys(doubt for run in group for doubt in run.doubts)),
            *([Note(f"pairs with a result: {done}")] if short else []),
        ):
            shared.setdefault((model, note), []).append(column.label)
    notes = []
    for (model, note), labels in shared.items():
        everyone = len(labels) == sum(m == model for m, _ in shown)
        whose = "every method" if everyone else ", ".join(labels)
        notes.append(replace(note, text=f"{label_of(model)}, {whose}: {note.text}.", model=model))
    return notes


def _unequal_pairs(model: str, groups: Mapping[Column, Sequence[Run]]) -> list[Note]:
    """Names the columns that lack pairs others have: their means are not of the same pairs."""
    pairs = {column: pairs_of(run.records for run in group) for column, group in groups.items()}
    everything = pairs_of(run.records for group in groups.values() for run in group)
    missing = {column: len(everything) - len(have) for column, have in pairs.items()}
    lacking = [f"{column.label} lacks {count}" for column, count in missing.items() if count]
    if not lacking:
        return []
    compared: list[pd.MultiIndex] = []
    for column, have in pairs.items():
        if len(have) and not column.control and not any(have.equals(other) for other in compared):
            compared.append(have)
    places = ", so there are no places" if len(compared) > 1 else ""
    return [Note(f"WARNING, {label_of(model)}: methods cover different pairs and compare only roughly{places}. "
                 f"Of {len(everything)}: {', '.join(lacking)}.", urgent=True)]  # fmt: skip


def _arithmetic(table: Table, model: str, groups: Mapping[Column, Sequence[Run]]) -> list[Note]:
    """PROTOCOL T1 to T5, each column against the masks of its own pairs."""
    found = []
    for column, group in groups.items():
        row = pd.DataFrame({m: [table.cell(model, m, column)["mean"]] for m in table.metrics}, index=[column.label])
        masks = first_values(group, "mask_fraction").dropna().astype(float)
        config = group[0].identity.get("config") or {}
        if (config.get("protocol") or {}).get("confidence") == "logit":  # T1 holds for probabilities only
            row = row.drop(columns="Drop%", errors="ignore")
        found += arithmetic.check(
            row.dropna(axis=1),
            uniform=row.dropna(axis=1) if column.explainer == "uniform" else None,
            above_uniform=table.dataset == "coco2014" and not column.control,
            mask_fractions=masks.tolist(),
            fraction=(config.get("metrics") or {}).get("top_fraction", 0.20),
            tolerance=1e-3,
        )
    if found:
        return [Note(f"ARITHMETIC VIOLATED, {label_of(model)}: {sentence}.", urgent=True) for sentence in found]
    if not set(METRICS) & set(table.metrics):
        return []
    good = f"{label_of(model)}: no violation of the arithmetic checks (Drop% ≤ 100 − Increase%; where there are masks, "
    good += "mIoU's ceiling; where it was run, the uniform map's EBPG and Bbox; on COCO, EBPG above the uniform map's)."
    return [Note(good)] if groups else []


def _limits_of_data(model: str, groups: Mapping[Column, Sequence[Run]]) -> list[Note]:
    """What bounds or skews a model's rows: mIoU's ceiling, dependent images, maps that keep fewer pixels than asked."""
    notes = []
    for column, group in groups.items():
        settings = group[0].identity.get("config", {}).get("metrics", {})
        kept = pd.concat([run.records.column("kept_fraction") for run in group]).dropna().astype(float)
        asked = float(settings.get("keep_fraction", math.nan))
        if len(kept) and kept.mean() < FULL * asked:
            blank = int((kept == 0).sum())
            none = f"; in {blank} of {len(kept)} maps none: their values are a blank image's" if blank else ""
            who = f"{label_of(model)}, {column.label}"
            notes.append(Note(f"{who}: Drop% and Increase% keep {100 * kept.mean():.1f} % of the "
                              f"pixels instead of {100 * asked:.0f} %, since values of the map are equal{none}.",
                              urgent=bool(blank)))  # fmt: skip
    runs = [run for group in groups.values() for run in group]
    if not runs:
        return notes
    masks = first_values(runs, "mask_fraction").dropna().astype(float)
    fraction = runs[0].identity.get("config", {}).get("metrics", {}).get("top_fraction")
    if any("mIoU" in run.records.facts.keys for run in runs) and len(masks) and fraction is not None:
        ceiling = arithmetic.miou_ceiling(masks.tolist(), fraction=fraction)
        notes.append(Note(f"{label_of(model)}: no map can have a larger mIoU than {ceiling:.2f} on these masks."))
    if clusters := set(clusters_of(runs).values()):
        images = pairs_of(run.records for run in runs).get_level_values(0).nunique()
        notes.append(Note(f"{label_of(model)}: images of one cluster (tiles of a slide) are no independent samples: "
                          f"standard errors are of {len(clusters)} clusters, not of {images} images."))  # fmt: skip
    return notes


def _protocol(run: Run) -> str:
    """What a variant means: its protocol's own description, else its settings; and where it departs from it."""
    settings = (run.identity.get("config") or {}).get("protocol") or {}
    words = settings.get("description") or ", ".join(f"{key} = {value}" for key, value in settings.items())
    departs = f"; departs from it: {', '.join(map(str, run.departures))}" if run.departures else ""
    return f"protocol {run.identity['protocol']}" + (f" ({words.strip().rstrip('.')})" if words else "") + departs


def _weights(run: Run) -> str:
    note = (run.identity.get("model_note") or "").strip().rstrip(".")
    kind = "the published checkpoint" if run.identity["weights_official"] else "NOT the published checkpoint"
    return f"weights {str(run.identity['weights_hash'])[:12]}, {kind}" + (f"; {note}" if note else "")
