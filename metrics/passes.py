"""Which masked images a metric wants scored, so that those of many metrics and maps run in one stream of batches.

A metric that shows the network many images has a *plan*: a function with the metric's own signature that returns what
it will ask the probe for. Whoever scores several maps of one image asks for all plans first, lets
:meth:`sise.probe.probe.Probe.score_segments` run them together, and then calls the metrics, which find their scores in
the probe. Without that a metric gets the same scores, in more and smaller batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from sise.metrics.checks import unwrapped

if TYPE_CHECKING:
    from sise.probe.probe import Probe
    from sise.scoring import Segment

Plan = Callable[..., "Sequence[Segment]"]
P = TypeVar("P", bound=Plan)

_PLANS: dict[Callable[..., Any], Plan] = {}


def plan_of(*metrics: Callable[..., float | None]) -> Callable[[P], P]:
    """Makes the decorated function the plan of these metrics, which take the same settings."""

    def register(plan: P) -> P:
        _PLANS.update(dict.fromkeys(metrics, plan))
        return plan

    return register


def passes(metric: Callable[..., float | None], probe: Probe, target: int, saliency: Tensor) -> Sequence[Segment]:
    """Returns the segments that ``metric(probe, target, saliency)`` will have scored; none of a metric without a plan.

    Args:
        metric: A faithfulness metric, or a partial of one with its settings.
        probe: One image as one network sees it.
        target: Class index.
        saliency: (H, W) float.

    Raises:
        SuiteError: If the metric refuses the map.
    """
    function, settings = unwrapped(metric)
    plan = _PLANS.get(function)
    return plan(probe, target, saliency, **settings) if plan else ()
