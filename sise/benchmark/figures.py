"""Figures of images and maps: panels, masks, the fusion cascade, sanity checks; see configs/figures.yaml.

Every map is made as in a run: same cells, same probes, same seeds, so that a panel's numbers are the records'. Layout
is in pixels of the file, each label in a place of its own.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import io
import logging
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra import compose
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from sise.benchmark import cli, runner, sanity
from sise.benchmark.preprocessing import CAFFE_MEAN
from sise.benchmark.runner import Cell
from sise.fusion import Step, cascade
from sise.maps import minmax
from sise.method import live, select
from sise.probe import EPSILON, Probe
from sise.scoring import Scorer
from sise.types import Sample, SuiteError, choose

log = logging.getLogger(__name__)

FIGURES = ("panel", "masks", "cascade", "sanity")
SALIENCY = "viridis"  # even steps for every kind of colour vision
OUTLINE = "#ffffff"
INK, PALE = "#222222", "#666666"
DPI = 100


# ---------------------------------------------------------------------- what is drawn


def compose_cells(cfg: DictConfig, overrides: Sequence[str], config_name: str = "figures") -> list[Cell]:
    """One cell per explainer of the figure, all on the same dataset, network and protocol.

    Args:
        cfg: The figure's configuration.
        overrides: The command line's overrides.
        config_name: The root configuration.

    Raises:
        SuiteError: If the figure or a setting is unknown, or data or weights are missing.
    """
    choose("figure", cfg.figure, FIGURES)
    names = {
        "panel": lambda: cfg.explainers,
        "masks": lambda: ["sise", "rise"],
        "cascade": lambda: [cfg.explainer.name],
        "sanity": lambda: [*cfg.explainers, *cfg.controls],
    }[cfg.figure]()
    if not names:
        raise SuiteError("a figure needs at least one explainer; the list `explainers` is empty.")
    if cfg.figure == "cascade":
        choose("explainer of figure=cascade", cfg.explainer.name, [n for n in ("sise", "ada_sise", "ada_sise_table")])
    general = [o for o in overrides if not o.startswith("explainer=")]
    configs = []
    for name in names:
        of_cell = [*general, f"explainer={name}"]
        configs += cli.compose_cells(compose(config_name, of_cell), of_cell, config_name)
    return runner.make_cells(configs)


def draw(cfg: DictConfig, cells: Sequence[Cell]) -> list[Path]:
    """Draws one figure.

    Args:
        cfg: The figure's configuration.
        cells: From :func:`compose_cells`.

    Returns:
        The files written.

    Raises:
        SuiteError: If an image or class is unknown.
    """
    kind = choose("figure", cfg.figure, FIGURES)
    pairs = choose_pairs(cells[0], cfg.count, cfg.seed, images=cfg.images, classes=cfg.classes)
    return {"panel": panel, "masks": masks, "cascade": cascades, "sanity": sanity_check}[kind](cfg, cells, pairs)


def choose_pairs(
    cell: Cell,
    count: int,
    seed: int,
    *,
    images: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> list[tuple[str, int]]:
    """The (image, target) pairs to draw.

    Args:
        cell: Knows the dataset and which classes the network has.
        count: How many pairs, of as many images, if they are to be drawn; the first n are the same for every count.
        seed: Of the choice.
        images: Ids; then every class of these images, in this order.
        classes: Only these.

    Returns:
        Pairs; fewer than ``count`` if there are not more.

    Raises:
        SuiteError: If an id or a class is unknown, or nothing is left.
    """
    dataset = cell.dataset
    for name in classes or ():
        choose("class", name, dataset.classes)
    for image_id in map(str, images or ()):
        if image_id not in set(dataset.ids):
            near = difflib.get_close_matches(image_id, dataset.ids, n=3, cutoff=0)
            raise SuiteError(
                f"{dataset.name} has no image {image_id!r} with targets; expected one of its {len(dataset.ids)} ids, "
                f"the nearest are: {', '.join(near)}."
            )

    def wanted(image_id: str) -> list[int]:
        return [t for t in cell.pairs(image_id) if not classes or dataset.classes[t] in classes]

    if images:
        pairs = [(image_id, t) for image_id in map(str, images) for t in wanted(image_id)]
    else:
        pairs = []
        for i in np.random.default_rng(seed).permutation(len(dataset.ids)):
            if len(pairs) == count:
                break
            image_id = dataset.ids[i]
            if targets := wanted(image_id):
                pairs.append((image_id, targets[runner._seed(seed, image_id) % len(targets)]))
    if not pairs:
        raise SuiteError(
            f"{dataset.name}: no image is left to draw; {cell.model.name} has no score for the classes of these "
            "images, or `classes` and `images` exclude each other, or `count` is 0."
        )
    return pairs


@dataclasses.dataclass
class Shared:
    """What the cells of one figure share: network on its device, engine, score cache."""

    cells: Sequence[Cell]
    network: torch.nn.Module | None = None

    def __post_init__(self) -> None:
        first = self.cells[0]
        engine = first.cfg.engine
        self.device = runner._device(first.cfg.device)
        changed = self.network is not None
        self.network = (self.network if changed else first.model.network).to(self.device)
        self.model = dataclasses.replace(first.model, network=self.network)
        self.scorer = Scorer(
            self.network,
            batch_size=engine.batch_size,
            lossless=engine.lossless,
            precision=engine.precision,
            compile=engine.compile,
        )
        self.cache = runner._score_cache(first, self.device) if engine.cache and not changed else None

    def probe(self, sample: Sample) -> Probe:
        """A probe of the image, with what is known of it from the disk."""
        first = self.cells[0]
        cell = Cell(first.cfg, first.dataset, self.model)
        probe = runner._probe(cell, sample, self.scorer, self.device)
        if self.cache is not None:
            self.cache.restore(probe)
        return probe

    def explain(self, cell: Cell, sample: Sample, probe: Probe, target: int) -> Tensor:
        """(H, W) saliency of one explainer, checked as in a run."""
        probe.seed = runner._seed(cell.cfg.seed, sample.image_id)
        output = cell.outputs[cell.dataset.classes[target]]
        return runner._checked(cell.explainer(probe, [output]), probe, 1, cell.cfg.protocol.on_nan)[0]

    def keep(self, probe: Probe) -> None:
        """Writes what the probe knows to the disk."""
        if self.cache is not None:
            self.cache.save(probe, sorted(probe.ground_truth))


# ---------------------------------------------------------------------- panel


def panel(cfg: DictConfig, cells: Sequence[Cell], pairs: Sequence[tuple[str, int]]) -> list[Path]:
    """One row per (image, class): the image, the ground truth, one map per explainer with its metrics."""
    shared = Shared(cells)
    cell_width, captions = 132, list(cfg.captions)
    known = [name for group in cells[0].metrics for name in group]
    for name in captions:
        choose("metric in `captions`", name, known)
    rows = Rows(
        ["image", "ground truth", *(c.cfg.explainer.label for c in cells)],
        len(pairs),
        cell=cell_width,
        caption_lines=max(2, len(captions)),
        footer=_footer(cells),
    )
    defined = False
    for row, (image_id, target) in enumerate(tqdm(pairs, desc="panel", unit="row")):
        sample = cells[0].dataset[image_id]
        probe = shared.probe(sample)
        output = cells[0].outputs[cells[0].dataset.classes[target]]
        picture, mask = seen(shared.model, probe), probe.ground_truth[output].cpu().numpy()
        psi = f"Ψ {_short(probe.confidence(output))}"
        rows.picture(row, 0, picture, [cells[0].dataset.classes[target], psi])
        outline(rows.picture(row, 1, dimmed(picture, mask), [image_id, _share(mask)]), mask)
        for column, cell in enumerate(cells, 2):
            saliency = shared.explain(cell, sample, probe, target)
            record = runner._record(cell, sample, probe, target, saliency, {})
            lines = [_metric(record, name) for name in captions]
            defined |= any(name in record["undefined"] for name in captions)
            outline(rows.picture(row, column, overlay(picture, saliency), lines), mask)
        shared.keep(probe)
    if defined:
        rows.note("* set by definition: constant map, empty mask or zero confidence")
    return [rows.save(_path(cfg, cells), cfg.kilobytes)]


def _metric(record: dict[str, Any], name: str) -> str:
    by_definition = "*" if name in record["undefined"] else ""
    return f"{name.rstrip('%')} {100 * record[name]:.0f} %{by_definition}"


def _share(mask: np.ndarray) -> str:
    return f"{100 * mask.mean():.0f} % of the image" if mask.any() else "outside the crop"


# ---------------------------------------------------------------------- masks


def masks(cfg: DictConfig, cells: Sequence[Cell], pairs: Sequence[tuple[str, int]]) -> list[Path]:
    """SISE Fig. 4: per block, the attribution masks with the largest gradient scores; below, RISE's random masks."""
    from baselines.rise import mask_bank

    sise_cell, rise_cell = cells
    shared = Shared(cells)
    layers, columns = sise_cell.model.layers, cfg.masks_per_layer
    rule = sise_cell.explainer.keywords["mask"]
    options = rise_cell.explainer.keywords
    rows = Rows(
        [""] * (columns + 1),
        len(pairs) * (len(layers) + 2),
        cell=104,
        caption_lines=1,
        first=168,
        footer=_footer(cells),
        colours=False,
    )
    for block, (image_id, target) in enumerate(pairs):
        sample = sise_cell.dataset[image_id]
        probe = shared.probe(sample)
        name = sise_cell.dataset.classes[target]
        output = sise_cell.outputs[name]
        picture, region = seen(shared.model, probe), probe.ground_truth[output].cpu().numpy()
        top = block * (len(layers) + 2)
        rows.label(top, [name, image_id, f"Ψ {_short(probe.confidence(output))}"], bold_first=True)
        rows.picture(top, 1, picture, ["image"])
        outline(rows.picture(top, 2, dimmed(picture, region), ["ground truth"]), region)
        lines = [
            "Attribution masks: feature maps brought to the image's size and to [0, 1];",
            "of each block those with the largest gradient scores, from left to right.",
            "Below them: the confidence Ψ in the class when the image is seen through them.",
        ]
        rows.text_beside(top, 3, lines)
        top += 1
        for i, layer in enumerate(layers):
            scores = probe.gradient_scores(layer, output)
            chosen = select(scores, lambda _: sise_cell.explainer.keywords["mu"]) & live(probe, layer, rule)
            best = [k for k in scores.argsort(descending=True).tolist() if chosen[k]][:columns]
            maps = probe.feature_maps(layer)
            lines = [f"block {i + 1}", _short_layer(layer), f"{maps.shape[1]} × {maps.shape[2]} pixels"]
            lines += [f"{int(chosen.sum())} of {len(scores)} selected"]
            rows.label(top + i, lines, bold_first=True)
            if not best:
                continue
            seen_through = probe.masked_confidences(layer, torch.tensor(best), [output], rule)[:, 0].tolist()
            lo, hi = (e[best, None, None] for e in probe.extrema(layer, rule))
            attribution = _upsampled((maps[best] - lo) / (hi - lo + EPSILON), probe.size, rule).cpu().numpy()
            for column, (mask, psi) in enumerate(zip(attribution, seen_through, strict=True), 1):
                rows.picture(top + i, column, mask, [f"Ψ {_short(psi)}"], cmap="gray")
        bank = mask_bank(options["n_masks"], options["cells"], options["p"], probe.size, options["seed"])
        random = bank.masks(0, columns, probe.device)
        lines = ["RISE", f"{options['n_masks']} random masks", "the first of them"]
        rows.label(top + len(layers), lines, bold_first=True)
        found = probe.to_confidence(probe.score_masks(random))[:, output].tolist()
        for column, (mask, psi) in enumerate(zip(random.cpu().numpy(), found, strict=True), 1):
            rows.picture(top + len(layers), column, mask, [f"Ψ {_short(psi)}"], cmap="gray")
        shared.keep(probe)
    return [rows.save(_path(cfg, cells), cfg.kilobytes)]


def _upsampled(maps: Tensor, size: tuple[int, int], rule: str) -> Tensor:
    from sise.maps import upsample

    return upsample(maps, size, "nearest" if rule == "nearest" else "bilinear")


# ---------------------------------------------------------------------- cascade


def visualization_maps(cell: Cell, probe: Probe, target: int) -> list[Tensor | None]:
    """The visualization map of each layer, low to high: SISE of that layer alone.

    Args:
        cell: SISE or Ada-SISE.
        probe: One image as one network sees it.
        target: Index of the network's score.

    Returns:
        (H, W) maps in [0, 1]; None where a layer has none.
    """
    options = dict(cell.explainer.keywords) | {"normalise": True, "empty": "skip"}
    layers = options.pop("layers", None) or probe.layers
    found = []
    for layer in layers:
        alone = cell.explainer.func(probe, [target], layers=[layer], **options)[0]
        found.append(alone if bool(alone.any()) else None)
    return found


def cascade_steps(cell: Cell, probe: Probe, target: int) -> list[Step]:
    """The steps by which the cell's explainer fuses its visualization maps, see :func:`sise.fusion.cascade`."""
    options = cell.explainer.keywords
    return cascade(
        visualization_maps(cell, probe, target),
        gate=options["gate"],
        temperature=options["temperature"],
        empty=options["empty"],
    )


def cascades(cfg: DictConfig, cells: Sequence[Cell], pairs: Sequence[tuple[str, int]]) -> list[Path]:
    """SISE Fig. 6: per layer its visualization map, its gate and what is accumulated, for each pair."""
    cell = cells[0]
    shared = Shared(cells)
    layers = list(cell.explainer.keywords.get("layers") or cell.model.layers)
    titles = [f"block {i} · {_short_layer(layer)}" for i, layer in enumerate(layers, 1)]
    rows = Rows(
        ["", *titles],
        3 * len(pairs),
        cell=160,
        caption_lines=1,
        first=160,
        footer=f"{_footer(cells)} · gate {cell.explainer.keywords['gate']}",
    )
    for block, (image_id, target) in enumerate(pairs):
        sample = cell.dataset[image_id]
        probe = shared.probe(sample)
        name = cell.dataset.classes[target]
        output = cell.outputs[name]
        picture, mask = seen(shared.model, probe), probe.ground_truth[output].cpu().numpy()
        top = 3 * block
        psi = f"{name} · Ψ {_short(probe.confidence(output))}"
        outline(rows.picture(top, 0, picture, [psi]), mask)
        for row, lines in enumerate((["gate", "of the block's map"], ["accumulated:", "(so far + map) × gate"]), 1):
            rows.label(top + row, lines, bold_first=True)
        steps = {step.layer: step for step in cascade_steps(cell, probe, output)}
        for column, layer in enumerate(range(len(layers)), 1):
            step = steps.get(layer)
            if step is None or step.map is None:
                rows.blank(top, column, "no feature map selected")
            else:
                outline(rows.picture(top, column, overlay(picture, step.map), ["visualization map"]), mask)
            if step is None:
                continue
            if step.gate is None:
                rows.blank(top + 1, column, "not gated")
            else:
                opened = step.gate.cpu().numpy()
                rows.picture(top + 1, column, opened, [f"open: {100 * opened.mean():.0f} %"], cmap="gray")
            last = layer == max(steps)
            caption = "the saliency map" if last else f"after block {layer + 1}"
            outline(rows.picture(top + 2, column, overlay(picture, minmax(step.fused)), [caption]), mask)
        shared.keep(probe)
    return [rows.save(_path(cfg, cells), cfg.kilobytes)]


# ---------------------------------------------------------------------- sanity checks

TRAINED, UNTRAINED, OTHER = "trained", "untrained", "another image"


def sanity_check(cfg: DictConfig, cells: Sequence[Cell], pairs: Sequence[tuple[str, int]]) -> list[Path]:
    """SISE Figs. 11 and 13: maps of one image at every stage, similarities of all, as table and plot."""
    results, shown = sanity_records(cells, pairs, cfg.seed)
    table = sanity_table(results)
    path = _path(cfg, cells)
    folder = Path(cfg.results)
    folder.mkdir(parents=True, exist_ok=True)
    csv, markdown = folder / f"{path.stem}.csv", folder / f"{path.stem}.md"
    table.to_csv(csv, index=False, float_format="%.4f")
    markdown.write_text(_sanity_markdown(cfg, cells, table, results), encoding="utf-8")
    sheet = _sanity_sheet(cfg, cells, pairs[0], shown, results)
    lines = _sanity_plot(cfg, cells, table)
    return [csv, markdown, sheet, lines]


def sanity_records(
    cells: Sequence[Cell], pairs: Sequence[tuple[str, int]], seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Explains each pair with each cell at every stage of the randomisation.

    Args:
        cells: Of one dataset and network.
        pairs: (image, target).
        seed: Of the random parameters.

    Returns:
        Records, one per (explainer, stage, image): ``spearman`` and ``ssim`` to the trained network's map,
        ``undefined`` (a constant map decided), ``failed`` (why), ``confidence`` and ``modules`` (how many are random so
        far); and the first pair's maps by (explainer, stage), with its picture and mask.
    """
    trained = Shared(cells)
    samples = [cells[0].dataset[image_id] for image_id, _ in pairs]
    probe = trained.probe(samples[0])
    found = sanity.stages(trained.network, probe.image, cells[0].model.layers)
    plan: list[tuple[str, Callable[[int], torch.nn.Module] | None, int]] = [(TRAINED, None, 0)]
    modules: list[str] = []
    for stage in found:
        modules += stage.modules
        plan.append((stage.name, functools.partial(sanity.randomised, trained.network, tuple(modules)), len(modules)))
    plan.append((UNTRAINED, functools.partial(sanity.untrained, trained.network), len(modules)))
    output = cells[0].outputs[cells[0].dataset.classes[pairs[0][1]]]
    shown: dict[str, Any] = {"picture": seen(trained.model, probe), "mask": probe.ground_truth[output].cpu().numpy()}
    reference: dict[tuple[str, int], Tensor] = {}
    records: list[dict[str, Any]] = []
    for stage, make, count in (bar := tqdm(plan, desc="sanity", unit="network")):
        for i, (sample, (_, target)) in enumerate(zip(samples, pairs, strict=True)):
            bar.set_postfix_str(f"{stage}, image {i + 1} of {len(pairs)}")
            # other random numbers for each image, so that the standard error covers them too
            shared = Shared(cells, make(runner._seed(seed, sample.image_id))) if make else trained
            probe = shared.probe(sample)
            for cell in cells:
                label = cell.cfg.explainer.label
                record = {"explainer": label, "stage": stage, "modules": count, "image_id": sample.image_id}
                record |= {"spearman": np.nan, "ssim": np.nan, "undefined": False, "failed": "", "confidence": np.nan}
                records.append(record)
                try:
                    output = cell.outputs[cell.dataset.classes[target]]
                    record["confidence"] = probe.confidence(output)
                    saliency = shared.explain(cell, sample, probe, target).cpu()
                except Exception as error:  # a random network may overflow: counted, not hidden
                    log.warning("%s, %s, image %s failed: %s", label, stage, sample.image_id, error)
                    record["failed"] = f"{type(error).__name__}: {error}"
                    continue
                if make is None:
                    reference[label, i] = saliency
                if i == 0:
                    shown[label, stage] = saliency
                _compare(record, reference.get((label, i)), saliency)
            if make is None:
                shared.keep(probe)
    for label in dict.fromkeys(label for label, _ in reference):
        for i in range(len(pairs) if len(pairs) > 1 else 0):
            record = {"explainer": label, "stage": OTHER, "modules": 0, "image_id": samples[i].image_id, "failed": ""}
            records.append(record)
            _compare(record, reference.get((label, i)), reference.get((label, (i + 1) % len(pairs))))
    return pd.DataFrame(records), shown


def _compare(record: dict[str, Any], one: Tensor | None, other: Tensor | None) -> None:
    """Enters how alike two maps are; nothing where one is missing or they differ in size."""
    if one is None or other is None or one.shape != other.shape:
        record["failed"] = record["failed"] or "no map of the trained network to compare with"
        return
    record["spearman"] = sanity.rank_correlation(one, other)
    record["ssim"] = sanity.structural_similarity(one, other)
    record["undefined"] = sanity.constant(one) or sanity.constant(other)


def sanity_table(records: pd.DataFrame) -> pd.DataFrame:
    """Means over the images with their standard errors, one row per (explainer, stage), in the order of the records."""
    rows = []
    for (explainer, stage), group in records.groupby(["explainer", "stage"], sort=False):
        good = group[group["failed"] == ""]
        row = {"explainer": explainer, "stage": stage, "modules": int(group["modules"].iloc[0]), "n": len(good)}
        for name in ("spearman", "ssim", "confidence"):
            row[name] = good[name].mean()
            row[f"{name}_se"] = good[name].std(ddof=1) / np.sqrt(len(good)) if len(good) > 1 else np.nan
        row |= {"undefined": int(good["undefined"].sum()), "failed": len(group) - len(good)}
        rows.append(row)
    return pd.DataFrame(rows)


def _sanity_markdown(cfg: DictConfig, cells: Sequence[Cell], table: pd.DataFrame, records: pd.DataFrame) -> str:
    images = records["image_id"].nunique()
    stages = list(dict.fromkeys(table["stage"]))
    lines = [
        f"# Sanity check: {_subject(cells[0])}",
        "",
        "Similarity of each explainer's map to the trained network's map of the same image and class, mean over "
        f"{images} images ± standard error (images and random numbers: seed {cfg.seed}). Weights and biases are "
        "randomised from the classifier down, cumulatively: normal numbers with each tensor's mean and standard "
        "deviation, other ones for each image (SISE Fig. 11). "
        f"*{UNTRAINED}*: every layer by its own initialiser (Fig. 13). *{OTHER}*: the trained network's map of another "
        "image and class, for scale: a map that is no more alike than this has nothing left of the first one. Lower = "
        "more sensitive to what the network learnt; the controls ignore the network and must stay at 1.",
        "",
        f"{_footer(cells)}. {cells[0].model.note}.",
    ]
    for name, title in (("spearman", "Spearman rank correlation"), ("ssim", "SSIM")):
        lines += ["", f"## {title}", "", "| Explainer | " + " | ".join(stages) + " |", "|---" * (len(stages) + 1) + "|"]
        for explainer, group in table.groupby("explainer", sort=False):
            by_stage = group.set_index("stage")
            cells_of_row = [_mean(by_stage.loc[s], name) if s in by_stage.index else "–" for s in stages]
            lines.append(f"| {explainer} | " + " | ".join(cells_of_row) + " |")
    first = table[table["explainer"] == table["explainer"].iloc[0]].set_index("stage")
    modules = [str(first.loc[s, "modules"]) if s != OTHER else "0" for s in stages]
    psi = [_mean(first.loc[s], "confidence") if s != OTHER else "–" for s in stages]
    lines += ["", "## Networks", "", "| | " + " | ".join(stages) + " |", "|---" * (len(stages) + 1) + "|"]
    lines += [f"| modules randomised | {' | '.join(modules)} |", f"| Ψ of the class | {' | '.join(psi)} |", ""]
    undefined = [r for r in table.itertuples() if r.undefined]
    if undefined:
        lines.append(
            "Set by definition, because a map was constant (two constant maps: correlation 1; one: 0): "
            + "; ".join(f"{r.explainer}, {r.stage}: {r.undefined} of {r.n}" for r in undefined)
            + "."
        )
    failed = [r for r in table.itertuples() if r.failed]
    if failed:
        lines += ["", "Failed: " + "; ".join(f"{r.explainer}, {r.stage}: {r.failed}" for r in failed) + "."]
    return "\n".join(lines).rstrip() + "\n"


def _mean(row: pd.Series, name: str) -> str:
    if not np.isfinite(row[name]):
        return "–"
    error = f" ± {row[f'{name}_se']:.2f}" if np.isfinite(row[f"{name}_se"]) else ""
    return f"{row[name]:.2f}{error}"


def _sanity_sheet(
    cfg: DictConfig, cells: Sequence[Cell], pair: tuple[str, int], shown: dict[str, Any], records: pd.DataFrame
) -> Path:
    """The maps of one image: a row per explainer, a column per stage."""
    image_id, target = pair
    stages = [s for s in dict.fromkeys(records["stage"]) if s != OTHER]
    rivals = [c for c in cells if c.cfg.explainer.name not in cfg.controls]
    first = records[records["image_id"] == image_id].set_index(["explainer", "stage"])
    name = cells[0].dataset.classes[target]
    rows = Rows(
        ["", *stages],
        len(rivals),
        cell=104,
        caption_lines=1,
        first=180,
        footer=f"{_footer(cells)} · image {image_id}, {name} · ρ: rank correlation to the trained network's map",
    )
    for row, cell in enumerate(rivals):
        label = cell.cfg.explainer.label
        rows.label(row, [label], bold_first=True)
        for column, stage in enumerate(stages, 1):
            saliency = shown.get((label, stage))
            if saliency is None:
                rows.blank(row, column, "failed")
                continue
            values = first.loc[(label, stage)]
            star = "*" if values["undefined"] else ""
            caption = "" if stage == TRAINED else f"ρ {values['spearman']:.2f}{star}"
            outline(rows.picture(row, column, overlay(shown["picture"], saliency), [caption]), shown["mask"])
    if first["undefined"].any():
        rows.note("* set by definition: a map is constant")
    path = _path(cfg, cells)
    return rows.save(path.with_name(path.name.replace("sanity_", "sanity_maps_", 1)), cfg.kilobytes)


STYLES = {
    "SISE": ("#d55e00", "o", 2.6),
    "Ada-SISE": ("#e69f00", "D", 2.6),
    "Grad-CAM": ("#0072b2", "s", 1.3),
    "Grad-CAM++": ("#56b4e9", "v", 1.3),
    "Extremal Perturbation": ("#009e73", "^", 1.3),
    "RISE": ("#cc79a7", "P", 1.3),
    "Score-CAM": ("#000000", "X", 1.3),
    "Integrated Gradient": ("#7f7f7f", "<", 1.3),
    "FullGrad": ("#8c6d1f", ">", 1.3),
}
"""Colour (Okabe and Ito's, for every kind of colour vision), marker and line width per explainer."""


def _sanity_plot(cfg: DictConfig, cells: Sequence[Cell], table: pd.DataFrame) -> Path:
    """Mean similarity by stage, one line per explainer; what is no stage of the cascade stands apart, unjoined."""
    controls = {c.cfg.explainer.label for c in cells if c.cfg.explainer.name in cfg.controls}
    labels = list(dict.fromkeys(table["explainer"]))
    apart = [s for s in (UNTRAINED, OTHER) if s in set(table["stage"])]
    joined = [s for s in dict.fromkeys(table["stage"]) if s not in apart]
    width, height, plot_width, plot_height = 1270, 470, 440, 300
    sheet = Sheet(width, height)
    title = f"Similarity to the trained network's map: {_subject(cells[0])}"
    sheet.text(60, 20, title, size=11, align="left", bold=True)
    handles = {}
    for number, (name, title) in enumerate((("spearman", "Spearman rank correlation"), ("ssim", "SSIM"))):
        left = 60 + number * (plot_width + 60)
        axes = sheet.axes(left, 70, plot_width, plot_height)
        axes.set_title(title, fontsize=10, loc="left", color=INK)
        positions = {s: i for i, s in enumerate(joined)} | {s: len(joined) + 0.4 + i for i, s in enumerate(apart)}
        for i, label in enumerate(labels):
            rows = table[table["explainer"] == label].set_index("stage")
            other = ("#bbbbbb" if label in controls else "#444444", ".", 1.3)
            colour, marker, line = STYLES.get(label.removesuffix(" (text)"), other)
            style = {"color": colour, "marker": marker, "markersize": 5, "linewidth": line, "elinewidth": 0.8}
            style["zorder"] = 3 if line > 2 else 2
            shift = (i - len(labels) / 2) * 0.045
            for part, joint in ((joined, ":" if label in controls else "-"), (apart, "none")):
                part = [s for s in part if s in rows.index]
                x = [positions[s] + (shift if joint == "none" else 0) for s in part]
                errors = rows.loc[part, f"{name}_se"].fillna(0)
                drawn = axes.errorbar(x, rows.loc[part, name], yerr=errors, linestyle=joint, **style)
                handles.setdefault(label, drawn)
        axes.axhline(0, color="#cccccc", linewidth=0.8, zorder=1)
        axes.axvline(len(joined) - 0.3, color="#cccccc", linewidth=0.8, zorder=1)
        axes.set_xticks(list(positions.values()), list(positions), rotation=40, ha="right", fontsize=8, color=INK)
        low = min(-0.1, float((table[name] - table[f"{name}_se"].fillna(0)).min()) - 0.05)
        axes.set_ylim(low, 1.05)
        axes.set_xlim(-0.3, max(positions.values()) + 0.5)
        axes.tick_params(axis="y", labelsize=8, colors=INK)
        axes.spines[["top", "right"]].set_visible(False)
    corner = (1055 / width, 1 - 66 / height)
    sheet.figure.legend(handles.values(), handles, loc="upper left", bbox_to_anchor=corner, fontsize=9, frameon=False)
    note = f"mean of {int(table['n'].max())} images ± standard error · weights and biases randomised from the "
    note += "classifier down, cumulatively"
    sheet.text(60, height - 18, note, size=8, align="left", colour=PALE)
    return sheet.save(_path(cfg, cells), cfg.kilobytes)


# ---------------------------------------------------------------------- pictures


def seen(model: Any, probe: Probe) -> np.ndarray:
    """The image as the network sees it, geometry included: (H, W, 3) in [0, 1], RGB."""
    black, mean = (torch.tensor(c, dtype=torch.float64)[:, None, None] for c in (model.black, model.mean))
    colour = torch.tensor(CAFFE_MEAN, dtype=torch.float64)[:, None, None] / 255
    reversed_ = getattr(model.preprocess, "channels", "RGB") == "BGR"
    colour = colour.flip(0) if reversed_ else colour
    pixels = (probe.image[0].cpu().double() - black) / (mean - black) * colour
    pixels = pixels.flip(0) if reversed_ else pixels
    return pixels.clamp(0, 1).permute(1, 2, 0).numpy()


def overlay(picture: np.ndarray, saliency: Tensor) -> np.ndarray:
    """A map in colours, min-max normalised, over the greyed image: (H, W, 3)."""
    values = minmax(saliency.detach().cpu().double()).numpy()
    grey = picture @ np.array([0.299, 0.587, 0.114])
    return 0.4 * grey[..., None] + 0.6 * colormaps[SALIENCY](values)[..., :3]


def dimmed(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image, darker and paler outside of the mask: (H, W, 3)."""
    grey = picture.mean(axis=2, keepdims=True)
    return np.where(mask[..., None], picture, 0.35 * (0.3 * picture + 0.7 * grey))


def outline(axes: Axes, mask: np.ndarray) -> None:
    """Draws the mask's border."""
    if mask.any() and not mask.all():
        padded = np.pad(mask, 1).astype(float)
        x, y = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
        limits = axes.get_xlim(), axes.get_ylim()
        axes.contour(x, y, padded, levels=[0.5], colors=OUTLINE, linewidths=0.75)
        axes.set(xlim=limits[0], ylim=limits[1])


# ---------------------------------------------------------------------- sheets


class Sheet:
    """A figure whose parts are placed in pixels of the file, counted from the top left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        self.canvas = FigureCanvasAgg(self.figure)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Empty axes in a rectangle."""
        return self.figure.add_axes(
            (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        )

    def place(self, x: float, y: float, width: float, height: float, pixels: np.ndarray, cmap: str | None) -> Axes:
        """An image (H, W, 3), or values in [0, 1] (H, W) in a colour map, stretched to a rectangle."""
        axes = self.axes(x, y, width, height)
        axes.imshow(pixels, cmap=cmap, vmin=0, vmax=1, aspect="auto", interpolation="antialiased")
        axes.set_axis_off()
        return axes

    def text(
        self, x: float, y: float, text: str, *, width: float | None = None, size: float = 8, align: str = "center",
        colour: str = INK, bold: bool = False,
    ) -> None:  # fmt: skip
        """A line of text around the height y, cut with an ellipsis where it is wider than ``width``."""
        drawn = self.figure.text(
            x / self.width, 1 - y / self.height, text, fontsize=size, ha=align, va="center", color=colour,
            fontweight="bold" if bold else "normal", parse_math=False,
        )  # fmt: skip
        renderer = self.canvas.get_renderer()
        while width and len(text) > 1 and drawn.get_window_extent(renderer).width > width:
            text = text.rstrip("…")[:-1]
            drawn.set_text(text.rstrip() + "…")

    def save(self, path: Path, kilobytes: float) -> Path:
        """Writes a PNG with as many colours as the size allows."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.canvas.draw()
        full = Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3])
        for colours in (None, 256, 192, 128, 96, 64, 32):
            data = io.BytesIO()
            fewer = full.quantize(colours, method=Image.Quantize.MEDIANCUT) if colours else full
            fewer.save(data, "PNG", optimize=True)
            if data.tell() <= 1024 * kilobytes:
                break
        else:
            log.warning("%s is %d KB, more than %s", path, data.tell() // 1024, kilobytes)
        path.write_bytes(data.getvalue())
        return path


class Rows(Sheet):
    """Rows of square pictures under column titles, each with its captions below it.

    Args:
        titles: One per column.
        count: Number of rows.
        cell: Side of a picture in pixels.
        caption_lines: Lines below each picture.
        footer: Last lines of the sheet.
        first: Width of the first column, if it is not ``cell``.
        colours: Explain the colours of maps at the bottom.
    """

    GAP, LINE, MARGIN = 8, 15, 10
    LEGEND = 210  # width of the colours' explanation

    def __init__(
        self,
        titles: Sequence[str],
        count: int,
        *,
        cell: int,
        caption_lines: int,
        footer: str,
        first: int | None = None,
        colours: bool = True,
    ) -> None:
        self.cell, self.first, self.lines = cell, first or cell, caption_lines
        self.pitch = cell + self.LINE * caption_lines + self.GAP
        width = 2 * self.MARGIN + self.first + (len(titles) - 1) * (cell + self.GAP)
        # 8 and 6 pixels are what a letter of a title and of the footer takes, generously
        heads = [textwrap.wrap(t, max(8, (cell if i else self.first) // 8), max_lines=2) for i, t in enumerate(titles)]
        feet = textwrap.wrap(footer, (width - self.LEGEND * colours) // 6)
        self.head = 10 + self.LINE * max(len(h) for h in heads) if any(heads) else 0
        foot = 8 + self.LINE * (len(feet) + 1)
        super().__init__(width, self.MARGIN + self.head + count * self.pitch + foot)
        for column, head in enumerate(heads):
            middle = self._left(column) + self._width(column) / 2
            for i, line in enumerate(reversed(head)):
                y = self.MARGIN + self.head - 14 - i * self.LINE
                self.text(middle, y, line, width=self._width(column) + self.GAP, size=9, bold=True)
        self._note = height = self.height - foot + self.LINE / 2
        for i, line in enumerate(feet, 1):
            self.text(self.MARGIN, height + i * self.LINE, line, size=8, align="left", colour=PALE)
        if colours:
            y = height + self.LINE
            bar = colormaps[SALIENCY](np.linspace(0, 1, 128))[None, :, :3]
            self.place(width - self.MARGIN - 146, y - 5, 96, 10, bar, None)
            self.text(width - self.MARGIN - 150, y, "lowest", size=8, align="right", colour=PALE)
            self.text(width - self.MARGIN, y, "highest", size=8, align="right", colour=PALE)

    def _left(self, column: int) -> float:
        return self.MARGIN + (self.first + self.GAP + (column - 1) * (self.cell + self.GAP) if column else 0)

    def _width(self, column: int) -> float:
        return self.cell if column else self.first

    def _top(self, row: int) -> float:
        return self.MARGIN + self.head + row * self.pitch

    def picture(
        self, row: int, column: int, pixels: np.ndarray, captions: Sequence[str], cmap: str | None = None
    ) -> Axes:
        """A picture with its captions."""
        left, top, wide = self._left(column), self._top(row), self._width(column)
        axes = self.place(left, top, wide, self.cell, pixels, cmap)
        for i, line in enumerate(captions):
            y = top + self.cell + self.LINE * (i + 0.5) + 1
            self.text(left + wide / 2, y, line, width=wide + self.GAP / 2, size=8, colour=PALE if i else INK)
        return axes

    def label(self, row: int, lines: Sequence[str], bold_first: bool = False) -> None:
        """Text in the first column, beside a row's pictures."""
        middle = self._top(row) + self.cell / 2 - (len(lines) - 1) * self.LINE / 2
        for i, line in enumerate(lines):
            style = {"bold": bold_first and i == 0, "colour": PALE if i else INK}
            y = middle + i * self.LINE
            self.text(self._left(0), y, line, width=self.first, size=8.5, align="left", **style)

    def blank(self, row: int, column: int, why: str) -> None:
        """Says why there is no picture."""
        left, top = self._left(column), self._top(row)
        self.text(left + self.cell / 2, top + self.cell / 2, why, width=self.cell, size=8, colour=PALE)

    def text_beside(self, row: int, column: int, lines: Sequence[str]) -> None:
        """Text in place of pictures, from a column to the right."""
        middle = self._top(row) + self.cell / 2 - (len(lines) - 1) * self.LINE / 2
        for i, line in enumerate(lines):
            room = self.width - self._left(column) - self.MARGIN
            self.text(self._left(column), middle + i * self.LINE, line, width=room, size=8.5, align="left", colour=PALE)

    def note(self, text: str) -> None:
        """A line above the footer."""
        self.text(self.MARGIN, self._note, text, size=8, align="left", colour=PALE)


# ---------------------------------------------------------------------- words


def _path(cfg: DictConfig, cells: Sequence[Cell]) -> Path:
    first = cells[0]
    protocol = "" if first.cfg.protocol.name == "paper" else f"_{first.cfg.protocol.name}"
    explainer = f"_{first.cfg.explainer.name}" if cfg.figure == "cascade" and first.cfg.explainer.name != "sise" else ""
    name = f"{cfg.figure}{explainer}_{first.dataset.name}_{first.cfg.model.name}{protocol}.png"
    return Path(cfg.results) / "figures" / name


def _subject(cell: Cell) -> str:
    return f"{cell.cfg.model.name} on {cell.dataset.name}"


def _footer(cells: Sequence[Cell]) -> str:
    """What the figure was made of: dataset, network, protocol, Ψ and budgets that are not the paper's."""
    first = cells[0]
    parts = [_subject(first), f"protocol {first.cfg.protocol.name}", f"Ψ: {first.cfg.protocol.confidence} confidence"]
    for cell in cells:
        parts += [f"{cell.cfg.explainer.label}: {note}" for note in runner._budget_notes(cell.cfg)]
    return " · ".join(parts)


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 0.005 or value == 0 else f"{value:.0e}"


def _short_layer(layer: str) -> str:
    return layer.removeprefix("network.")
