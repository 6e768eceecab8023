"""The leaderboard's lines, cells and claims, from tables made by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from checkout import ROOT
from hand_made import RISE, SISE, claim, facts_of, row
from PIL import Image

from sise.benchmark.records.provenance import save_image
from sise.benchmark.report import leaderboard, showcase
from sise.benchmark.report.leaderboard import Origin, Source, better, board, claims_of, fits
from sise.errors import SuiteError


def source(title, *rows, claims=None, commands=(), origins=None):
    return Source(title, title.lower(), pd.DataFrame(rows), claims, commands, origins or {})


# ------------------------------------------------------------------------------------------------ lines


def test_one_measurement_in_two_tables_is_one_line():
    one = source("One", row(SISE, "EBPG", 50.0, published=60.54, status="other data"), commands=["a", "b"])
    two = source(
        "Two", row(("sise", "paper", "SISE, again"), "EBPG", 50.0), row(SISE, "seconds", 2.0), commands=["a", "c"]
    )
    found = board([one, two])
    (line,) = found.lines
    assert line.labels == ["SISE", "SISE, again"]
    assert (line.name, line.network, line.pairs) == ("sise/paper", "VGG16", 10)
    assert [s.title for s in line.sources] == ["One", "Two"] and line.commands == ["a", "b", "c"]
    assert found.metrics == ["EBPG", "seconds"] and found.measured == 2
    cell = line.cell("EBPG")
    assert cell.first.status == "other data" and cell.published == "60.54 °" and cell.value == "50.0"
    assert cell.states == "other-data not-published" and line.cell("mIoU") is None
    assert [(entry.status, titles) for entry, titles in line.told] == [
        ("other data", ["One"]), ("not published", ["Two"]), ("not published", ["Two"]),
    ]  # fmt: skip


@pytest.mark.parametrize("other", [{"mean": 50.1}, {"mean": 50.0, "n": 11}])
def test_other_measurements_have_lines_of_their_own(other):
    found = board([source("One", row(SISE, "EBPG", 50.0)), source("Two", row(SISE, "EBPG", **other))])
    assert [[s.title for s in line.sources] for line in found.lines] == [["One"], ["Two"]]


def test_a_cell_that_was_not_run_joins_the_one_that_was():
    missing = row(SISE, "EBPG", math.nan, 0, published=60.54, status="not run")
    (line,) = board([source("One", missing), source("Two", row(SISE, "EBPG", 50.0))]).lines
    assert line.cell("EBPG").first.measured == "50.00 ± 1.00" and line.cell("EBPG").published == "60.54"
    (line,) = board([source("One", missing)]).lines
    assert line.cell("EBPG").first.measured == "–" and line.cell("EBPG").value == "" and line.pairs == 0


def test_lines_of_a_data_set_and_network_stand_together_and_costs_last():
    first = source("One", row(SISE, "seconds", 1.0), row(SISE, "EBPG", 1.0, model="resnet50"))
    second = source("Two", row(SISE, "Odd", 1.0, dataset="photos"), row(RISE, "mIoU", 2.0))
    found = board([first, second])
    assert [(x.number, x.dataset, x.model, x.explainer) for x in found.lines] == [
        (0, "shapes", "vgg16", "sise"), (1, "shapes", "vgg16", "rise"), (2, "shapes", "resnet50", "sise"),
        (3, "photos", "vgg16", "sise"),
    ]  # fmt: skip
    assert found.metrics == ["EBPG", "mIoU", "Odd", "seconds"]
    assert found.datasets == ["shapes", "photos"] and found.networks == {"vgg16": "VGG16", "resnet50": "ResNet-50"}
    assert board([]).lines == [] and board([]).metrics == []


def test_a_line_tells_where_it_comes_from():
    key = ("shapes", "vgg16", "sise", "paper")
    one = source(
        "One",
        row(SISE, "EBPG", 50.0, undefined=2, failed=1, missing=3, note="departs: mu=0.3", commit="0123abc 4567def+"),
        row(SISE, "mIoU", 5.0, note="departs: mu=0.3", commit="0123abc"),
        commands=["python tables"],
        origins={key: Origin(["python run"], ["a machine"])},
    )
    (line,) = board([one]).lines
    assert line.notes == ["departs: mu=0.3"] and line.commits == ["0123abc", "4567def+"]
    assert line.commands == ["python run", "python tables"] and line.machines == ["a machine"]
    assert line.cell("EBPG").first.counts == "10 pairs, 2 set by definition, 3 missing, 1 failed"
    assert "sise/paper" in line.words and "sise" in line.words


def test_a_difference_is_signed_and_only_where_it_may_be_compared():
    reproduced = row(SISE, "EBPG", 59.0, published=60.0, difference=-1.0, status="differs")
    (line,) = board([source("One", reproduced)]).lines
    assert line.cell("EBPG").first.apart == "−1.00" and line.cell("EBPG").published == "60.00 ≠"
    assert better("Drop%") == "lower" and better("EBPG") == "higher"


def test_only_tables_of_numbers_fit():
    frame = pd.DataFrame([row(SISE, "EBPG", 50.0)])
    assert fits(frame) and not fits(frame.drop(columns="status")) and not fits(frame.assign(status="splendid"))
    assert not fits(frame.assign(mean="many"))


# ------------------------------------------------------------------------------------------------ claims


def test_claims_stand_with_the_run_they_are_about():
    claims = pd.DataFrame([claim("SISE", "RISE", "held"), claim("SISE", "Other", "not held", agrees=False)])
    found = board([source("One", row(SISE, "EBPG", 50.0), row(RISE, "EBPG", 40.0), claims=claims)])
    sise, rise = found.lines
    assert sise.verdicts == [("held", 1), ("not held", 1)] and rise.verdicts == []
    assert sise.claims[0]["heading"] == "EBPG"
    old = claims.drop(columns=["subject run", "rival run"])  # written by a former version
    assert board([source("One", row(SISE, "EBPG", 50.0), claims=old)]).lines[0].claims == []


def test_every_sentence_of_the_papers_is_told_checked_or_not():
    checked = pd.DataFrame([claim("SISE", "RISE", "held"), claim("SISE", "Other", "stand-in", agrees=False)])
    facts = ["source", "section", "claim", "table", "dataset", "model", "metric", "subject", "rival", "kind"]
    every = pd.concat([checked, pd.DataFrame([claim("SISE", "RISE", "", text="SISE is fast", table="SISE Table 7")])])
    leads, fast = claims_of(every[facts], [source("One", row(SISE, "EBPG", 50.0), claims=checked)])
    assert (leads.text, leads.orderings, leads.agree, leads.checked) == ("SISE leads", 2, 1, 2)
    assert leads.verdicts == [("held", 1), ("stand-in", 1)] and leads.where == [("One", "one")]
    assert (fast.orderings, fast.checked, fast.verdicts, fast.where) == (1, 0, [("not run", 1)], [])
    (alone,) = claims_of(None, [source("One", row(SISE, "EBPG", 50.0), claims=checked)])
    assert (alone.orderings, alone.checked) == (2, 2) and claims_of(None, []) == []


# ------------------------------------------------------------------------------------------------ explainers


def test_cards_have_costs_and_the_gallerys_squares(tmp_path):
    assert showcase.cards(tmp_path) == []
    facts_of(tmp_path)
    sise, rise = showcase.cards(tmp_path)
    assert (sise.cost, sise.picture, rise.refuses) == ("129 + 1", "", "GELU")
    (tmp_path / "figures").mkdir()
    sheet = Image.new("RGB", (60, 20), "red")
    sheet.paste("blue", (20, 0, 40, 20))
    squares = '{"squares": {"": [0, 0, 20, 20], "sise": [20, 0, 40, 20]}}'
    save_image(sheet, tmp_path / "figures/gallery.jpg", ".jpg", squares)
    images, sise, rise = showcase.cards(tmp_path)
    assert (images.name, images.size, sise.size, rise.picture) == ("", (20, 20), (20, 20), "")
    assert images.picture != sise.picture and sise.picture.startswith("data:image/webp;base64,")
    assert [family for family, _ in showcase.by_family([images, sise, rise])] == ["", "Own", "Other"]
    (tmp_path / "figures/gallery.jpg").write_bytes(b"no image")
    assert [card.picture for card in showcase.cards(tmp_path)] == ["", ""]


def test_facts_that_lack_a_column_are_refused(tmp_path):
    (tmp_path / "explainers.csv").write_text("explainer,label\nsise,SISE\n")
    with pytest.raises(SuiteError, match=r"family.*are missing; make it anew"):
        showcase.cards(tmp_path)


def test_the_repositorys_board():
    """What is committed: every cell that a table measured stands on it."""
    frames = {f.stem: pd.read_csv(f, dtype={"variant": str}) for f in sorted((ROOT / "results").glob("*.csv"))}
    sources = [Source(name, name, frame) for name, frame in frames.items() if fits(frame)]
    found = leaderboard.board(sources)
    told = sum(len(entries) for line in found.lines for entries in line.entries.values())
    assert told == sum(len(source.cells) for source in sources) > 500
    shown = showcase.cards(ROOT / "results")
    assert len(shown) > 40 and all(card.picture for card in shown)
