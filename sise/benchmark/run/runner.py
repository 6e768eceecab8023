"""From configurations to records: plans what is missing, runs it on shared probes, and keeps every result.

A *cell* is one run: (dataset, model, explainer, variant). Cells that see the same images through the same network in
the same way are run together, image by image, on one probe, so that no forward pass is made twice.

What is computed for an image depends on nothing else that was computed, before or beside it: seeds belong to (seed,
image), batches have one shape, and an image's targets are explained together. So records of one machine are the same to
the last digit whatever the shard or the order, and however often a run was interrupted, provided that a score does not
depend on its place in a batch. That is measured for every network, and each session of records holds the result
(``place_error``, 0.0 where it is so).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from sise.benchmark.models.no_network import read_sample
from sise.benchmark.process import CrowdWatch
from sise.benchmark.records import metric_sets
from sise.benchmark.records.code_version import code_of, other_code
from sise.benchmark.records.departures import identity_config
from sise.benchmark.records.environment import environment
from sise.benchmark.records.files import DiskFull
from sise.benchmark.records.folder import RunFolder
from sise.benchmark.records.image_hashes import ImageHashes
from sise.benchmark.records.metric_sets import metric_names
from sise.benchmark.records.store import keep, read
from sise.benchmark.run.cells import Cell, hashes_of
from sise.benchmark.run.device import choose_device
from sise.benchmark.run.explaining import maps_of
from sise.benchmark.run.keeping_maps import open_maps
from sise.benchmark.run.left_behind import WeightsChanged, only_read
from sise.benchmark.run.pair_facts import Pairs
from sise.benchmark.run.probing import (
    Seen,
    make_probe,
    make_score_cache,
    make_scorer,
    probe_of,
    see,
    targets_to_explain,
)
from sise.benchmark.run.problems import by_problem, place_of
from sise.benchmark.run.reading import ReadAhead
from sise.benchmark.run.scoring import make_record, remember_faithfulness_passes
from sise.benchmark.run.shards import EVERYTHING, Shard
from sise.benchmark.terminal import Progress, message
from sise.errors import SuiteError, WrongSetting
from sise.probe.probe import Probe
from sise.scoring import Scorer
from sise.torch_state import usual_defaults
from sise.types import Sample

log = logging.getLogger(__name__)


def run(
    cells: Sequence[Cell],
    *,
    limit: int | None = None,
    overwrite: bool = False,
    shard: Shard = EVERYTHING,
    broken: Mapping[str, str] | None = None,
) -> int:
    """Computes every missing record of the cells. A cell that cannot run does not stop the others.

    Args:
        cells: From :func:`make_cells`.
        limit: First N images only.
        overwrite: Start the runs anew.
        shard: Only the images of this part (of the first N).
        broken: Cells that could not be made, from :func:`make_cells`: reported with those that cannot run.

    Returns:
        How many pairs failed in this run.

    Raises:
        DiskFull: At once.
        SuiteError: When everything else is done, if a cell could not run.
    """
    if overwrite and shard.count > 1:
        raise SuiteError(
            "overwrite=true deletes what other shards have found; give it once without shard=, with limit=0 to compute "
            "nothing, and then start the shards."
        )
    for cell in cells:
        with _problems_of([cell]):
            cell.folder = RunFolder(cell.path, cell.identity(), overwrite=overwrite, shard=shard.name)
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if not cell.problem:
            groups.setdefault(cell.probe_key(), []).append(cell)
    hashes = hashes_of(cells)
    failed = 0
    for number, group in enumerate(groups.values(), start=1):
        place, images = f"{number}/{len(groups)} " if len(groups) > 1 else "", hashes[id(group[0].dataset)]
        with _problems_of(group):
            failed += _run_group(group, limit, shard, place, images)
        for cell in group:
            keep(RunFolder(cell.path))
    wrong = {**(broken or {}), **{cell.name: cell.problem for cell in cells if cell.problem}}
    if wrong and len(cells) == 1 and not broken:
        raise SuiteError(*wrong.values())
    if wrong:
        raise SuiteError(f"{len(wrong)} cells could not run, or not go on:\n" + "\n".join(by_problem(wrong)))
    return failed


@contextmanager
def _problems_of(cells: Sequence[Cell]) -> Iterator[None]:
    """Keeps what stops these cells from stopping the others; a full disk stops all."""
    try:
        yield
    except DiskFull:
        raise
    except Exception as error:
        expected = isinstance(error, SuiteError | OSError)
        if not expected:
            log.exception("%s stopped", ", ".join(cell.name for cell in cells))
        problem = message(error) if expected else f"{type(error).__name__}: {error}"
        stopped = [cell for cell in cells if not cell.problem]
        for cell in stopped:
            cell.problem = problem
        if stopped:
            log.error("cannot run: %s: %s", ", ".join(cell.name for cell in stopped), problem)


def _run_group(cells: list[Cell], limit: int | None, shard: Shard, place: str, images: ImageHashes) -> int:
    dataset, model = cells[0].dataset, cells[0].model
    failed = 0
    with ExitStack() as stack:
        stack.callback(images.keep)
        stack.enter_context(usual_defaults())  # a user's module may have set others when it was imported
        cells = [cell for cell in cells if _opened(cell, stack, images, shard)]
        ids = shard.of(dataset.ids[:limit])
        lacking = [(cell, found) for cell in cells if (found := cell.lacking())]
        wanted = {i: needing for i in ids if (needing := [cell for cell, found in lacking if i in found])}
        if not wanted:
            if cells:
                log.info("%s on %s: nothing missing", model.name, dataset.name)
            return 0
        device = choose_device(cells[0].cfg.device, shard)
        engine = cells[0].cfg.engine
        scorer = make_scorer(model.network.to(device), engine, steady=True)
        cache = make_score_cache(cells[0], device) if engine.cache and model.has_network else None
        place_error, drift = _checked(scorer, cells[0], device)
        for cell in cells:
            code = code_of(identity_config(cell.cfg), cell.model.network)
            settings: dict[str, Any] = {"place_error": place_error, "drift": drift, "code": code}
            settings |= {"network": cell.structure, "engine": OmegaConf.to_container(engine)}
            settings |= {"metrics": metric_names(cell.cfg.metrics), "limit": limit}
            cell.folder.add_environment(environment(device) | settings)
        open_maps(cells, wanted, device, shard, stack)
        what = f"{place}{dataset.name} × {model.name}" + (f", shard {shard.number}/{shard.count}" if shard.name else "")
        bar = stack.enter_context(Progress(wanted.items(), desc=what, unit="image"))
        watch = CrowdWatch(torch.get_num_threads())

        def read(image_id: str) -> Seen:
            return see(cells[0], read_sample(dataset, model, image_id))

        reader = stack.enter_context(ReadAhead(wanted, read, engine.read_ahead))
        for image_id, needing in bar:
            needing = [cell for cell in needing if not cell.problem]
            if not needing:
                break
            try:
                seen = reader.next(image_id)
                probe = probe_of(cells[0], seen, scorer, device)
            except WrongSetting:
                raise
            except Exception as error:
                for cell in needing:
                    failed += _save_failures(cell, image_id, cell.missing(image_id), error, of_data=True)
                continue
            known = cache is not None and cache.restore(probe)
            passes = probe.forward_passes
            failed += _run_image(needing, seen.sample, probe, bar, images.of(image_id))
            watch.look()
            if cache is not None and (not known or probe.forward_passes > passes):
                cache.save(probe, sorted(probe.ground_truth))
            if failed:
                bar.set_postfix(failed=failed)
    return failed


def _checked(scorer: Scorer, cell: Cell, device: torch.device) -> tuple[float | None, float | None]:
    """:meth:`Scorer.check_places` and :meth:`Scorer.drift` on the dataset's first image that can be scored.

    That image is the same for every shard. None if none of the first three can be scored.
    """
    for image_id in cell.dataset.ids[:3]:
        try:
            image = make_probe(cell, cell.dataset[image_id], scorer, device).image
            return scorer.check_places(image), scorer.drift(image)
        except Exception as error:  # fails again in its turn, and is recorded with its reason
            log.debug("image %s cannot tell whether places matter: %s", image_id, error)
    return None, None


def _without_a_metric(folder: RunFolder, shard: Shard) -> set[str]:
    """Sessions whose records lack a metric of the run's; their pairs are made again.

    Raises:
        SuiteError: If what this shard writes would not take the place of what is there: of two good records of a pair,
            the one in the last file counts.
    """
    incomplete = folder.incomplete_sessions()
    if incomplete and shard.count > 1 and folder.record_files() and not folder.writes_last():
        raise SuiteError(
            f"{folder.path} was not made by shards of this number, so that shards cannot add a metric to it; give the "
            "command once without shard="
        )
    return incomplete


def _opened(cell: Cell, stack: ExitStack, images: ImageHashes, shard: Shard) -> bool:
    """Locks a cell's records and reads what all processes have found until now; False if another one writes them.

    Says which of them are stale.
    """
    with _problems_of([cell]):
        stack.enter_context(cell.folder)
        records = read(cell.folder)
        cell.adopt(metric_sets.apart(cell.folder.identity)[1])
        incomplete = _without_a_metric(cell.folder, shard)
        cell.recall(records, incomplete)
        stay = {session: n for session, n in records.facts.good_sessions.items() if session not in incomplete}
        for files, count in other_code(cell.folder, stay, cell.structure).items():
            text = "%s: %d records were made by other code (%s changed since); overwrite=true makes them anew"
            log.warning(text, cell.name, count, ", ".join(files))
        if count := images.replaced(records.images_made_of):
            text = "%s: %d records are of images that were replaced since; overwrite=true makes them anew"
            log.warning(text, cell.name, count)
    return not cell.problem


def _run_image(cells: list[Cell], sample: Sample, probe: Probe, bar: Progress, image_hash: str) -> int:
    """Explains one image with every cell, then scores all their maps with one batch of passes, then saves."""
    failed = 0
    explained: list[tuple[Cell, list[int], Tensor, dict[str, Any]]] = []
    for cell in cells:
        bar.set_postfix_str(cell.cfg.explainer.name)
        targets = cell.missing(sample.image_id)
        try:
            targets = targets_to_explain(cell, sample, probe)
            if not targets:
                continue
            saliency, costs = maps_of(cell, sample.image_id, probe, targets)
        except WeightsChanged:
            raise
        except WrongSetting as error:  # a setting, not this image, is wrong
            with _problems_of([cell]):
                raise error
            continue
        except Exception as error:
            failed += _save_failures(cell, sample.image_id, targets, error)
            continue
        explained.append((cell, targets, saliency, costs))
    pairs = Pairs(sample, probe)
    if explained:
        with suppress(Exception):  # what fails here fails again below, for its own cell
            remember_faithfulness_passes(explained, probe)
    for cell, targets, saliency, costs in explained:
        try:
            with only_read(probe, saliency, metric_names(cell.cfg.metrics)):
                maps = zip(targets, saliency, strict=True)
                records = [make_record(cell, pairs, t, s, costs) for t, s in maps]
        except WrongSetting as error:
            with _problems_of([cell]):
                raise error
            continue
        except Exception as error:
            failed += _save_failures(cell, sample.image_id, targets, error)
            continue
        new = [r for r in records if (sample.image_id, r["target"]) not in cell.good]
        new = [r | {"image_hash": image_hash} for r in new] if image_hash else new
        cell.folder.append(new)
        cell.computed += len(new)
        cell.in_a_row = (("", ""), 0)
        cell.remember(new)
    return failed


def _save_failures(
    cell: Cell, image_id: str, targets: Sequence[int], error: Exception, *, of_data: bool = False
) -> int:
    """Records that pairs failed, why and where; the run goes on, and the next one tries them again.

    The first error of a cell that nobody expected is shown with its traceback. Where the same goes wrong in
    ``engine.stop_after`` images in a row, the cell stops: it would in all others. Images that cannot be read
    (``of_data``) stop nothing.
    """
    reason, where = f"{type(error).__name__}: {error}", place_of(error)
    unexpected = not (of_data or isinstance(error, SuiteError | OSError))
    shown = unexpected and not cell.shown_traceback
    cell.shown_traceback |= shown
    log.warning("%s, image %s failed: %s", cell.name, image_id, reason, exc_info=error if shown else None)
    if not of_data:
        what = (type(error).__name__, where)
        cell.in_a_row = (what, cell.in_a_row[1] + 1 if cell.in_a_row[0] == what else 1)
        if cell.cfg.engine.stop_after and cell.in_a_row[1] >= cell.cfg.engine.stop_after:
            with _problems_of([cell]):
                raise SuiteError(
                    f"stopped after {cell.in_a_row[1]} images in a row failed in the same place ({where}): {reason} "
                    "(engine.stop_after=null goes on)"
                )
    names = cell.dataset.classes
    targets = [t for t in targets if (image_id, t) not in cell.good]
    cell.folder.append(
        {
            "image_id": image_id,
            "target": t,
            "class": names[t] if t >= 0 else "",
            "status": "failed",
            "reason": reason,
            "where": where,
        }
        for t in targets
    )
    cell.failures[reason] = cell.failures.get(reason, 0) + len(targets)
    return len(targets)
