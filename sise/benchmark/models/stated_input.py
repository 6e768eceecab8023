"""The input that a network's configuration or package states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from sise.benchmark.models.preprocessing import Preprocessing
from sise.errors import SuiteError, choose

#: What nearly every ImageNet network expects: pixels in [0, 1], minus the mean, divided by the standard deviation.
IMAGENET_INPUT = {"size": (224, 224), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": 1.0}


def stated_preprocessing(
    own: Mapping[str, Any], given: Mapping[str, Any] | None, geometry: str, resample: str, resize: int | None = None
) -> Preprocessing:
    """How images are brought to a network that takes ``(scale * x - mean) / std``, x in [0, 1].

    Args:
        own: What the network says: ``size``, ``mean``, ``std``, ``scale`` and ``channels`` (1 or 3).
        given: What the user says instead; missing and None are the network's. A number stands for two sides or three
            channels; with a ``scale``, mean is 0 and std is 1 unless they are given too. ``channels``: RGB, BGR or L.
        geometry, resample, resize: As in `Preprocessing`.

    Raises:
        SuiteError: If a key or a value is wrong, or the network takes neither one nor three channels.
    """
    given = {key: value for key, value in (given or {}).items() if value is not None}
    for key in given:
        choose("key of model.input", key, (*IMAGENET_INPUT, "channels"))
    count = own["channels"]
    if count not in (1, 3):
        raise SuiteError(
            f"the network takes images of {count} channels; an image file has 1 or 3. Explain it from Python with your "
            "own tensor: sise.explain(network, tensor, target)"
        )
    channels = choose("model.input.channels", given.get("channels", "RGB" if count == 3 else "L"), ("RGB", "BGR", "L"))
    if (channels == "L") != (count == 1):
        raise SuiteError(f"model.input.channels={channels}, but the network takes images of {count} channels")
    wanted = dict(own) | ({"mean": 0.0, "std": 1.0} if "scale" in given else {}) | given

    def numbers(key: str, count: int) -> list[Any]:
        value = wanted[key]
        values = [value] if isinstance(value, int | float) else value
        if isinstance(values, str) or not all(isinstance(one, int | float) for one in values):
            raise SuiteError(f"model.input.{key}: expected a number or {count}, got {value!r}")
        return list(values) * count if len(values) == 1 else list(values)

    (scale,) = numbers("scale", 1)
    if scale <= 0:
        raise SuiteError(f"model.input.scale: expected a positive number, the value of a white pixel; got {scale}")
    mean, std = ([255 / scale * value for value in numbers(key, 3)] for key in ("mean", "std"))
    if channels == "L" and len(mean) == len(std) == 3:  # a network's own numbers may be those of colours
        mean, std = [sum(mean) / 3] * 3, [sum(std) / 3] * 3
    return Preprocessing(
        size=tuple(numbers("size", 2)), geometry=geometry, resample=resample, mean=mean, std=std, channels=channels,
        resize=resize if geometry == "center_crop" and "size" not in given else None,
    )  # fmt: skip


def timm_input(network: nn.Module, channels: int) -> tuple[dict[str, Any], int]:
    """The input a network of timm states in its ``pretrained_cfg``, and the shorter side before its centre crop."""
    config = cast("Mapping[str, Any]", network.pretrained_cfg)
    size = tuple(config["input_size"][1:])
    own = {"size": size, "mean": config["mean"], "std": config["std"], "scale": 1.0, "channels": channels}
    return own, round(size[0] / config.get("crop_pct", 224 / 256))
