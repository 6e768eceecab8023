"""The five measures of the papers' tables, and the arithmetic that every table must obey.

``(saliency, mask) -> float`` in :mod:`metrics.localization`, ``(probe, target, saliency) -> float`` in
:mod:`metrics.faithfulness`. :func:`undefined` says whether a metric's value was computed or set by
definition.
"""

from metrics.checks import undefined
from metrics.faithfulness import confidences, drop, increase, keep_mask
from metrics.localization import bbox, ebpg, miou

__all__ = ["bbox", "confidences", "drop", "ebpg", "increase", "keep_mask", "miou", "undefined"]
