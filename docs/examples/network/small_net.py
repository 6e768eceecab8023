"""A network of your own: any module from pictures (N, 3, H, W) to scores (N, K)."""

import torch
from torch import nn


class SmallNet(nn.Module):
    """Three convolutions, the first two followed by pooling.

    Args:
        width: Feature maps of the first convolution.
        classes: K, the number of scores.
    """

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.scores = nn.Linear(4 * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scores(self.features(images).mean(dim=(2, 3)))
