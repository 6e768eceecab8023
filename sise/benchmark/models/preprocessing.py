"""From an image to a network's input, and a ground-truth mask onto the same grid (PROTOCOL M3, M4, E1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sise.benchmark.datasets.images import to_rgb
from sise.errors import SuiteError, choose
from sise.maps import upsample

__all__ = ["CAFFE_MEAN", "GEOMETRIES", "RESAMPLES", "Preprocessing"]

#: Mean colour (R, G, B) of ImageNet in [0, 255], which TorchRay's networks subtract.
CAFFE_MEAN = (123.68, 116.779, 103.939)
GEOMETRIES = ("squash", "shorter_side", "center_crop")

#: ``torch_bilinear`` interpolates without antialiasing, as TorchRay does; the others are Pillow's filters.
RESAMPLES = ("lanczos", "bicubic", "bilinear", "nearest", "torch_bilinear")

#: Longest image, in shorter sides, that keeps its aspect ratio: a strip of one pixel would become one of millions.
MAX_ASPECT = 50
_FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


def _nearest(length: int, new: int) -> np.ndarray:
    """Source indices (new,) of nearest-neighbour resizing: floor((i + 1/2) * length / new), in whole numbers."""
    return (2 * np.arange(new) + 1) * length // (2 * new)


@dataclass(frozen=True)
class Preprocessing:
    """Turns images into network inputs: ``(255 * x - mean) / std``, x the resized RGB image in [0, 1].

    Geometries, for an image of h x w pixels:

    * ``squash``: resized to ``size``, the aspect ratio is lost (PROTOCOL M3, default);
    * ``shorter_side``: the shorter side becomes ``size``, the longer one ``int(size * longer / shorter)``, so inputs
      differ in shape; with ``resample="torch_bilinear"`` this is TorchRay's own transform;
    * ``center_crop``: the shorter side becomes ``resize``, then the central ``size`` square is cut out. Ground truth
      outside of it is lost.

    Args:
        size: (H, W) of the input. ``shorter_side`` and ``center_crop`` need H = W.
        geometry: One of ``GEOMETRIES``.
        resample: One of ``RESAMPLES``.
        mean: Mean colour (R, G, B) in [0, 255].
        std: Divisors (R, G, B), in the same units.
        channels: Channel order of the input, "RGB" or "BGR", ``mean`` and ``std`` are given in RGB either way; "L" for
            one channel of grey, with three equal numbers each.
        resize: Shorter side before ``center_crop``, in pixels; None = 256/224 of the size.

    Raises:
        SuiteError: If a value is not one of the above.
    """

    size: Sequence[int] = (224, 224)
    geometry: str = "squash"
    resample: str = "lanczos"
    mean: Sequence[float] = CAFFE_MEAN
    std: Sequence[float] = (1.0, 1.0, 1.0)
    channels: str = "RGB"
    resize: int | None = None

    def __post_init__(self) -> None:
        choose("geometry", self.geometry, GEOMETRIES)
        choose("resample", self.resample, RESAMPLES)
        choose("channels", self.channels, ("RGB", "BGR", "L"))
        for name, count, kind in (("size", 2, int), ("mean", 3, float), ("std", 3, float)):
            given = getattr(self, name)
            try:
                values = tuple(kind(value) for value in given)
            except (TypeError, ValueError):
                values = ()
            if len(values) != count or any(number != value for number, value in zip(values, given, strict=True)):
                raise SuiteError(f"preprocessing.{name}: expected {count} numbers ({kind.__name__}), got {given!r}")
            object.__setattr__(self, name, values)
        if min(self.size) < 1:
            raise SuiteError(f"preprocessing.size: expected (H, W) of at least one pixel, got {self.size}")
        if not all(value > 0 for value in self.std):
            raise SuiteError(f"preprocessing.std: expected three positive numbers, got {self.std}")
        if self.channels == "L" and len({*self.mean}) + len({*self.std}) > 2:
            raise SuiteError(f"channels=L has one mean and one std, got mean={self.mean} and std={self.std}")
        if self.geometry != "squash" and self.size[0] != self.size[1]:
            raise SuiteError(f"geometry={self.geometry} needs a square size, got {self.size}; use geometry=squash")
        if self.resize is not None and self.resize < self.size[0]:
            raise SuiteError(f"preprocessing.resize: expected at least the size {self.size[0]}, got {self.resize}")

    def _grid(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(H, W) that an image is resized to, and (top, left) of the part that is kept."""
        if self.geometry == "squash":
            return (self.size[0], self.size[1]), (0, 0)
        if max(height, width) > MAX_ASPECT * min(height, width):
            raise SuiteError(
                f"geometry={self.geometry} takes images up to {MAX_ASPECT} times as long as wide, got {width}x{height} "
                "pixels; use geometry=squash"
            )
        short = self.size[0]
        if self.geometry == "center_crop":
            short = self.resize or round(self.size[0] * 256 / 224)
        portrait = width < height
        resized = (int(short * height / width), short) if portrait else (short, int(short * width / height))
        if self.geometry == "shorter_side":
            return resized, (0, 0)
        return resized, (round((resized[0] - self.size[0]) / 2), round((resized[1] - self.size[1]) / 2))

    def _crop(self, array, top: int, left: int):
        """The kept part of ``array`` (H, W, ...)."""
        if self.geometry != "center_crop":
            return array
        return array[top : top + self.size[0], left : left + self.size[1]]

    def __call__(self, image: Image.Image) -> Tensor:
        """The network input of an image.

        Args:
            image: Pillow image of any mode (see `to_rgb`), h x w pixels.

        Returns:
            (3, H, W) float32; (1, H, W) with ``channels="L"``.

        Raises:
            SuiteError: If the image is more than `MAX_ASPECT` times as long as wide, unless it is squashed.
        """
        image = to_rgb(image)
        image = image.convert("L").convert("RGB") if self.channels == "L" else image
        (height, width), corner = self._grid(image.height, image.width)
        if self.resample == "torch_bilinear":
            pixels = torch.tensor(np.asarray(image), dtype=torch.float32).permute(2, 0, 1)[None]
            pixels = functional.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
            pixels = self._crop(pixels[0].permute(1, 2, 0), *corner)
        else:
            resized = image.resize((width, height), _FILTERS[self.resample])
            pixels = torch.tensor(self._crop(np.asarray(resized), *corner), dtype=torch.float32)
        pixels = ((pixels - torch.tensor(self.mean)) / torch.tensor(self.std)).permute(2, 0, 1)
        pixels = pixels.flip(0) if self.channels == "BGR" else pixels
        return (pixels[:1] if self.channels == "L" else pixels).contiguous()

    def resize_mask(self, mask) -> np.ndarray:
        """A ground-truth mask on the grid of the network's input.

        Nearest neighbour with pixel centres: row i of H rows is row floor((i + 1/2) * h / H) of the h original ones,
        and the same for columns, computed in whole numbers: torch's ``nearest-exact``. Pillow's NEAREST has the same
        rule, but where a centre lies exactly between two pixels its accumulated rounding decides. The geometry is that
        of the image.

        Args:
            mask: (h, w) bool at the image's size.

        Returns:
            (H, W) bool.

        Raises:
            SuiteError: If the mask is not (h, w), or as long as an image that `__call__` refuses.
        """
        mask = np.asarray(mask, dtype=bool)
        if mask.ndim != 2 or 0 in mask.shape:
            raise SuiteError(f"expected a mask (h, w) at the image's size, got shape {mask.shape}")
        (height, width), corner = self._grid(*mask.shape)
        rows, columns = _nearest(mask.shape[0], height), _nearest(mask.shape[1], width)
        return np.ascontiguousarray(self._crop(mask[np.ix_(rows, columns)], *corner))

    def restore_map(self, saliency: Tensor, size: tuple[int, int]) -> Tensor:
        """A map of the network's input, back on the image.

        Args:
            saliency: (H, W) float, on the grid of the network's input.
            size: (h, w) of the image.

        Returns:
            (h, w), bilinearly resized; 0 where ``center_crop`` cut the image off.
        """
        (height, width), (top, left) = self._grid(*size)
        grid = saliency.new_zeros(height, width)
        rows, columns = saliency.shape
        grid[top : top + rows, left : left + columns] = saliency
        return upsample(grid[None], size)[0]

    def _colour(self, colour: Sequence[float]) -> tuple[float, ...]:
        values = [(c - m) / s for c, m, s in zip(colour, self.mean, self.std, strict=True)]
        red, green, blue = values
        if self.channels == "L":
            return (0.299 * red + 0.587 * green + 0.114 * blue,)  # Pillow's grey of a colour
        return (blue, green, red) if self.channels == "BGR" else (red, green, blue)

    @property
    def black(self) -> tuple[float, ...]:
        """Network input of a black pixel, in the input's channel order."""
        return self._colour((0.0, 0.0, 0.0))

    @property
    def mean_colour(self) -> tuple[float, ...]:
        """Network input of ImageNet's mean colour, (123.68, 116.779, 103.939) in RGB, in the input's channel order."""
        return self._colour(CAFFE_MEAN)
