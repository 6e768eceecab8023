"""The five measures of the papers' tables, and the arithmetic that every table must obey.

``(saliency, mask) -> float`` in :mod:`sise.metrics.localization`, ``(probe, target, saliency) -> float`` in
:mod:`sise.metrics.faithfulness`. A value that was set by definition is a :class:`sise.types.Value` with the reason.
"""

from sise.metrics.faithfulness import confidences, drop, increase, keep_mask
from sise.metrics.localization import bbox, ebpg, miou

__all__ = ["bbox", "confidences", "drop", "ebpg", "increase", "keep_mask", "miou"]
