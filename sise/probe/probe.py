"""One image or signal as one network sees it: each quantity computed once, remembered, and billed to whoever asks.

A signal (1, C, L) is an image of one dimension fewer: where shapes say (H, W), its are (L,).

Every explainer reads the same probe: feature maps, gradients, and the scores of the image under attribution masks. A
masked forward pass scores all classes at once, so all targets of an image, all thresholds, SISE, Ada-SISE and
Score-CAM draw on one set of passes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import operator
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sise.choices import CONFIDENCES, GRADIENT_SCORES, MASK_RULES, Confidence, GradientScore
from sise.devices import allow_tf32
from sise.errors import SuiteError, choose
from sise.maps import over_map, upsample, upsampled_extrema
from sise.probe.capture import captured, differentiated, place_of, take_gradients
from sise.probe.ledger import Bill, Cost
from sise.probe.score_table import ScoreTable, mask_keys
from sise.scoring import Scorer, Segment, check_scores
from sise.torch_state import generator_kept, writes
from sise.types import Remark

log = logging.getLogger(__name__)
EPSILON = 1e-6
"""Added to a map's range before dividing by it (PROTOCOL F2), and to a mask's size (F4)."""
AGREEMENT = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 1e-2, "bf16": 5e-2}
"""How far a score made again may be from the stored one, relative to the largest score: batches of other shapes and
other machines round differently. By the engine's precision."""
FOLDED_AGREEMENT = 2e-3
"""The same between the network as it is and the scorer's copy of it, which may differ by 1e-3."""

BESIDE = 6
"""Probes of other images that a probe remembers: each holds the activations of a forward pass."""


class Contradiction(ValueError):
    """Stored scores are not what the network says of the image."""


class Probe:
    """One image and one network; answers, and remembers.

    Args:
        network: ``(N, 3, H, W) network input -> (N, K) scores``, in eval mode. Left as it is.
        image: (1, 3, H, W) network input, or a signal's (1, C, L).
        layers: SISE's layers, low to high, by their names in ``network.named_modules()``.
        cam_layer: The layer CAM methods read; the last of ``layers`` by default.
        confidence: Ψ: ``softmax``, ``sigmoid`` or ``logit`` (PROTOCOL M6).
        gradient: The scalar whose gradients select feature maps: ``log_odds`` z_c - logsumexp of the other classes,
            ``softmax_f32`` or ``logit`` (PROTOCOL M7). log_odds has the gradient of the softmax probability but for a
            positive factor that cancels in α/β, and stays exact where the probability rounds to 1.
        fill: Network input shown where a mask is 0, broadcastable to (1, 3, H, W); None for zero (PROTOCOL M5).
        scorer: The engine, of the same network, which is not checked; a new one if None. Share one between the images
            of a network.
        seed: For explainers that draw random numbers.
        classes: How many scores the network must return; None for any number.

    Raises:
        SuiteError: On an unknown switch or layer, a network in training mode, an image of the wrong shape or type, an
            engine that copied other weights, scores that are not finite, not of ``classes`` or random, or the softmax
            of a single score.
    """

    def __init__(
        self,
        network: nn.Module,
        image: Tensor,
        *,
        layers: Sequence[str] = (),
        cam_layer: str | None = None,
        confidence: Confidence = "softmax",
        gradient: GradientScore = "log_odds",
        fill: Tensor | None = None,
        scorer: Scorer | None = None,
        seed: int = 0,
        classes: int | None = None,
    ) -> None:
        if image.ndim not in (3, 4) or image.shape[0] != 1:
            raise SuiteError(
                f"a probe takes one image of shape (1, C, H, W) or signal of shape (1, C, L); got {tuple(image.shape)}."
            )
        kinds = {p.dtype for p in network.parameters() if p.is_floating_point()}
        if not image.is_floating_point() or (kinds and image.dtype not in kinds):
            wanted = ", ".join(map(str, kinds)) or "floating point"
            raise SuiteError(f"the image is {image.dtype}, the network takes {wanted}: scale and convert it first.")
        training = next((name for name, module in network.named_modules() if module.training), None)
        if training is not None:
            what = f"the network's module {training!r}" if training else "the network"
            raise SuiteError(f"{what} is in training mode; call network.eval() before explaining it.")
        self.network = network
        self.image = image.detach()
        self._image_kept = self.image.clone()
        self.layers = tuple(layers)
        self.cam_layer = cam_layer or (self.layers[-1] if self.layers else None)
        choose("confidence", confidence, CONFIDENCES)
        choose("gradient", gradient, GRADIENT_SCORES)
        self.confidence_kind: Confidence = confidence
        self.gradient_kind: GradientScore = gradient
        self.fill = fill
        self.scorer = scorer or Scorer(network)
        self.scorer.check_weights()
        self.seed = seed
        self._classes = classes
        self.ground_truth: Mapping[int, Tensor] = {}
        """Masks by target, for the one control explainer that is allowed to see them."""
        self.regions: Mapping[str, Tensor] = {}
        """Other regions that the data set knows, (H, W) bool by name, for the same explainer and for metrics."""
        self.judges: dict[tuple[str, str], Probe] = {}
        """The same image with another confidence or fill, for metrics, by the names of both."""
        modules = dict(network.named_modules())
        for name in {*self.layers, *([self.cam_layer] if self.cam_layer else [])}:
            choose("layer", name, [m for m in modules if m])
        self._graph_layers = {*self.layers, *([self.cam_layer] if self.cam_layer else [])}
        self._graph: tuple[Tensor, Tensor, dict[str, Tensor]] | None = None
        self._gradients: dict[tuple[int, str], dict[str | None, Tensor]] = {}
        self._extrema: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self._gradient_scores: dict[tuple[str, int, str], Tensor] = {}
        self._tables: dict[tuple[str, str], ScoreTable] = {}
        self._kept: dict[bytes, Tensor] = {}
        self._shown: dict[bytes, Tensor] = {}
        self._beside: dict[bytes, Probe] = {}
        self._unchecked_banks: set[str] = set()
        self._costs: dict[tuple, Cost] = {}
        self._handed: list[tuple[str, Tensor, int]] = [("the image", self.image, writes(self.image))]
        """What is remembered and given out: its name, itself, and how often it had been written to."""
        self._bill: Bill | None = None
        self.forward_passes = 0
        self.backward_passes = 0
        self.remarks: list[Remark] = []
        """What the maps made on this probe need to have said (:meth:`remark`)."""

    # ------------------------------------------------------------------ plain facts

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W) of the image, (L,) of a signal."""
        return tuple(self.image.shape[2:])

    @property
    def device(self) -> torch.device:
        """Where image and network live."""
        return self.image.device

    # ------------------------------------------------------------------ the image itself

    def scores(self) -> Tensor:
        """(K,) float32 scores of the image."""
        return self._run()[1].detach()[0]

    def to_confidence(self, scores: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Ψ: (..., K) scores -> (..., K) confidences, computed in float64 so that small ones stay apart from zero.

        Computed in float32, a softmax above 1 - 2e-7 or so is exactly 1.
        """
        scores = scores.to(dtype)
        if self.confidence_kind == "softmax":
            return scores.softmax(dim=-1)
        return scores.sigmoid() if self.confidence_kind == "sigmoid" else scores

    def confidence(self, target: int) -> float:
        """Ψ of the image for one class."""
        return float(self.to_confidence(self.scores())[self._checked(target)])

    def feature_maps(self, layer: str) -> Tensor:
        """(C, h, w) output of a layer."""
        return self._run(layer)[2][layer].detach()[0]

    def gradients(self, layer: str, target: int, of: GradientScore | None = None) -> Tensor:
        """Gradient of a target's score with respect to a layer's feature maps.

        Args:
            layer: A layer's name.
            target: Class index.
            of: Which scalar (PROTOCOL M7); the probe's own by default.

        Returns:
            (C, h, w).

        Raises:
            SuiteError: If there is no gradient, or one that is not finite.
        """
        return self._gradient(layer, target, of)

    def image_gradient(self, target: int, of: GradientScore | None = None) -> Tensor:
        """Gradient of a target's score with respect to the image, (3, H, W); see :meth:`gradients`."""
        return self._gradient(None, target, of)

    def _gradient(self, layer: str | None, target: int, of: GradientScore | None) -> Tensor:
        """Of a layer, or of the image if None."""
        of = of or self.gradient_kind
        choose("gradient", of, GRADIENT_SCORES)
        image, scores, maps = self._run(*([] if layer is None else [layer]))
        key = (self._checked(target), of)
        if layer not in self._gradients.get(key, {}):
            with self._computing(("gradients", *key), backward=1), allow_tf32(False), torch.enable_grad():
                wanted: dict[str | None, Tensor] = {name: tensor for name, tensor in maps.items()}
                if layer is None:
                    wanted[None] = image
                found = take_gradients(
                    differentiated(scores[0], key[0], of),
                    {place_of(name): tensor for name, tensor in wanted.items()},
                    retain_graph=True,
                )
                self._gradients[key] = {name: found[place_of(name)][0] for name in wanted}
                self._hand_out("gradients", *self._gradients[key].values())
        self._use(("gradients", *key))
        return self._gradients[key][layer]

    def gradient_scores(self, layer: str, target: int, of: GradientScore | None = None) -> Tensor:
        """α: the gradient of the target's score summed over each feature map's locations (SISE eq. 4).

        Returns:
            (C,)
        """
        of = of or self.gradient_kind
        choose("gradient", of, GRADIENT_SCORES)
        key = (layer, int(target), of)
        if key not in self._gradient_scores:
            self._gradient_scores[key] = self.gradients(layer, target, of).flatten(1).sum(dim=1)
            self._hand_out("gradient scores", self._gradient_scores[key])
        self._use(("graph",))
        self._use(("gradients", int(target), of))
        return self._gradient_scores[key]

    def extrema(self, layer: str, rule: str = "bilinear") -> tuple[Tensor, Tensor]:
        """Per feature map, the values that become 0 and 1 in its attribution mask.

        Args:
            layer: A layer's name.
            rule: ``bilinear``: resize, then min-max (PROTOCOL F2), so extrema of the upsampled map;
                ``normalise_then_resize`` and ``nearest``: extrema of the map itself.

        Returns:
            ``(lo, hi)``, each (C,). Equal for a constant map, and only there.
        """
        choose("mask rule", rule, MASK_RULES)
        key = (layer, rule)
        if key not in self._extrema:
            maps = self.feature_maps(layer)
            with self._computing(("extrema", *key)), allow_tf32(False):
                if rule == "bilinear":
                    self._extrema[key] = upsampled_extrema(maps, self.size)
                else:
                    self._extrema[key] = maps.flatten(1).amin(dim=1), maps.flatten(1).amax(dim=1)
            self._hand_out("extrema", *self._extrema[key])
        self._use(("extrema", *key))
        return self._extrema[key]

    # ------------------------------------------------------------------ the image under masks

    def masked_scores(self, layer: str, channels: Tensor, rule: str = "bilinear") -> Tensor:
        """Scores of the image under a layer's attribution masks.

        The mask of a feature map A is ``(U(A) - lo) / (hi - lo + 1e-6)``, U the upsampling to the image's size. Each
        channel is forwarded once in the probe's life.

        Args:
            layer: A layer's name.
            channels: (M,) indices.
            rule: How maps become masks, see :meth:`extrema`.

        Returns:
            (M, K) scores.
        """
        channels = channels.to(self.device)
        self.score_feature_maps({layer: channels}, rule)
        self._use((layer, rule), channels)
        return self._table(layer, rule).scores[channels]

    def masked_confidences(
        self, layer: str, channels: Tensor, targets: Sequence[int], rule: str = "bilinear"
    ) -> Tensor:
        """Ψ of the image under a layer's attribution masks, see :meth:`masked_scores`.

        Returns:
            (M, T) float64.
        """
        channels = channels.to(self.device)
        self.score_feature_maps({layer: channels}, rule, targets)
        self._use((layer, rule), channels)
        return self._table(layer, rule).confidences(channels, targets, self.confidence_kind)

    def score_feature_maps(
        self, wanted: Mapping[str, Tensor], rule: str = "bilinear", targets: Sequence[int] | None = None
    ) -> None:
        """Forwards every attribution mask of ``wanted`` not forwarded yet, all layers in one stream of batches.

        Args:
            wanted: Channel indices (M,) per layer.
            rule: How maps become masks, see :meth:`extrema`.
            targets: The classes whose scores are needed; all if None.
        """
        segments, places = [], []
        for layer, channels in wanted.items():
            missing = self._table(layer, rule).missing(torch.unique(channels.to(self.device)), targets)
            if len(missing):
                segments.append(self._masked(layer, rule, missing))
                places.append((layer, missing))
        if not segments:
            return
        begun = time.perf_counter()
        scores = self._finite(self.scorer.score(segments))
        self._synchronise()
        each = Cost((time.perf_counter() - begun) / len(scores), forward=1)
        self.count(forward=len(scores))
        for (layer, channels), found in zip(places, scores.split([len(c) for _, c in places]), strict=True):
            self._enter(layer, rule, channels, found, each)

    def _masked(self, layer: str, rule: str, channels: Tensor) -> Segment:
        """The image under the attribution masks of a layer's channels (M,)."""
        maps = self.feature_maps(layer)[channels]
        lo, hi = (over_map(e[channels], maps) for e in self.extrema(layer, rule))
        mode = "nearest" if rule == "nearest" else "bilinear"
        return Segment(self.image, (maps - lo) / (hi - lo + EPSILON), self.fill, mode)

    def bank_confidences(self, bank: str, first: int, masks: Tensor, targets: Sequence[int]) -> Tensor:
        """Ψ of the image under masks that have a number in a named bank, each forwarded once in the probe's life.

        Args:
            bank: Names the bank and everything its masks depend on.
            first: Number of the first mask.
            masks: (M, H, W).
            targets: T class indices.

        Returns:
            (M, T) float64.
        """
        numbers = torch.arange(first, first + len(masks), device=self.device)
        self._check_bank(bank, first, masks)
        table = self._table(bank, "bank", at_least=first + len(masks))
        missing = table.missing(numbers, targets)
        if len(missing):
            begun = time.perf_counter()
            segment = Segment(self.image, masks[missing.to(masks.device) - first].to(self.device), self.fill)
            scores = self._finite(self.scorer.score([segment]))
            self._synchronise()
            self.count(forward=len(scores))
            each = Cost((time.perf_counter() - begun) / len(scores), forward=1)
            self._enter(bank, "bank", missing, scores, each)
        self._use(("graph",))
        self._use((bank, "bank"), numbers)
        return table.confidences(numbers, targets, self.confidence_kind)

    def _table(self, layer: str, rule: str, at_least: int = 0) -> ScoreTable:
        """Scores under a layer's masks, or of a bank of ``at_least`` masks."""
        known = self._tables.get((layer, rule))
        count = at_least if rule == "bank" else len(self.feature_maps(layer))
        if known is None or len(known.scores) < count:
            table = self._tables[layer, rule] = ScoreTable(count, len(self.scores()), self.device)
            if known is not None:
                table.scores[: len(known.scores)] = known.scores
                table.logsumexp[: len(known.scores)] = known.logsumexp
        return self._tables[layer, rule]

    def _enter(self, layer: str, rule: str, rows: Tensor, scores: Tensor, each: Cost) -> None:
        self._table(layer, rule, at_least=int(rows.max()) + 1).add(rows, scores)
        self._costs[layer, rule] = each
        if self._bill is not None:
            self._bill._computed.setdefault((layer, rule), set()).update(rows.tolist())

    def score_masks(self, masks: Tensor) -> Tensor:
        """Scores of the image under any masks: ``image * m + fill * (1 - m)``.

        Args:
            masks: (M, H, W), or lower resolution, then upsampled bilinearly. Boolean masks are remembered by content
                and scored in fp32 whatever the engine's precision: their scores are compared with the image's own.

        Returns:
            (M, K) scores.
        """
        if masks.dtype != torch.bool:
            self.count(forward=len(masks))
            return self._finite(self.scorer.score([Segment(self.image, masks.to(self.device), self.fill)]))
        keys = mask_keys(masks)
        fresh = {key: i for i, key in enumerate(keys) if key not in self._kept}
        if fresh:
            chosen = masks[list(fresh.values())].to(self.image)
            begun = time.perf_counter()
            found = self._finite(self.scorer.exact.score([Segment(self.image, chosen, self.fill)]))
            self._synchronise()
            self._costs["kept",] = Cost((time.perf_counter() - begun) / len(chosen), forward=1)
            self.count(forward=len(chosen))
            self._kept.update(zip(fresh, found, strict=True))
            if self._bill is not None:
                self._bill._computed.setdefault(("kept",), set()).update(fresh)
        self._use(("kept",), keys)
        return torch.stack([self._kept[key] for key in keys])

    def score_segments(self, segments: Sequence[Segment]) -> list[Tensor]:
        """Scores of images under masks at the image's size, those of all segments in one stream of batches.

        Each masked image is forwarded once in the probe's life, in fp32 whatever the engine's precision. Unlike
        :meth:`score_masks`'s, these scores are not kept on disk: a curve has hundreds.

        Args:
            segments: Each with (M, H, W) masks, boolean or float; their image and fill need not be the probe's.

        Returns:
            (M, K) scores per segment.
        """
        keys = [_segment_keys(segment) for segment in segments]
        fresh: dict[bytes, None] = {}
        parts = []
        for segment, names in zip(segments, keys, strict=True):
            chosen = {key: i for i, key in enumerate(names) if key not in self._shown and key not in fresh}
            if chosen:
                parts.append(replace(segment, maps=segment.maps[list(chosen.values())]))
                fresh |= dict.fromkeys(chosen)
        if parts:
            found = self._finite(self.scorer.exact.score(parts))
            self.count(forward=len(found))
            self._shown.update(zip(fresh, found, strict=True))
        return [torch.stack([self._shown[key] for key in names]) for names in keys]

    def alike(self, **changed: Any) -> Probe:
        """A new probe with all settings of this one, but what is ``changed`` of those it was made with."""
        settings: dict[str, Any] = {
            "image": self.image,
            "layers": self.layers,
            "cam_layer": self.cam_layer,
            "confidence": self.confidence_kind,
            "gradient": self.gradient_kind,
            "fill": self.fill,
            "scorer": self.scorer,
            "classes": self._classes,
        }
        return Probe(self.network, **settings | changed)

    def beside(self, image: Tensor) -> Probe:
        """A probe of another image (1, C, H, W) with all settings of this one; the last few are remembered."""
        key = digest(image)
        probe = self._beside.pop(key, None) or self.alike(image=image)
        probe.seed, probe.ground_truth = self.seed, self.ground_truth
        self._beside[key] = probe
        for oldest in list(self._beside)[:-BESIDE]:
            del self._beside[oldest]
        return probe

    def score_inputs(self, inputs: Tensor) -> Tensor:
        """(N, 3, H, W) network inputs -> (N, K) scores, without gradients."""
        self.count(forward=len(inputs))
        return self._finite(self.scorer.score_inputs(inputs.to(self.device)))

    # ------------------------------------------------------------------ what others may not write into

    def _hand_out(self, name: str, *tensors: Tensor) -> None:
        self._handed += [(name, tensor, writes(tensor)) for tensor in tensors]

    def written(self) -> list[str]:
        """What the probe remembers and gave out, and somebody has written into since: it is no longer true."""
        return sorted({name for name, tensor, then in self._handed if writes(tensor) != then})

    def forget(self) -> None:
        """Forgets all it has computed and takes the image as it was given, for when :meth:`written` finds anything."""
        self.image = self._image_kept.clone()
        self._graph = None
        for known in (self._gradients, self._extrema, self._gradient_scores, self._tables, self._kept, self._shown,
                      self._beside, self.judges):  # fmt: skip
            known.clear()
        self._handed = [("the image", self.image, writes(self.image))]

    # ------------------------------------------------------------------ what can be kept on disk

    def state(self, targets: Sequence[int]) -> dict[str, np.ndarray]:
        """All that cost a masked or a backward pass, for some targets: about 40 KB per image and target.

        Args:
            targets: The classes to keep scores of.

        Returns:
            Plain arrays by name, for :meth:`restore`.
        """
        arrays: dict[str, np.ndarray] = {"targets": np.asarray(targets, dtype=np.int64)}
        for (layer, target, of), scores in self._gradient_scores.items():
            arrays[f"gradient|{layer}|{target}|{of}"] = scores.cpu().numpy()
        for (name, rule), table in self._tables.items():
            rows = (~torch.isnan(table.logsumexp)).nonzero()[:, 0]
            key = f"{name}|{rule}"
            arrays[f"rows|{key}"] = rows.cpu().numpy()
            arrays[f"scores|{key}"] = table.scores[rows][:, list(targets)].cpu().numpy()
            arrays[f"logsumexp|{key}"] = table.logsumexp[rows].cpu().numpy()
        if self._kept:
            arrays["kept masks"] = np.frombuffer(b"".join(self._kept), dtype=np.uint8).reshape(-1, 32)
            arrays["kept scores"] = torch.stack(list(self._kept.values())).cpu().numpy()
        for parts, cost in self._costs.items():
            arrays["cost|" + "|".join(map(str, parts))] = np.array([cost.seconds, cost.forward, cost.backward])
        return arrays

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes back what :meth:`state` gave, of the same image and network (which the caller sees to).

        So that a mistake of the caller does not pass, two masked scores drawn at random are made again and compared,
        and the whole image's; of a bank, whose masks are not known here, when it is first asked for. No explainer is
        billed for it, nor does :attr:`forward_passes` count it.

        Raises:
            Contradiction: If the scores are not this network's of this image; nothing is taken back then.
            ValueError, KeyError, SuiteError: If it is not of that form; nothing is taken back either.
        """
        classes = len(self.scores())
        targets = _stored(state, "targets", "i", None)
        if not ((targets >= 0) & (targets < classes)).all():
            raise ValueError(f"targets {targets.tolist()} of {classes} classes")
        gradient_scores, tables, costs = {}, {}, {}
        for key in state:
            kind, _, rest = key.partition("|")
            if kind == "gradient":
                layer, target, of = rest.rsplit("|", 2)
                found = _stored(state, key, "f", len(self.feature_maps(layer)))
                gradient_scores[layer, int(target), of] = torch.from_numpy(found).to(self.device)
            elif kind == "rows" and len(state[key]):
                name, rule = rest.rsplit("|", 1)
                rows = _stored(state, key, "i", None)
                # the masks of a bank are numbered without a gap
                count = len(rows) if rule == "bank" else len(self.feature_maps(name))
                if rows[0] < 0 or rows[-1] >= count or not (np.diff(rows) > 0).all():
                    raise ValueError(f"{key!r} are not rows of {count}")
                scores = _stored(state, f"scores|{rest}", "f", len(rows), len(targets), unknown=True)
                tables[name, rule] = rows, scores, _stored(state, f"logsumexp|{rest}", "f", len(rows))
            elif kind == "cost":
                parts: list[str | int] = list(rest.split("|"))
                if parts[0] == "gradients":
                    parts[1] = int(parts[1])
                seconds, forward, backward = _stored(state, key, "f", 3).tolist()
                costs[tuple(parts)] = Cost(seconds, int(forward), int(backward))
        kept = {}
        if "kept masks" in state:
            masks = _stored(state, "kept masks", "u", None, 32)
            kept_scores = torch.from_numpy(_stored(state, "kept scores", "f", len(masks), classes)).to(self.device)
            kept = dict(zip((row.tobytes() for row in masks), kept_scores, strict=True))
        self._check_whole_image(kept)
        self._check_layers({key: arrays for key, arrays in tables.items() if key[1] != "bank"}, targets)
        self._unchecked_banks |= {name for name, rule in tables if rule == "bank"}
        self._gradient_scores.update(gradient_scores)
        self._costs.update(costs)
        self._kept.update(kept)
        columns = torch.from_numpy(targets).to(self.device)
        for (name, rule), arrays in tables.items():
            places, known, logsumexp = (torch.from_numpy(array).to(self.device) for array in arrays)
            table = self._table(name, rule, at_least=len(places))
            table.scores[places[:, None], columns] = known.to(table.scores.dtype)
            table.logsumexp[places] = logsumexp.double()

    def _check_whole_image(self, kept: Mapping[bytes, Tensor]) -> None:
        """Raises a Contradiction if the stored scores of the unmasked image are not the image's."""
        (whole,) = mask_keys(torch.ones(1, *self.size, dtype=torch.bool))
        if whole in kept:
            found = self.scores()
            _compare(kept[whole], found, FOLDED_AGREEMENT * float(found.abs().max()))

    def _check_layers(self, tables: Mapping[tuple[str, str], tuple[np.ndarray, ...]], targets: np.ndarray) -> None:
        """Raises a Contradiction if two masked scores of (rows, scores, logsumexp) are not what is found now."""
        if not tables:
            return
        dice = np.random.default_rng()
        inputs, stored = [], []
        for number in dice.permutation(len(tables))[:2] if len(tables) > 1 else [0, 0]:
            (layer, rule), (rows, scores, logsumexp) = list(tables.items())[number]
            drawn = dice.integers(len(rows))
            segment = self._masked(layer, rule, torch.tensor([int(rows[drawn])], device=self.device))
            inputs.append(self._input_under(upsample(segment.maps, self.size, segment.mode)))
            stored.append((scores[drawn], logsumexp[drawn]))
        self._compare_scores(torch.cat(inputs), targets, *map(np.stack, zip(*stored, strict=True)))

    def _check_bank(self, bank: str, first: int, masks: Tensor) -> None:
        """Drops a restored bank of other masks or another network than now, with a warning."""
        if bank not in self._unchecked_banks:
            return
        table = self._tables[bank, "bank"]
        known = (~torch.isnan(table.logsumexp[first : first + len(masks)])).nonzero()[:, 0].cpu().numpy()
        if not len(known):
            return
        self._unchecked_banks.remove(bank)
        drawn = torch.from_numpy(np.random.default_rng().choice(known, min(2, len(known)), replace=False))
        targets = (~torch.isnan(table.scores)).any(dim=0).nonzero()[:, 0].cpu().numpy()
        rows = (drawn + first).to(self.device)
        stored = table.scores[rows][:, targets].cpu().numpy(), table.logsumexp[rows].cpu().numpy()
        try:
            with self._off_the_bill():
                self._compare_scores(self._input_under(masks[drawn].to(self.image)), targets, *stored)
        except Contradiction as error:
            log.warning("stored scores under the masks %r are not used: %s", bank, error)
            del self._tables[bank, "bank"]

    def _input_under(self, masks: Tensor) -> Tensor:
        """The network inputs (M, 3, H, W) under masks (M, H, W)."""
        masked = self.image * masks[:, None]
        return masked if self.fill is None else masked + self.fill * (1 - masks[:, None])

    def _compare_scores(self, inputs: Tensor, targets: np.ndarray, scores: np.ndarray, logsumexp: np.ndarray) -> None:
        """Raises a Contradiction if stored (M, T) scores of inputs, NaN where unknown, are not made again."""
        found = self.scorer.score_inputs(inputs)
        again = torch.cat([found[:, targets.tolist()].double(), found.double().logsumexp(1)[:, None]], dim=1).cpu()
        stored = torch.cat([torch.from_numpy(scores).double(), torch.from_numpy(logsumexp)[:, None].double()], dim=1)
        tolerance = AGREEMENT[self.scorer.precision] * float(found.abs().max())
        known = ~torch.isnan(stored)
        _compare(stored[known], again[known], tolerance)

    # ------------------------------------------------------------------ accounts

    def count(self, forward: int = 0, backward: int = 0) -> None:
        """Counts images sent through the network, for explainers that run it themselves too."""
        self.forward_passes += forward
        self.backward_passes += backward
        if self._bill is not None:
            self._bill.forward += forward
            self._bill.backward += backward

    def remark(self, remark: Remark) -> None:
        """Notes something that whoever reads the maps has to know, once per probe and once per bill."""
        for remarks in (self.remarks, *([self._bill.remarks] if self._bill is not None else [])):
            if remark not in remarks:
                remarks.append(remark)

    @contextlib.contextmanager
    def bill(self) -> Iterator[Bill]:
        """Bills a block of code as if it ran on a fresh probe.

        What the block computes costs what it takes; what it reads from memory costs what it took when it was
        computed. So explainers that share passes are each billed all the passes they need.
        """
        bill = self._bill = Bill()
        self._synchronise()
        begun = time.perf_counter()
        try:
            yield bill
        finally:
            self._synchronise()
            bill.seconds += time.perf_counter() - begun
            self._bill = None
            for key, channels in bill._used.items():
                cost = self._costs.get(key)
                computed = bill._computed.get(key, set())
                times = len(channels - computed)
                if cost and times:
                    bill.seconds += cost.seconds * times
                    bill.forward += cost.forward * times
                    bill.backward += cost.backward * times

    @contextlib.contextmanager
    def _off_the_bill(self) -> Iterator[None]:
        """Charges a block of code, its time included, to nobody."""
        bill, self._bill = self._bill, None
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._synchronise()
            self._bill = bill
            if bill is not None:
                bill.seconds -= time.perf_counter() - begun

    def _use(self, key: tuple, channels: Iterable[int | bytes] | Tensor = (0,)) -> None:
        if self._bill is not None:
            channels = channels.tolist() if isinstance(channels, Tensor) else channels
            self._bill._used.setdefault(key, set()).update(channels)

    @contextlib.contextmanager
    def _computing(self, key: tuple, forward: int = 0, backward: int = 0) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self._synchronise()
        self._costs[key] = Cost(time.perf_counter() - begun, forward, backward)
        self.count(forward, backward)
        if self._bill is not None:
            self._bill._computed[key] = {0}

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    # ------------------------------------------------------------------ the one pass with a graph

    def watch(self, layers: Iterable[str]) -> None:
        """Reads these layers too, in one forward pass more if any is new."""
        self._run(*layers)

    def _run(self, *layers: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The forward pass with a graph: (image, scores (1, K), feature maps by layer); again if a layer is new."""
        wanted = self._graph_layers | set(layers)
        if self._graph is None or wanted != self._graph_layers:
            for layer in wanted:
                choose("layer", layer, [m for m, _ in self.network.named_modules() if m])
            with self._computing(("graph",), forward=1):
                image = self.image.clone().requires_grad_(True)
                keeping = generator_kept(self.device)
                with allow_tf32(False), torch.enable_grad(), keeping, captured(self.network, wanted) as maps:
                    scores = check_scores(self.network(image.clone()), 1)  # it may write into its input
                silent = sorted(wanted - set(maps))
                if silent:
                    raise SuiteError(
                        f"layer {silent[0]!r} did not run in the network's forward pass, so it has no feature maps; "
                        "name a layer that runs."
                    )
                if self._classes not in (None, scores.shape[1]):
                    raise SuiteError(
                        f"the network returned {scores.shape[1]} scores, expected {self._classes}, one per class; give "
                        "the names of the classes it was trained on, in their order."
                    )
                self._finite(scores)
                if scores.shape[1] == 1 and self.confidence_kind == "softmax":
                    raise SuiteError(
                        "the model has a single score, whose softmax is 1 whatever the image shows; for two classes in "
                        'one score take confidence="sigmoid" (in the harness: protocol.confidence=sigmoid).'
                    )
            self._examine(scores.detach())
            self._graph, self._graph_layers, self._gradients = (image, scores, maps), wanted, {}
            self._hand_out("scores", scores)
            self._hand_out("feature maps", *maps.values())
        self._use(("graph",))
        return self._graph

    def _examine(self, scores: Tensor) -> None:
        """What is assumed of the network is checked on the engine's first image, at nobody's expense."""
        begun = time.perf_counter()
        self.scorer.examine(self.image, scores)
        self._synchronise()
        if self._bill is not None:
            self._bill.seconds -= time.perf_counter() - begun

    def _checked(self, target: int) -> int:
        count = self._run()[1].shape[1]
        try:
            index = operator.index(target)
        except TypeError:
            index = -1
        if not 0 <= index < count:
            raise SuiteError(f"target {target} is no class of this network, which scores classes 0 to {count - 1}.")
        return index

    def _finite(self, scores: Tensor) -> Tensor:
        if not torch.isfinite(scores).all():
            bad = int((~torch.isfinite(scores)).any(dim=1).sum())
            raise SuiteError(
                f"the network returned NaN or infinite scores for {bad} of {len(scores)} inputs. Check the input's "
                "range and the weights; with engine.precision=fp16, try fp32."
            )
        return scores


def _segment_keys(segment: Segment) -> list[bytes]:
    """A digest of each masked image of a segment; of one that shows all of an image, or nothing, that image's alone."""
    image, fill = (b"" if part is None else digest(part) for part in (segment.image, segment.fill))
    if segment.maps.dtype != torch.bool:
        return [image + fill + digest(one) for one in segment.maps]
    flat = segment.maps.flatten(1)
    ends = {True: image, False: b"nothing of " + image + fill if segment.fill is None else fill}
    return [
        ends[whole] if whole or empty else image + fill + key
        for key, whole, empty in zip(mask_keys(segment.maps), flat.all(dim=1).tolist(), (~flat.any(dim=1)).tolist(),
                                     strict=True)
    ]  # fmt: skip


def digest(tensor: Tensor) -> bytes:
    """sha256 of a tensor's shape, type and values."""
    content = np.ascontiguousarray(tensor.cpu().numpy())
    return hashlib.sha256(repr((content.shape, content.dtype)).encode() + content.tobytes()).digest()


def _compare(stored: Tensor, found: Tensor, tolerance: float) -> None:
    """Raises a Contradiction if values differ by more than ``tolerance``."""
    apart = float((stored - found).abs().max())
    if not apart <= tolerance:
        raise Contradiction(f"a score made again differs from the stored one by {apart:.3g}, more than {tolerance:.3g}")


def _stored(
    state: Mapping[str, np.ndarray], name: str, kind: str, *shape: int | None, unknown: bool = False
) -> np.ndarray:
    """An array of :meth:`Probe.state`.

    Args:
        state: All arrays.
        name: Of the array.
        kind: Its type, as numpy's ``dtype.kind``.
        shape: Its shape; None for any length.
        unknown: NaN may stand for values that are not known.

    Raises:
        ValueError: If it is another array.
    """
    array = state[name]
    same = array.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=False))
    if array.dtype.kind != kind or not same or not (np.isfinite(array) | (unknown & np.isnan(array))).all():
        raise ValueError(f"{name!r} has the type {array.dtype} and shape {array.shape}, or values that are not finite")
    return array
