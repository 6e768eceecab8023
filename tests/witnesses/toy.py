"""A dataset and a network small enough to run end to end in a second, in the suite's own contracts."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from sise.benchmark.models.preprocessing import Preprocessing
from sise.types import Model, Sample

SIZE = (24, 32)
CLASSES = ("red", "green", "blue", "grey")


class ToyDataset:
    """Coloured boxes on noise; image "03" is broken, image "05" has one class the network does not know."""

    name = "toy"
    classes = (*CLASSES, "unknown")

    def __init__(self, count: int = 6, broken: str | None = "03") -> None:
        self.ids = tuple(f"{i:02d}" for i in range(count))
        self.broken = broken

    def __len__(self) -> int:
        return len(self.ids)

    def targets_of(self, image_id: str) -> tuple[int, ...]:
        i = int(image_id)
        return tuple(sorted({i % 3, 1} | ({4} if i == 5 else set())))

    def __getitem__(self, image_id: str) -> Sample:
        if image_id == self.broken:
            raise OSError("image file is truncated")
        rng = np.random.default_rng(int(image_id))
        pixels = rng.integers(0, 60, (*SIZE, 3), dtype=np.uint8)
        targets = self.targets_of(image_id)
        masks = np.zeros((len(targets), *SIZE), dtype=bool)
        for i, target in enumerate(targets):
            y, x = 2 + 7 * i, 3 + 9 * i
            masks[i, y : y + 6, x : x + 8] = True
            pixels[masks[i], target % 3] = 250
        return Sample(image_id, Image.fromarray(pixels), targets, masks, {"difficult": [False] * len(targets)})

    def fingerprint(self) -> str:
        return f"toy-{len(self.ids)}"


class ToyNetwork(nn.Module):
    """Three stages with BN and in-place ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.stage2 = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True))
        self.stage3 = nn.Sequential(nn.Conv2d(8, 10, 3, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(10, len(CLASSES))

    def forward(self, x):
        x = self.pool(self.stage1(x))
        x = self.stage3(self.pool(self.stage2(x)))
        return self.head(x.mean(dim=(2, 3)))


def toy_model(seed: int = 0) -> Model:
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    network = ToyNetwork().eval()
    torch.set_rng_state(generator_state)
    preprocess = Preprocessing(size=SIZE, mean=(127.0,) * 3, std=(128.0,) * 3)
    return Model(
        network=network,
        name="toynet",
        classes=CLASSES,
        layers=("stage1", "stage2", "stage3"),
        cam_layer="stage3",
        preprocess=preprocess,
        resize_mask=preprocess.resize_mask,
        black=preprocess.black,
        mean=preprocess.mean_colour,
        weights_hash=f"seed{seed}",
    )
