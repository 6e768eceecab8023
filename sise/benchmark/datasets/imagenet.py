"""The names of ImageNet's classes."""

from __future__ import annotations

import functools

__all__ = ["imagenet_classes"]


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """The 1000 ImageNet class names of torchvision, made unique (it once called two classes crane, two maillot)."""
    from torchvision.models import ResNet50_Weights

    names = list(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    names[134], names[639] = "crane bird", "maillot tank suit"
    return tuple(names)
