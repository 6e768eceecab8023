"""Audits of the kept feature maps: U2 and U3."""

from __future__ import annotations

import math

import pandas as pd

from sise.benchmark.studies import kept_maps
from sise.benchmark.studies.audits.context import Audit, Bench, wide_table
from sise.choices import ADAPTIVE_RULES, GradientScore


# --- U2, U3: which feature maps ---------------------------------------------------------------------------------------
def _feature_maps(bench: Bench, model: str, gradient: GradientScore = "log_odds") -> pd.DataFrame:
    """Feature maps kept under every rule, as in Ada-SISE's Table 2; its numbers stand by only on VOC and ResNet-50."""
    loaded = bench.model(model)
    found, _ = kept_maps.collect(bench.dataset, loaded, limit=bench.limit, gradient=gradient, device=bench.device)
    official = loaded.official
    table = kept_maps.summarise(found, bench.numbers, dataset=bench.dataset.name, model=model, official=official)
    table = table[table["layer"] != "sum"].rename(
        columns={"mean": "maps", "share of positive": "%", "published share of positive": "published %",
                 "published (resnet50, voc2007)": "published"}
    )  # fmt: skip
    if (bench.dataset.name, model) != ("voc2007", "resnet50"):
        table[["published", "published %"]] = math.nan
    return table.assign(layer=[f"p{layer}" for layer in table["layer"]])


def _beside_table_2(rows: pd.DataFrame, by: str) -> tuple[pd.DataFrame, str]:
    """A line per model and ``by`` with the layers' percentages, the published ones below; and which come closest."""
    shown = wide_table(rows, ("model", by), "layer", "%")
    known = rows.dropna(subset="published %")
    off = (known["%"] - known["published %"]).abs().groupby(known[by], sort=False).mean().sort_values()
    if not len(off):
        return shown, "no published counts for this dataset and these networks"
    published = wide_table(known.assign(**{by: "published"}), ("model", by), "layer", "published %")
    each = "; ".join(f"{name} {value:.1f}" for name, value in off.items())
    verdict = f"closest: {off.index[0]} (points off Ada-SISE's Table 2 on average: {each})"
    return pd.concat([shown, published], ignore_index=True), verdict


def u2(bench: Bench) -> Audit:
    """What is differentiated: the share of feature maps with a positive gradient score under softmax and logit."""
    rows = []
    for model in bench.cfg.models:
        for gradient in ("log_odds", "softmax_f32", "logit"):
            table = _feature_maps(bench, model, gradient).set_index("layer")
            positive, available = (table[table["rule"] == rule] for rule in ("SISE", "available"))
            for layer in positive.index:
                row = {"model": model, "gradient": gradient, "layer": layer, "pairs": positive["pairs"][layer]}
                row |= {"maps": available["maps"][layer], "positive": round(positive["maps"][layer], 1)}
                for share, count in (("%", "maps"), ("published %", "published")):
                    row[share] = round(100 * positive[count][layer] / available[count][layer], 1)
                rows.append(row)
    table = pd.DataFrame(rows)
    question = (
        "Is softmax differentiated (log_odds: the same, exactly), or the logit? Percent of feature maps with α > 0:"
    )
    return Audit("U2", question, table, *_beside_table_2(table, "gradient"))


def u3(bench: Bench) -> Audit:
    """Feature maps that each reading of Ada-SISE's rule keeps, beside its Table 2."""
    table = pd.concat([_feature_maps(bench, model) for model in bench.cfg.models], ignore_index=True)
    table = table[table["rule"].isin(ADAPTIVE_RULES)].round({"maps": 1, "standard error": 2, "%": 1, "published %": 1})
    question = "Which reading of Ada-SISE's rule? Percent of the positive feature maps that are kept:"
    return Audit("U3", question, table, *_beside_table_2(table, "rule"))
