"""The engine: scores of one or many images under a stream of masks, at the cost of the bare forward passes.

Masks arrive as maps of any resolution and are upsampled, applied and scored batch by batch in one reused buffer, so
memory grows with the batch and never with the number of masks. The network it runs is a private copy of the given
one, made cheaper without changing what it computes (Conv-BN folding, channels-last), or the given one itself where that
cannot be done; gradients of its parameters are never taken.

That many masks may be scored at once rests on a network whose scores of an image depend on that image alone. It is
checked on first use (:meth:`Scorer.examine`).
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sise.choices import PRECISIONS
from sise.devices import allow_tf32
from sise.errors import SuiteError, choose
from sise.maps import upsample
from sise.torch_state import ONE_AT_A_TIME, generator_kept, generator_state, writes

if TYPE_CHECKING:
    from torch import fx

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segment:
    """Masks of one image.

    Attributes:
        image: (1, 3, H, W) network input, or a signal's (1, C, L).
        maps: (M, h, w) masks at any resolution, upsampled to (H, W) when their turn comes; (M, l) of a signal.
        fill: What shows where the mask is 0: broadcastable to (1, 3, H, W), or None for zero.
        mode: How maps are upsampled, ``bilinear`` or ``nearest``.
    """

    image: Tensor
    maps: Tensor
    fill: Tensor | None = None
    mode: str = "bilinear"


class Scorer:
    """Runs batches of images through a network without gradients.

    Args:
        network: ``(N, 3, H, W) -> (N, K)``, in eval mode; it is copied, never changed.
        batch_size: Images per forward pass; None takes 32 on a CPU and finds the fastest on a GPU, once, when there
            is enough work to pay for it. Halved by itself when memory runs out.
        lossless: Fold batch normalisation into convolutions and use channels-last memory; same numbers up to float
            rounding. Checked against the original on the first batch, and left off if the two disagree.
        precision: ``fp32`` (TF32 off, also on a GPU), ``tf32``, ``fp16`` or ``bf16``.
        compile: Use ``torch.compile``.
        graphs: Replay each batch as a CUDA graph, which saves launching kernel by kernel; a CPU has none, and runs as
            without.
        steady: Fill up every batch to one shape (of 16 on a CPU by default), since kernels are chosen by shape. What
            a mask scores then depends on that mask alone, to the last bit, if kernels treat every row of a batch alike;
            that belongs to the machine's libraries, and :meth:`check_places` measures it.

    Raises:
        SuiteError: If the precision is unknown.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        batch_size: int | None = None,
        lossless: bool = True,
        precision: str = "fp32",
        compile: bool = False,
        graphs: bool = False,
        steady: bool = False,
    ) -> None:
        choose("engine.precision", precision, list(PRECISIONS))
        if batch_size is not None and batch_size < 1:
            raise SuiteError(f"engine.batch_size must be at least 1 or null, got {batch_size}.")
        self.network = network
        self.batch_size = batch_size
        self.lossless = lossless
        self.precision = precision
        self.compile = compile
        self.graphs = graphs
        self.steady = steady
        self.passes = 0
        self.alone = False
        """Whether each image goes through the network by itself, since its scores depend on the rest of a batch."""
        self.draws = False
        """Whether the network draws from torch's generator, after it set the seed: tracing would lose the seed."""
        self._examined = False
        self.place_error: float | None = None
        """What :meth:`check_places` has measured; None before."""
        self._replays = False
        """Whether batches are CUDA graphs, whose scores lie where the next batch's will."""
        self._runner: nn.Module | None = None
        self._weights: tuple[tuple[int, int], ...] = ()
        """Which weights the form of the network was made of: where they lay, and how often they were written to."""
        self._memory_format = torch.contiguous_format
        self._buffer: Tensor | None = None

    def score(self, segments: Sequence[Segment]) -> Tensor:
        """Scores of each segment's image under each of its masks: ``network(image * m + fill * (1 - m))``.

        Args:
            segments: All of one image size (H, W).

        Returns:
            (M, K) float32 scores, in the order given, M over all segments.
        """
        segments = [s for s in segments if len(s.maps)]
        if not segments:
            raise ValueError("no masks to score")
        total = sum(len(s.maps) for s in segments)
        image = segments[0].image
        with torch.no_grad():
            self._prepare(image)
            batch = self._batch_size(image, total)
            batch = min(batch, total) if self._ragged(image) else batch
            buffer = self._take_buffer(batch, image)
            batch = len(buffer)
            scores, done, filled = torch.empty(0), 0, 0
            for segment, start, stop in _packed(segments, batch):
                count = stop - start
                masks = upsample(segment.maps[start:stop].to(image.dtype), image.shape[2:], segment.mode)
                part = buffer[filled : filled + count]
                torch.mul(segment.image, masks[:, None], out=part)
                if segment.fill is not None:
                    part.add_(segment.fill * (1 - masks[:, None]))
                filled += count
                if filled == batch or done + filled == total:
                    rows = buffer[:filled] if self._ragged(image) else buffer
                    result = self._forward(rows)[:filled]
                    if not len(scores):  # the first batch tells how many classes there are
                        scores = torch.empty(total, result.shape[1], device=image.device)
                    scores[done : done + filled] = result
                    done, filled = done + filled, 0
        return scores

    def score_inputs(self, inputs: Tensor) -> Tensor:
        """(N, 3, H, W) network inputs -> (N, K) float32 scores, in batches."""
        with torch.no_grad():
            self._prepare(inputs[:1])
            parts = [self._forward(p.clone()) for p in inputs.split(self._batch_size(inputs, len(inputs)))]
            return torch.cat(parts)

    def check_places(self, image: Tensor) -> float:
        """Measures, once, whether an image's score depends on its place in a batch, or on what stands in the others.

        One batch holds the image everywhere, another one at every other place, its negative elsewhere. These passes
        are counted nowhere. Scores of MKL on some CPUs do depend on the place by rounding, unless the environment says
        ``MKL_CBWR=AVX2`` before the first product.

        Args:
            image: (1, 3, H, W) network input, or a signal's (1, C, L).

        Returns:
            The largest difference as a share of the largest score, also kept as ``place_error``: 0.0 if places do not
            matter to the last bit.
        """
        if self.place_error is None:
            passes = self.passes
            with torch.no_grad(), generator_kept(image.device):
                self._prepare(image)
                rows = self._take_buffer(self._batch_size(image), image)
                alike = self._forward(rows.copy_(image.expand_as(rows)))
                rows[::2], rows[1::2] = image, -image
                mixed = self._forward(rows)
            self.passes = passes
            parts = (alike - alike[:1], mixed[::2] - alike[:1], mixed[1::2] - mixed[1:2])
            apart = max(float(part.abs().max()) for part in parts if len(part))
            largest = float(alike.abs().max())
            self.place_error = apart / largest if largest else apart
        return self.place_error

    @torch.no_grad()
    def drift(self, image: Tensor) -> float:
        """Measures what the precision changes: scores of an image under a batch of masks, here and in exact fp32.

        These passes are counted nowhere.

        Args:
            image: (1, 3, H, W) network input, or a signal's (1, C, L).

        Returns:
            The largest difference as a share of the largest score; 0.0 in fp32.
        """
        if self.exact is self:
            return 0.0
        passes = self.passes, self.exact.passes
        count = self._batch_size(image)
        coarse = torch.linspace(0, 1, count * 4 ** (image.ndim - 2), device=image.device)
        maps = (50 * coarse).sin().abs().view(count, *[4] * (image.ndim - 2))  # each is another one
        with generator_kept(image.device):
            found, expected = (scorer.score([Segment(image, maps)]) for scorer in (self, self.exact))
        self.passes, self.exact.passes = passes
        apart, largest = float((found - expected).abs().max()), float(expected.abs().max())
        return apart / largest if largest else apart

    def differentiable(self, inputs: Tensor) -> Tensor:
        """(N, 3, H, W) network inputs -> (N, K) scores in fp32 with gradients to the inputs, in one batch."""
        scorer = self.exact
        scorer._prepare(inputs[:1].detach())
        # a clone, since a network may write into its input
        return scorer.apart(scorer._prepared(), inputs.clone(memory_format=scorer._memory_format))

    def apart(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """(N, K) scores by a form of the network: of one batch, or image by image where the batch changes them."""
        batches = inputs.split(1) if self.alone else (inputs,)
        with generator_kept(inputs.device) if self.draws else nullcontext():
            return torch.cat([check_scores(network(batch), len(batch)) for batch in batches])

    @cached_property
    def exact(self) -> Scorer:
        """A scorer of the same network in fp32; itself, where that is what it runs in."""
        if self.precision == "fp32":
            return self
        scorer = Scorer(self.network, batch_size=self.batch_size, lossless=self.lossless, steady=self.steady)
        scorer._examined, scorer.alone, scorer.draws = self._examined, self.alone, self.draws
        return scorer

    # ------------------------------------------------------------------ what is assumed of the network

    def check_weights(self) -> None:
        """Whether the network has the weights still that its copy was made of; writes through ``data`` are not seen.

        Raises:
            SuiteError: If not: scores would be of the old weights, gradients of the new ones.
        """
        if self._runner is not None and self._weights != _weights_of(self.network):
            raise SuiteError(
                f"the weights of {type(self.network).__name__} were changed since this engine copied them; make a new "
                "Scorer after a step of training."
            )

    @torch.no_grad()
    def examine(self, image: Tensor, scores: Tensor) -> None:
        """Checks, once, what every score rests on: that it depends on the image alone.

        The image is scored between two others, by the network as it is, in fp32. Where that differs from its scores
        by itself, the network either draws random numbers, or looks at the whole batch; then every image is scored by
        itself from now on, with a warning. Passes made here are counted nowhere, and torch's global generator is left
        as it was.

        Args:
            image: (1, C, H, W) network input, or a signal's (1, C, L).
            scores: (1, K) scores of it, in fp32.

        Raises:
            SuiteError: If the network scores the same image differently from one pass to the next.
        """
        if self._examined:
            return
        reason = ""
        with allow_tf32(False), generator_kept(image.device):
            mirrored = image.flip(-1)
            batch = torch.cat([0.5 * mirrored + 0.25, image, 0.25 * mirrored + 0.5])
            _draw(image.device)  # a start that no seed makes
            before = generator_state(image.device)
            try:
                together = check_scores(self.network(batch.clone()), len(batch))[1:2]
            except Exception as error:  # it is the user's network: anything can be wrong in it
                why = "out of memory" if _out_of_memory(error) else f"{type(error).__name__}: {error}"
                reason = f"cannot score {len(batch)} images at once ({why})"
            else:
                if not _agree(together, scores, 1e-4):
                    reason = "scores an image differently beside other images (batch statistics, say)"
            self.draws = not torch.equal(generator_state(image.device), before)
            if (reason or self.draws) and self._is_random(image):
                raise SuiteError(
                    f"{type(self.network).__name__} is random in evaluation mode: it scores one image differently from "
                    "one pass to the next, so no map of it can be trusted. Look for dropout with training=True, "
                    "stochastic depth or noise in its forward(), and switch it off unless self.training; or fix the "
                    "seed inside of forward()."
                )
        if reason:
            kind = type(self.network).__name__
            log.warning("%s %s; each image is scored by itself, which takes longer", kind, reason)
            self.alone, self.batch_size = True, 1
            with allow_tf32(False):
                apart = self.apart(self.network, batch)
            if bool((apart == apart[0]).all()):
                raise SuiteError(
                    f"{kind} {reason}, and by themselves it scores all images alike, so there is nothing to explain. "
                    "Is there a softmax or a normalisation along the batch (dim=0)?"
                )
        self._examined = True

    def _is_random(self, image: Tensor) -> bool:
        """Whether the network scores an image at random.

        What it draws may change the scores only now and then (stochastic depth), which a few passes would not show. So
        any draw counts, unless the network sets the seed by itself: then the generator ends where it ended before.
        """
        first = self.network(image.clone())
        end = generator_state(image.device)
        _draw(image.device)  # another start, which only a seed makes up for
        again = self.network(image.clone())
        return not _agree(again, first, 1e-5) or (self.draws and not torch.equal(generator_state(image.device), end))

    # ------------------------------------------------------------------ the network and its batches

    def _batch_size(self, image: Tensor, work: int = 0) -> int:
        if self.batch_size is None:
            if not image.is_cuda:
                self.batch_size = 16 if self.steady else 32
            elif work < 512:
                return 64
            else:
                self.batch_size = self._fastest_batch(image)
                log.info("batch size %d", self.batch_size)
        return self.batch_size

    def _fastest_batch(self, image: Tensor) -> int:
        """Doubles the batch on a GPU until that is worth less than 3 % or memory runs out."""
        best, rate = 32, 0.0
        for batch in (32, 64, 128, 256, 512, 1024):
            try:
                inputs = image.expand(batch, *image.shape[1:]).contiguous(memory_format=self._memory_format)
                times = []
                for _ in range(4):  # the first one or two choose algorithms
                    torch.cuda.synchronize(image.device)
                    begun = time.perf_counter()
                    self._run(inputs)
                    torch.cuda.synchronize(image.device)
                    times.append(time.perf_counter() - begun)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                break
            if batch / min(times) < 1.03 * rate:
                break
            best, rate = batch, batch / min(times)
        return best

    def _prepared(self) -> nn.Module:
        """The form of the network that batches go through, once :meth:`_prepare` has made it."""
        if self._runner is None:
            raise RuntimeError("_prepare() makes the form of the network that is asked for here")
        return self._runner

    def _run(self, batch: Tensor) -> Tensor:
        with torch.inference_mode(), allow_tf32(self.precision == "tf32"):
            if self._replays:
                torch.compiler.cudagraph_mark_step_begin()
            scores = self.apart(self._prepared(), batch.to(PRECISIONS[self.precision]))
            return scores.to(torch.float32, copy=self._replays)

    def _ragged(self, image: Tensor) -> bool:
        """Whether a last, smaller batch may run as it is: not where every shape costs a search or a compilation."""
        return not (image.is_cuda or self.compile or self.steady)

    def _take_buffer(self, batch: int, image: Tensor) -> Tensor:
        """(batch, 3, H, W), kept for the next call; smaller where memory does not allow it."""
        buffer, shape = self._buffer, image.shape[1:]
        if buffer is not None and buffer.shape[1:] == shape and buffer.device == image.device and len(buffer) >= batch:
            return buffer[:batch]
        self._buffer = None  # gives its memory back first
        while True:
            try:
                empty = torch.empty(batch, *shape, device=image.device, memory_format=self._memory_format)
                self._buffer = empty.zero_()
                return self._buffer
            except RuntimeError as error:
                batch = self._halved(batch, error)

    def _halved(self, size: int, error: RuntimeError) -> int:
        """Half the batch size, from now on, if memory ran out; raises any other error again."""
        if not _out_of_memory(error) or size == 1:
            raise error
        self.batch_size = size // 2
        log.warning("out of memory; batch size is now %d", self.batch_size)
        torch.cuda.empty_cache()
        return self.batch_size

    @torch.no_grad()
    def _prepare(self, image: Tensor) -> None:
        """Builds the private copy of the network on first use and checks that it computes the same."""
        if self._runner is not None:
            return
        self._weights = _weights_of(self.network)
        if not self._examined:
            with allow_tf32(False), generator_kept(image.device):
                scores = check_scores(self.network(image.clone()), 1)
            self.examine(image, scores)
        self._runner = self.network
        if self.lossless or self.precision in ("fp16", "bf16"):
            with allow_tf32(self.precision == "tf32"), generator_kept(image.device):
                # a clone, since a network may write into its input; before copying, since this pass leaves weights that
                # are computed in it (weight_norm's) without a graph, which could not be copied
                expected = check_scores(self.network(image.clone()), 1).float()
            fast = self._fast_copy(image, expected) if self.lossless and not self.draws else None
            self._runner = self._plain_copy() if fast is None else fast
        self._replays = self.graphs and image.is_cuda
        if self._replays:
            how: dict[str, Any] = {"mode": "reduce-overhead"} if self.compile else {"backend": "cudagraphs"}
            self._runner = _compiled(self._runner, **how)
        elif self.compile:
            self._runner = _compiled(self._runner)

    def _fast_copy(self, image: Tensor, expected: Tensor) -> nn.Module | None:
        """The folded copy in its precision; None if there is none that gives the image its expected scores."""
        fast = _lossless_copy(self.network)
        if fast is None:
            return None
        # channels-last is a format of images, not of signals
        memory_format = torch.channels_last if image.ndim == 4 else torch.contiguous_format
        fast = fast.to(memory_format=memory_format).requires_grad_(False)
        with allow_tf32(self.precision == "tf32"):
            try:
                same = _agree(fast(image.clone(memory_format=memory_format)).float(), expected, 1e-3)
            except Exception as error:  # a copy that cannot run is as good as one that differs
                log.debug("the folded copy failed: %s", error)
                same = False
        if not same:
            log.info("the folded copy of the network differs from it; running the network as it is")
            return None
        self._memory_format = memory_format
        return fast.to(PRECISIONS[self.precision])

    def _plain_copy(self) -> nn.Module:
        """A copy in its precision; in fp32 the network itself."""
        if self.precision not in ("fp16", "bf16"):
            return self.network
        duplicate = copied(self.network)
        if duplicate is None:
            raise SuiteError(
                f"{type(self.network).__name__} cannot be copied (copy.deepcopy fails: does it hold a lock, a file or "
                f"an iterator?), and precision={self.precision} needs a copy, so as not to change it: use fp32."
            )
        return duplicate.requires_grad_(False).to(PRECISIONS[self.precision])

    def _forward(self, batch: Tensor) -> Tensor:
        """One batch through the network; runs out of memory at most once per size, then goes on in halves."""
        parts, start = [], 0
        size = len(batch)
        while start < len(batch):
            part = batch[start : start + size]
            try:
                parts.append(self._run(part))
                start += len(part)
            except RuntimeError as error:
                size = self._halved(size, error)
        self.passes += len(batch)
        return torch.cat(parts)


def _weights_of(network: nn.Module) -> tuple[tuple[int, int], ...]:
    """Where a network's weights lie, and how often each was written to."""
    return tuple((p.data_ptr(), writes(p)) for p in network.parameters())


def _packed(segments: Sequence[Segment], batch: int) -> Iterator[tuple[Segment, int, int]]:
    """Slices of the segments that fill batch after batch without a gap."""
    room = batch
    for segment in segments:
        start = 0
        while start < len(segment.maps):
            stop = min(start + room, len(segment.maps))
            yield segment, start, stop
            room -= stop - start
            room = room or batch
            start = stop


def _compiled(network: nn.Module, **how: Any) -> nn.Module:
    made: Any = torch.compile(network, **how)  # a module, though its type says a function
    return made


def _lossless_copy(network: nn.Module) -> nn.Module | None:
    """A copy with each batch normalisation folded into the convolution before it, where it can be traced."""
    from torch import fx
    from torch.fx.experimental.optimization import fuse

    duplicate = copied(network)
    if duplicate is None:
        return None
    try:
        with ONE_AT_A_TIME:
            graph = _tracer_of_this_thread().trace(duplicate)
        return fuse(fx.GraphModule(duplicate, graph), inplace=True, no_trace=True)
    except Exception as error:  # untraceable networks run unfolded
        log.debug("network cannot be traced for folding: %s", error)
        return copied(network)


def _tracer_of_this_thread() -> fx.Tracer:
    """A tracer that leaves networks alone that other threads run meanwhile; it replaces methods of all torch modules.

    Torch's own would take their calls for calls of modules of the traced network, and raise in the other thread.
    """
    from torch import fx

    thread = threading.get_ident()

    class Tracer(fx.Tracer):
        def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
            if threading.get_ident() != thread:
                return forward(*args, **kwargs)
            return super().call_module(m, forward, args, kwargs)

        def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict) -> Any:
            if threading.get_ident() != thread:
                return attr_val
            return super().getattr(attr, attr_val, parameter_proxy_cache)

    return Tracer()


def copied(network: nn.Module) -> nn.Module | None:
    """A copy in eval mode; None if the network cannot be copied, since it holds a lock or an open file, say."""
    try:
        return copy.deepcopy(network).eval()
    except Exception as error:  # it is the user's network: copying it runs the user's code
        log.debug("network cannot be copied: %s", error)
        return None


def _agree(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether scores are the same up to a share of the largest; not where one is NaN."""
    return got.shape == expected.shape and bool((got - expected).abs().max() <= tolerance * expected.abs().max())


def check_scores(scores: object, count: int) -> Tensor:
    """What a network returned for ``count`` images, if it is (count, K) scores.

    Raises:
        SuiteError: If it is anything else.
    """
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != count:
        got = f"{tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise SuiteError(
            f"the network must return a tensor of scores (N, K) with N = {count}; it returned {got}. "
            "Wrap it in a module that returns its class scores only."
        )
    if not scores.is_floating_point():
        raise SuiteError(
            f"the network must return scores that are real numbers; it returned {scores.dtype}. Wrap it in a module "
            "that returns its class scores as floating-point numbers."
        )
    return scores


def _draw(device: torch.device) -> None:
    """Moves torch's global generators of the CPU and the device on."""
    torch.rand(1)
    torch.rand(1, device=device)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
