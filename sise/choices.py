"""Every named choice of the protocol that the method's code offers; docs/protocol.md says what each means."""

from __future__ import annotations

from typing import Literal

import torch

Confidence = Literal["softmax", "sigmoid", "logit"]
"""Ψ, what a network's scores are turned into (PROTOCOL M6)."""
GradientScore = Literal["log_odds", "softmax_f32", "logit"]
"""The scalar whose gradient selects feature maps (PROTOCOL M7)."""


CONFIDENCES = ("softmax", "sigmoid", "logit")
GRADIENT_SCORES = ("log_odds", "softmax_f32", "logit")
MASK_RULES = ("bilinear", "normalise_then_resize", "nearest")


ADAPTIVE_RULES = (
    "otsu_positive",
    "otsu_signed",
    "eq5_literal_asc_incl",
    "eq5_literal_asc_excl",
    "eq5_literal_desc_incl",
    "eq5_literal_desc_excl",
    "author_hist",
)
SELECTIONS = ("gradient", "random", "all")
SCORES = ("confidence", "one")
ESTIMATORS = ("exact", "skimage", "uint8")


GATES = ("otsu_soft", "otsu_soft_notau", "otsu_hard", "otsu_ranked", "simple", "none")


PRECISIONS = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


TARGETS = ("all", "predicted", "argmax")
FILLS = ("zero", "black", "mean", "blur")
