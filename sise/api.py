"""The two-line door: a saliency map for an image, without the harness."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from sise.layers import find_layers
from sise.method import sise
from sise.probe import Probe
from sise.types import Explainer


def explain(
    network: nn.Module,
    image: Tensor,
    target: int | None = None,
    *,
    explainer: Explainer | Callable[..., Tensor] = sise,
    layers: Sequence[str] | None = None,
) -> Tensor:
    """Explains one decision of a convolutional network.

    Args:
        network: ``(N, 3, H, W) -> (N, K)`` scores before softmax, in eval mode.
        image: (3, H, W) or (1, 3, H, W), preprocessed as the network expects it.
        target: Class index; the network's best class by default.
        explainer: ``sise``, ``ada_sise`` or any explainer of the suite (``functools.partial`` sets its options).
        layers: Layers to read, low to high; by default the inputs of the network's downsampling stages.

    Returns:
        (H, W) saliency in [0, 1].

    Raises:
        SuiteError: With the fix in it, e.g. if the network has no layer with spatial feature maps.

    Example:
        >>> import torch, torchvision, sise
        >>> network = torchvision.models.resnet18(weights=None).eval()
        >>> sise.explain(network, torch.randn(3, 64, 64), target=3).shape
        torch.Size([64, 64])
    """
    image = image[None] if image.ndim == 3 else image
    if layers is None:
        layers = find_layers(network, tuple(image.shape[-2:]))
    probe = Probe(network, image, layers=layers)
    if target is None:
        target = int(probe.scores().argmax())
    return explainer(probe, [target])[0]
