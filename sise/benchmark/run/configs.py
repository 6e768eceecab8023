"""The folder of configurations, and its groups."""

from __future__ import annotations

GROUPS = ("dataset", "model", "explainer", "protocol", "metrics", "engine", "experiment")
