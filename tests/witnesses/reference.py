"""SISE and Ada-SISE once more, slowly: the papers' equations and the choices of PROTOCOL sections 2 to 4.

One mask at a time, one forward pass at a time, float64 throughout, plain autograd, numpy and Python loops. Nothing is
shared with the package under test; read it beside the papers. S3 is the SISE paper, S1 the Ada-SISE paper.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import nn

EPSILON = 1e-6


# ---------------------------------------------------------------------------------- phase 1: feature map extraction


def in_double_precision(network: nn.Module) -> nn.Module:
    """A float64 copy in which no layer overwrites its input, so that every layer's output can be looked at."""
    network = copy.deepcopy(network).double().eval()
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return network


def run(network: nn.Module, image: torch.Tensor, layers: list[str]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(K,) scores before softmax and the (1, C, h, w) output A of each layer, with their graph."""
    network, outputs = in_double_precision(network), {}

    def keep(layer, output):
        outputs[layer] = output
        return output.clone()  # what follows may add to it in place

    modules = dict(network.named_modules())
    for layer in layers:
        modules[layer].register_forward_hook(lambda m, i, output, layer=layer: keep(layer, output))
    scores = network(image.double())[0]
    return scores, outputs


# ---------------------------------------------------------------------------------- phase 2: feature map selection


def differentiated(scores: torch.Tensor, target: int, kind: str) -> torch.Tensor:
    """The model's "confidence score" for the gradient (PROTOCOL M7)."""
    if kind == "logit":
        return scores[target]
    if kind == "softmax_f32":
        return torch.softmax(scores, 0)[target]
    others = [scores[j] for j in range(len(scores)) if j != target]
    return scores[target] - torch.log(sum(torch.exp(z) for z in others))


def gradient_maps(network: nn.Module, image: torch.Tensor, layer: str, target: int, kind: str) -> np.ndarray:
    """∂Ψ/∂A, (C, h, w)."""
    scores, outputs = run(network, image, [layer])
    outputs[layer].retain_grad()
    differentiated(scores, target, kind).backward()
    return outputs[layer].grad[0].numpy()


def gradient_scores(network: nn.Module, image: torch.Tensor, layer: str, target: int, kind: str) -> np.ndarray:
    """α_k, the sum over locations of ∂Ψ/∂A_k (S3 eq. 4)."""
    return np.array([gradient.sum() for gradient in gradient_maps(network, image, layer, target, kind)])


def select(alpha: np.ndarray, mu: float, inclusive: bool = False) -> list[int]:
    """S3 eqs. 5 and 6, with the ">" of the AAAI version; ">=" is for Ada-SISE, which draws from the positive."""
    beta = max(alpha)
    if beta <= 0:
        return []
    kept = []
    for k, score in enumerate(alpha):
        v = score / beta
        if v > mu or (inclusive and v == mu and v > 0):
            kept.append(k)
    return kept


def adaptive_mu(alpha: np.ndarray, rule: str, estimator: str = "exact") -> float:
    """Ada-SISE's threshold for one layer (S1 section 4; PROTOCOL A1 to A4)."""
    beta = max(alpha)
    if beta <= 0:
        return 0.0
    v = [score / beta for score in alpha]
    positive = [x for x in v if x > 0]  # Υ, S1 eq. 1
    if len(positive) < 3 or len(set(positive)) == 1:
        return 0.0
    if rule == "otsu_positive":
        return scalar_otsu(positive, estimator)
    if rule == "otsu_signed":
        return max(scalar_otsu(v, estimator), 0.0)
    if rule == "author_hist":
        return otsu256(np.array(positive), tau=True)
    _, _, order, last = rule.split("_")
    return literal_equations_2_to_6(positive, order, last)


def literal_equations_2_to_6(positive: list[float], order: str, last: str) -> float:
    """S1 eqs. 2 to 6 as printed; what is not printed is the order of Υ and what becomes of i = |Υ|."""
    values = sorted(positive, reverse=order == "desc")
    n = len(values)
    taus = []
    for i in range(1, n + 1 if last == "incl" else n):
        low = sum(values[:i]) / i * n
        high = sum(values[i - 1 :]) / (n - i) * n if i < n else math.inf
        taus.append(low * high * ((n - 2 * i) / n) ** 2)
    return values[taus.index(max(taus))]


def scalar_otsu(values: list[float], estimator: str) -> float:
    """Otsu's threshold of a few numbers: the largest one of the low class (PROTOCOL A2)."""
    if estimator == "skimage":
        return otsu_between_extremes(np.array(values))
    if estimator == "uint8":  # 8-bit levels have no place for negative numbers and lose their fraction
        levels = [float(int(max(x, 0) * 255)) for x in values]
        return scalar_otsu(levels, "exact") / 255
    values = sorted(values)
    n = len(values)
    best, best_variance = None, -1.0
    for i in range(1, n):
        low, high = values[:i], values[i:]
        variance = len(low) * len(high) * (sum(low) / len(low) - sum(high) / len(high)) ** 2
        if variance > best_variance * (1 + 1e-12):
            best, best_variance = low[-1], variance
    return best


# ---------------------------------------------------------------------------------- masks


def resize_bilinear(a: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Half-pixel centres: output i looks at input (i + 1/2) h/H - 1/2; no antialiasing."""
    (h, w), (H, W) = a.shape, size
    y = np.clip((np.arange(H) + 0.5) * h / H - 0.5, 0, h - 1)
    x = np.clip((np.arange(W) + 0.5) * w / W - 0.5, 0, w - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    below, right = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
    down, across = (y - top)[:, None], (x - left)[None, :]
    upper = a[top][:, left] * (1 - across) + a[top][:, right] * across
    lower = a[below][:, left] * (1 - across) + a[below][:, right] * across
    return upper * (1 - down) + lower * down


def resize_nearest(a: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Output i looks at input floor(i h/H)."""
    (h, w), (H, W) = a.shape, size
    rows = [i * h // H for i in range(H)]
    cols = [j * w // W for j in range(W)]
    return a[rows][:, cols]


def to_unit_range(a: np.ndarray) -> np.ndarray:
    """The linear transformation of Ω (S3, below eq. 6), with the authors' epsilon."""
    a = a - a.min()
    return a / (a.max() + EPSILON)


def attribution_mask(feature_map: np.ndarray, size: tuple[int, int], rule: str = "bilinear") -> np.ndarray:
    """Ω(A_k): upsampling, then [0, 1] (PROTOCOL F2). A constant map gives a mask of zeros (F3)."""
    if feature_map.min() == feature_map.max():
        return np.zeros(size)
    if rule == "bilinear":
        return to_unit_range(resize_bilinear(feature_map, size))
    if rule == "normalise_then_resize":
        return resize_bilinear(to_unit_range(feature_map), size)
    return to_unit_range(resize_nearest(feature_map, size))


# ---------------------------------------------------------------------------------- phase 3: attribution mask scoring


def confidence(network: nn.Module, image: torch.Tensor, target: int, kind: str = "softmax") -> float:
    """Ψ (PROTOCOL M6)."""
    with torch.no_grad():
        scores = in_double_precision(network)(image.double())[0]
    if kind == "softmax":
        return float(torch.softmax(scores, 0)[target])
    if kind == "sigmoid":
        return float(1 / (1 + torch.exp(-scores[target])))
    return float(scores[target])


def masked(image: torch.Tensor, mask: np.ndarray, fill: torch.Tensor | None = None) -> torch.Tensor:
    """I ⊙ m, and ``fill`` where the mask is not (PROTOCOL M5)."""
    m = torch.from_numpy(np.asarray(mask, dtype=np.float64))
    picture = image.double() * m
    return picture if fill is None else picture + fill.double() * (1 - m)


def visualization_map(
    network: nn.Module,
    image: torch.Tensor,
    layer: str,
    target: int,
    selected: list[int],
    *,
    rule: str = "bilinear",
    contribution: str = "mask_size",
    fill: torch.Tensor | None = None,
    psi: str = "softmax",
    score: str = "confidence",
) -> np.ndarray | None:
    """V, S3 eqs. 3 and 12, then min-max (PROTOCOL F5); None if there is nothing to see."""
    if not selected:
        return None
    network = in_double_precision(network)
    size = tuple(image.shape[-2:])
    maps = run(network, image, [layer])[1][layer][0].detach().numpy()
    total = np.zeros(size)
    for k in selected:
        m = attribution_mask(maps[k], size, rule)
        c_m = m / (m.sum() + EPSILON) if contribution == "mask_size" else m
        weight = 1.0 if score == "one" else confidence(network, masked(image, m, fill), target, psi)
        total += weight * c_m
    expectation = total / len(selected)
    expectation = expectation - expectation.min()
    return expectation / expectation.max() if expectation.max() > 0 else None


# ---------------------------------------------------------------------------------- phase 4: fusion


def otsu256(values: np.ndarray, tau: bool) -> float:
    """The authors' Otsu: 256 fixed levels of [0, 1]; raised by half if under a tenth of the values reach that.

    A split with an empty class has an undefined variance, and the first undefined one wins.
    """
    rounded = np.round(values.ravel() * 256).astype(int)
    levels = np.minimum(rounded, 255)  # 256 shares the last bin
    count = [int((levels == level).sum()) for level in range(256)]
    best, best_variance = 0, 0.0
    for j in range(1, 256):
        below, above = sum(count[:j]), sum(count[j:])
        if below == 0 or above == 0:
            best = j
            break
        mean_below = sum(i * count[i] for i in range(j)) / below
        mean_above = sum(i * count[i] for i in range(j, 256)) / above
        variance = below * above * (mean_below - mean_above) ** 2
        if variance > best_variance:
            best, best_variance = j, variance
    if tau and sum(value >= round(1.5 * best) for value in rounded) / len(rounded) < 0.1:
        return 1.5 * best / 256
    return best / 256


def otsu_between_extremes(values: np.ndarray) -> float:
    """The usual Otsu: 256 bins between the extremes; the middle of the last bin of the low class."""
    count, edges = np.histogram(values.ravel(), bins=256)
    middle = [(edges[i] + edges[i + 1]) / 2 for i in range(256)]
    best, best_variance = None, -1.0
    for last in range(255):
        below, above = int(count[: last + 1].sum()), int(count[last + 1 :].sum())
        mean_below = sum(count[i] * middle[i] for i in range(last + 1)) / below
        mean_above = sum(count[i] * middle[i] for i in range(last + 1, 256)) / above
        variance = below * above * (mean_below - mean_above) ** 2
        if variance > best_variance * (1 + 1e-12):
            best, best_variance = middle[last], variance
    return best


def gate(v: np.ndarray, kind: str, temperature: float = 100.0) -> np.ndarray:
    """What of the map so far the later map V lets through (PROTOCOL F6)."""
    if kind == "none":
        return np.ones_like(v)
    if kind == "simple":
        return v
    if kind == "otsu_hard":
        return (v > otsu_between_extremes(v)).astype(float)
    if kind == "otsu_ranked":
        return np.where(v > otsu_between_extremes(v), 1.0, 1e-6)
    threshold = otsu256(v, tau=kind == "otsu_soft")
    return 1 / (1 + np.exp(-temperature * (v - threshold)))


def fuse(
    maps: list[np.ndarray | None],
    size: tuple[int, int],
    *,
    kind: str = "otsu_soft",
    temperature: float = 100.0,
    empty: str = "skip",
    normalise: bool = True,
) -> np.ndarray:
    """The cascade of S3 Fig. 6, low to high (PROTOCOL F7 to F9)."""
    if empty == "nan" and any(v is None for v in maps):
        return np.full(size, np.nan)
    if all(v is None for v in maps):
        return np.zeros(size)
    if empty == "skip":
        maps = [v for v in maps if v is not None]
    fused = np.zeros(size) if maps[0] is None else maps[0]
    for v in maps[1:]:
        fused = np.zeros(size) if v is None else (fused + v) * gate(v, kind, temperature)
    if not normalise:
        return fused
    fused = fused - fused.min()
    return fused / fused.max() if fused.max() > 0 else fused


# ---------------------------------------------------------------------------------- the whole


def sise(
    network: nn.Module,
    image: torch.Tensor,
    target: int,
    layers: list[str],
    *,
    mu: float = 0.0,
    rule: str | None = None,
    estimator: str = "exact",
    inclusive: bool = False,
    gradient: str = "log_odds",
    psi: str = "softmax",
    mask: str = "bilinear",
    contribution: str = "mask_size",
    fill: torch.Tensor | None = None,
    gate: str = "otsu_soft",
    temperature: float = 100.0,
    empty: str = "skip",
    normalise: bool = True,
    score: str = "confidence",
    draw: dict[str, list[int]] | None = None,
) -> np.ndarray:
    """SISE, or Ada-SISE where a ``rule`` finds μ; an ablation's own choice of feature maps where ``draw`` names it."""
    maps = []
    for layer in layers:
        alpha = gradient_scores(network, image, layer, target, gradient)
        threshold = mu if rule is None else adaptive_mu(alpha, rule, estimator)
        selected = select(alpha, threshold, inclusive) if draw is None else draw[layer]
        maps.append(
            visualization_map(
                network,
                image,
                layer,
                target,
                selected,
                rule=mask,
                contribution=contribution,
                fill=fill,
                psi=psi,
                score=score,
            )
        )
    size = tuple(image.shape[-2:])
    return fuse(maps, size, kind=gate, temperature=temperature, empty=empty, normalise=normalise)


# ---------------------------------------------------------------------------------- two small networks to explain


class Plain(nn.Module):
    """A VGG in small: convolutions, in-place ReLUs, pooling between blocks."""

    LAYERS = ("block1.3", "block2.1", "block3.1")

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.block1 = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(True),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(True),
            nn.MaxPool2d(2),
        )
        self.block2 = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(2))
        self.block3 = nn.Sequential(nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(True))
        self.head = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block3(self.block2(self.block1(x))).mean(dim=(2, 3)))


class Block(nn.Module):
    """A residual block whose sum and ReLU are made in place."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.relu2(y)


class Residual(nn.Module):
    """A ResNet in small."""

    LAYERS = ("relu", "layer1", "layer2")

    def __init__(self, classes: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, 2, 2, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 0, ceil_mode=True)
        self.layer1 = Block(8, 12, 1)
        self.layer2 = Block(12, 16, 2)
        self.fc = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu(self.bn(self.conv(x))))
        return self.fc(self.layer2(self.layer1(x)).mean(dim=(2, 3)))


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and batch statistics, the same every time; the global generator is left alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(network.state_dict().items()):
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(noise.abs() + 0.5)
            elif value.ndim > 1:
                value.copy_(noise * (2.5 / value[0].numel()) ** 0.5)
            elif name.endswith("weight"):  # of a batch normalisation
                value.copy_(1 + 0.3 * noise)
            else:
                value.copy_(0.1 * noise)
    network.eval()
    with torch.no_grad():  # no class is out of sight, none is alone
        head = next(m for m in reversed(list(network.modules())) if isinstance(m, nn.Linear))
        head.weight.mul_(1.5 / float(network(picture()).std()))
    return network


def picture(size: tuple[int, int] = (40, 56), seed: int = 0) -> torch.Tensor:
    """(1, 3, H, W): smooth blobs and a little noise, about -2 to 2."""
    generator = torch.Generator().manual_seed(1000 + seed)
    coarse = torch.randn(1, 3, 6, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    return smooth + 0.2 * torch.randn(1, 3, *size, generator=generator)
