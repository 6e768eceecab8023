"""How much of the most salient pixels lies on the object."""

from torch import Tensor

from sise.types import Value


def peak_share(saliency: Tensor, mask: Tensor, *, level: float = 0.9) -> float:
    """Peak share: of the pixels of at least ``level`` of the map's maximum, those on the object.

    Args:
        saliency: (H, W) float.
        mask: (H, W) bool, the object.
        level: Share of the maximum.

    Returns:
        A fraction in [0, 1]; 0, set by definition, for a map without a positive value.
    """
    peak = saliency.max()
    if peak <= 0:
        return Value(0.0, "no positive saliency")
    return mask[saliency >= level * peak].double().mean().item()
