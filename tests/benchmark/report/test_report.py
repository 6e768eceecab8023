"""The page of all results: what it shows of a small results folder, and that it needs nothing beside itself."""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from checkout import ROOT
from omegaconf import OmegaConf
from PIL import Image

from sise.benchmark.records.folder import RunFolder
from sise.benchmark.records.provenance import save_image
from sise.benchmark.report import page as report_page
from sise.benchmark.report import prose
from sise.benchmark.report import results as report_results
from sise.benchmark.report.grids import Cell, grids_of
from sise.errors import SuiteError

EVIL = "<script>alert('x')</script>"
MEASURED = """\
dataset,model,method,explainer,variant,metric,mean,standard error,n,undefined,missing,failed,published,difference,status,seeds,seed s.d.,place,note
shapes,resnet50,RISE,rise,paper,EBPG,12.3456,1.5,103,0,0,0,32.86,,other data,1,,second,150 masks (paper: 4000)
shapes,resnet50,SISE,sise,paper,EBPG,52.1,,103,2,0,0,66.08,,other data,1,,best,
shapes,resnet50,RISE,rise,paper,seconds,0.1234,0.01,103,0,0,0,,,not published,1,,,150 masks (paper: 4000)
shapes,resnet50,SISE,sise,paper,seconds,,,0,0,0,0,9.21,,not run,0,,,
"""  # noqa: E501
STATISTICS = """\
dataset,model,metric,method,explainer,variant,against,images,pairs,unpaired,undefined,mean,reference mean,difference,standard error,low,high,bootstrap p,bootstrap p (Holm),images higher,images lower,images tied,sign p,sign p (Holm),verdict
shapes,resnet50,EBPG,RISE,rise,paper,sise/paper,44,103,0,0,12.3456,52.1,-39.7544,1,-41.2,-38.1,0.0002,0.002,0,44,0,0,0,worse
"""  # noqa: E501
ORDER = "dataset,model,metric,tau,p,n\nshapes,resnet50,EBPG,-0.5,0.25,8\nshapes,resnet50,Bbox,,,8\n"
SECTIONS = [
    {
        "title": "A paper",
        "about": "Of 2021.",
        "items": [
            {
                "item": "Table 1",
                "shows": "Metrics.",
                "files": {"t1_*": "Table 1"},
                "real": "python scripts/evaluate.py",
            },
            {"item": "Table 2", "shows": "More.", "files": {"t2_*": "Table 2"}, "real": "python scripts/doctor.py"},
            {
                "item": "Fig. 1",
                "shows": "A plot.",
                "files": {"figures/plot_*": "Plot"},
                "here": "python scripts/figures.py figure=thresholds",
            },
            {"item": "Fig. 2", "shows": "An overview.", "drawing": "a drawing"},
            {"item": "Fig. 3", "shows": "The plot, too.", "also": ["figures/plot_shapes_vgg16"]},
        ],
    }
]


@pytest.fixture
def results(tmp_path):
    """A folder with one table and its statistics, an unknown table and a figure."""
    folder = tmp_path / "results"
    (folder / "figures").mkdir(parents=True)
    (folder / "t1_shapes.csv").write_text(MEASURED)
    two_tables = "| a |\n|---|\n| 9 |\n\nAnother table:\n\n| b |\n|---|\n| 8 |"
    (folder / "t1_shapes.md").write_text(f"# Table, on shapes\n\n{two_tables}\n\n- Foot with {EVIL} and `code`.\n")
    (folder / "t1_shapes_statistics.csv").write_text(STATISTICS)
    (folder / "t1_shapes_statistics.md").write_text(
        "# Statistics\n\n## ResNet-50\n\n| a |\n|---|\n| 1 |\n\n- ▼ worse.\n"
    )
    (folder / "t1_shapes_order.csv").write_text(ORDER)
    (folder / "new_thing.csv").write_text(f"name,value\n{EVIL},0.123456\nb,\n")
    (folder / "new_thing.md").write_text(
        "# A new thing\n\nIt is new.\n\n| a |\n|---|\n| 1 |\n\nMade by `python scripts/x.py`.\n"
    )
    note = {"command": "python scripts/figures.py 'images=[1]'", "status": "other data", "time": "2026-11-21T06:00:00"}
    save_image(picture(), folder / "figures" / "plot_shapes_vgg16.png", ".png", json.dumps(note))
    return folder


def picture():
    pixels = np.random.default_rng(0).integers(0, 4, (40, 60, 3), dtype=np.uint8) * 80
    return Image.fromarray(pixels)


def collected(results, sections=SECTIONS):
    found = report_results.collect(results, results.parent / "outputs", sections)
    return {result.name: result for _, of_section in found for result in of_section}


def written(results, **changes):
    cfg = {"results": str(results), "outputs": str(results.parent / "outputs"), "page": str(results / "page.html"),
           "megabytes": 5, "sections": SECTIONS}  # fmt: skip
    return report_page.write(cfg | changes).read_text(encoding="utf-8")


def test_a_file_of_the_users_is_not_replaced_by_the_page(results):
    mine = results / "page.html"
    written(results)
    written(results)  # its own page is
    mine.write_text("notes of mine")
    with pytest.raises(SuiteError, match=r"page.html is no page of results; choose another file with page="):
        written(results)
    assert mine.read_text() == "notes of mine"


class Page(HTMLParser):
    """Collects tags and text, and checks that tags are closed in turn."""

    VOID = ("meta", "img", "br", "hr", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.tags if name in attrs]


# ------------------------------------------------------------------------------------------------ the page


def test_the_page_needs_no_other_file(results):
    text = written(results)
    page = Page(text)
    (script,) = (attrs for tag, attrs in page.tags if tag == "script")
    source = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    (policy,) = (content for content in page.attributes("content") if "default-src" in content)
    assert script == {} and f"script-src 'sha256-{digest}'" in policy  # no other script runs
    assert not re.search(r"\b(fetch|import|XMLHttpRequest|eval)\b", source) and "http" not in source
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "iframe", "object", "video", "audio", "base"})
    assert page.attributes("src") and all(source.startswith("data:image/") for source in page.attributes("src"))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids)) and {f"#{i}" for i in ids} >= set(page.attributes("href"))
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style and "@font-face" not in style
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert policy.startswith("default-src 'none'")


def test_everything_is_escaped(results):
    text = written(results)
    assert EVIL not in text and text.count("&lt;script&gt;alert(") == 2  # in the unknown table and in the foot


def test_the_page_shows_what_is_there_and_says_what_is_not(results):
    words = " ".join("".join(Page(written(results)).words).split())
    for part in (
        "No published number has been reproduced or refuted yet",
        "2 on stand-in data or weights (°)",  # two cells beside a published number, not the one without
        "A paper ° other data, 3 items – not run, 2 items",
        "Table 1 · shapes", "Plot · shapes · VGG16", "A new thing", "Further results", "Statistics",
        "python scripts/doctor.py",  # Table 2 has no result: its command
        "a drawing",
        "Command that made it python scripts/figures.py 'images=[1]'",
        "Command that made it python scripts/x.py",
        "2 of the 2 runs behind this table are not in outputs here",
    ):  # fmt: skip
        assert part in words, part


def test_a_page_that_is_too_large_is_written_with_a_warning(results, caplog):
    assert "A new thing" in written(results, megabytes=0.001)
    assert "more than 0.001" in caplog.text and "figures/plot_shapes_vgg16" in caplog.text


def test_the_page_is_the_same_when_made_again(results):
    def undated(text):
        return re.sub(r"(?s)<footer>.*</footer>", "", text)

    assert undated(written(results)) == undated(written(results))


NONE = "No published number has been reproduced or refuted yet."
BESIDE = " Cells beside a published number that do not count: "


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({}, ""),
        ({"not published": 9, "not run": 3}, ""),
        ({"reproduced": 3, "differs": 1}, "3 of 4 published numbers are reproduced, 1 differ."),
        (
            {"reproduced": 3, "close": 2, "differs": 1},
            "3 of 6 published numbers are reproduced, 2 are close, 1 differ.",
        ),
        ({"differs": 1, "not run": 7}, "0 of 1 published numbers are reproduced, 1 differ."),
        ({"other data": 4}, f"{NONE}{BESIDE}4 on stand-in data or weights (°)."),
        (
            {"partial": 2, "other data": 0},
            f"{NONE}{BESIDE}2 on the paper's data and weights, but of fewer pairs or a smaller budget (~).",
        ),
    ],
)
def test_the_standing_is_counted(status, text):
    assert (
        report_page.standing([report_results.Result("a", "A", status=Counter(status)), report_results.Result("b", "B")])
        == text
    )


# ------------------------------------------------------------------------------------------------ results


def test_a_table_with_its_statistics_is_one_result(results):
    found = collected(results)
    assert list(found) == ["t1_shapes", "figures/plot_shapes_vgg16", "new_thing"]
    table = found["t1_shapes"]
    assert table.title == "Table 1 · shapes" and table.status == {"other data": 2, "not run": 1} and not table.lead
    assert [part.title for part in table.parts] == ["Statistics", "Order of the methods, measured and published"]
    assert table.parts[0].notes == "<ul>\n<li>▼ worse.</li>\n</ul>\n"  # the CSV has the rest
    assert table.commands["Command on the paper's data and weights"] == ["python scripts/evaluate.py"]
    assert "<td" not in table.notes and "Another table" not in table.notes and "<code>code</code>" in table.notes


def test_an_unknown_table_takes_the_heading_of_its_markdown(results):
    new = collected(results)["new_thing"]
    assert (new.title, new.lead) == ("A new thing", "<p>It is new.</p>\n")
    assert new.commands == {"Command that made it": ["python scripts/x.py"]} and new.status == {} and new.problems == []
    assert new.grids[0].head == ["name", "value"]
    assert new.grids[0].rows[0] == [Cell(EVIL, number=False), Cell("0.1235")] and new.grids[0].rows[1][1] == Cell("–")


def test_what_is_missing_is_named(results):
    (results / "new_thing.md").unlink()
    (results / "t1_shapes.csv").unlink()
    found = collected(results)
    assert found["new_thing"].problems == ["new_thing.md is missing."] and found["new_thing"].title == "new thing"
    table = found["t1_shapes"]
    assert (
        "t1_shapes.csv is missing." in table.problems and "<td>9</td>" in table.notes and "Another table" in table.notes
    )  # its Markdown has to do
    (results / "t1_shapes_statistics.csv").unlink()
    assert "t1_shapes_statistics.csv is missing." in collected(results)["t1_shapes"].problems


def test_what_cannot_be_read_is_named(results):
    (results / "new_thing.csv").write_bytes(b"")
    (results / "t1_shapes.csv").write_text(MEASURED.replace("12.3456", "many"))
    (results / "figures" / "plot_shapes_vgg16.png").write_bytes(b"no image")
    (results / "figures" / "other.jpg").write_bytes(b"")
    save_image(picture(), results / "figures" / "silent.jpg", ".jpg", "")
    found = collected(results)
    assert found["new_thing"].problems[0].startswith("new_thing.csv cannot be read")
    assert found["t1_shapes"].problems[0].startswith("t1_shapes.csv is not laid out as its columns promise")
    assert found["t1_shapes"].grids[0].head[0] == "dataset"  # as it is
    for name in ("figures/plot_shapes_vgg16", "figures/other"):
        assert "cannot be read" in found[name].problems[0] and found[name].picture is None
    assert found["figures/silent"].problems == ["figures/silent.jpg does not say which command made it."]
    assert found["figures/silent"].status == {"unknown": 0}
    Page(written(results))


def test_nothing_to_report(tmp_path):
    with pytest.raises(SuiteError, match="no table and no figure"):
        report_results.collect(tmp_path, tmp_path, SECTIONS)


def test_the_overview(results):
    ((_, _, items),) = report_page.overview(SECTIONS, report_results.collect(results, results, SECTIONS))
    assert [(i.title, i.states, [r.name for r in i.results]) for i in items] == [
        ("Table 1", ["other data", "not run"], ["t1_shapes"]),
        ("Table 2", ["not run"], []),
        ("Fig. 1", ["other data"], ["figures/plot_shapes_vgg16"]),
        ("Fig. 2", ["drawing"], []),
        ("Fig. 3", ["other data"], ["figures/plot_shapes_vgg16"]),  # the same picture shows both
    ]
    assert items[1].command == "python scripts/doctor.py"


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_is_embedded(results, suffix):
    file = results / "figures" / f"p.{suffix}"
    save_image(picture(), file, f".{suffix}", "")
    shown = report_results.embedded(file)
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.*)", shown.source).groups()
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format == kind.upper() and image.size == (shown.width, shown.height) == (60, 40)
    difference = np.abs(np.asarray(image.convert("RGB"), float) - np.asarray(picture(), float))
    assert difference.max() == 0 if suffix == "png" else difference.mean() < 60


# ------------------------------------------------------------------------------------------------ run folders


def test_run_folders_tell_settings_commands_and_versions(results):
    def ok(i):
        return {"image_id": str(i), "target": 0, "class": "a", "status": "ok", "EBPG": 0.5}

    outputs = results.parent / "outputs"
    for explainer, mu, command in (("sise", 0.0, "scripts/evaluate.py a=1"), ("rise", 0.3, "scripts/evaluate.py b=2")):
        identity = {"dataset": "shapes", "model": "resnet50", "explainer": explainer, "variant": "paper-seed3"}
        identity |= {"protocol": "paper", "expected_pairs": 104, "seed": 3, "label": explainer.upper()}
        identity |= {"weights_hash": "f00", "config": {"mu": mu, "fill": "zero"}}
        folder = outputs / "shapes" / explainer
        with RunFolder(folder, identity) as run:
            run.append([ok(i) for i in range(103)])
            run.append([ok(103) | {"status": "failed", "reason": "no pair"}])
        here = {"packages": {"torch": "2.0", "captum": None}, "python": "3.11", "device": "a CPU", "threads": 2}
        here |= {"commit": "0123456789abcdef", "dirty": True, "command": command, "time": "2026-11-21T05:00:00"}
        (folder / "environment.json").write_text(json.dumps([here]))
    table = collected(results)["t1_shapes"]
    assert table.runs.settings == [
        ("protocol", "paper"), ("expected_pairs", "104"), ("seed", "3"), ("weights_hash", "f00"),
        ("config.fill", "zero"),
    ]  # fmt: skip
    assert [[c.text for c in row] for row in table.runs.grid.rows] == [
        ["RISE", "shapes", "ResNet-50", "paper", "config.mu = 0.3"],
        ["SISE", "shapes", "ResNet-50", "paper", "config.mu = 0.0"],
    ]
    assert table.runs.machines == [
        "2026-11-21, a CPU, 2 threads; Python 3.11, torch 2.0; commit 012345678 with changes"
    ]
    assert sorted(table.commands["Commands that made its records"]) == [
        "python scripts/evaluate.py a=1",
        "python scripts/evaluate.py b=2",
    ]
    assert table.problems == []
    made = "Made by `python scripts/evaluate.py a=1 x=<folder>`, then `python scripts/make_tables.py table=t1`."
    (results / "t1_shapes.md").write_text(f"# T\n\n- {made.replace(' x=<folder>', '')}\n- {made}\n")
    table = collected(results)["t1_shapes"]
    assert table.commands["Command that made it"] == [
        "python scripts/evaluate.py a=1", "python scripts/make_tables.py table=t1",
        "python scripts/evaluate.py a=1 x=<folder>",
    ]  # fmt: skip
    assert table.commands["Commands that made its records"] == ["python scripts/evaluate.py b=2"]  # the other is told
    assert "a=1 x=&lt;folder&gt;</code></pre>" in written(results)
    with RunFolder(folder, identity) as run:
        run.append([ok(103)])
    table = collected(results)["t1_shapes"]  # has 103 pairs: that run went on since
    assert table.problems[0].startswith("1 of the 2 runs behind this table") and len(table.runs.grid.rows) == 1


# ------------------------------------------------------------------------------------------------ layouts


def frame(text):
    return pd.read_csv(io.StringIO(text))


def test_a_method_that_failed_and_differences_of_nothing():
    broken = MEASURED.replace("SISE,sise,paper,EBPG,52.1,,103,2,0,0,", "SISE,sise,paper,EBPG,,,0,0,0,7,")
    (grid,) = grids_of(frame(broken))
    assert [row[-1].text for row in grid.rows] == ["103", "7 failed"]
    (grid,) = grids_of(frame(STATISTICS.replace("-39.7544,1,-41.2,-38.1", "-0.001,1,-0.004,0.003")))
    assert grid.rows[1][1].below == "0.00 [0.00, 0.00]"


def test_measured_cells():
    (grid,) = grids_of(frame(MEASURED))
    assert grid.title == "ResNet-50 on shapes" and grid.head == ["Method", "EBPG", "Run-time (s) ↓", "pairs"]
    assert grid.rows == [
        [
            Cell("RISE", number=False),
            Cell("12.35", "± 1.50", "published 32.86 °", "second"),
            Cell("0.123", "± 0.010"),
            Cell("103"),
        ],
        [
            Cell("SISE", number=False),
            Cell("52.10†", "", "published 66.08 °", "best"),
            Cell("–", below="published 9.21"),
            Cell("103"),
        ],
    ]
    assert grid.notes[0] == "RISE: 150 masks (paper: 4000)." and grid.notes[1].startswith("† some of the values")


def test_compared_cells():
    (grid,) = grids_of(frame(STATISTICS))
    reference, rise = grid.rows
    assert [c.text for c in reference] == ["sise/paper: the reference", "52.10", ""]
    assert rise == [Cell("RISE", number=False), Cell("12.35", "▼", "−39.75 [−41.20, −38.10]"), Cell("103")]


def test_ordered_cells():
    (grid,) = grids_of(frame(ORDER))
    assert grid.rows == [[Cell("ResNet-50", number=False), Cell("−0.50", below="p 0.250"), Cell("–"), Cell("8")]]


def test_kept_cells():
    text = "dataset,model,rule,layer,name,mean,standard error,share of positive,"
    text += '"published (resnet50, voc2007)",published share of positive,pairs\n'
    text += "shapes,resnet50,SISE,1,relu,8.04,0.26,100,31,100,437\nshapes,resnet50,SISE,sum,,8.04,0.26,100,31,100,437\n"
    text += "shapes,resnet50,otsu_signed,1,relu,7,0,87,,,437\nshapes,resnet50,otsu_signed,sum,,7,0,87,,,437\n"
    (grid,) = grids_of(frame(text))
    assert grid.head == ["Rule", "p1 relu", "Σ"] and grid.title == "ResNet-50 on shapes, 437 pairs"
    assert [row[0].text for row in grid.rows] == [
        "SISE, μ = 0: all positive", "published for ResNet-50: SISE", "Ada-SISE, Otsu on all, at least 0 (table)",
    ]  # fmt: skip
    assert grid.rows[0][1] == Cell("8.0", "± 0.3", "100 % of the positive") and grid.rows[1][1].text == "31.0"


def test_alike_cells():
    text = "explainer,stage,modules,n,spearman,spearman_se,ssim,ssim_se,confidence,confidence_se,undefined,failed\n"
    text += "SISE,trained,0,4,1,0,1,0,0.45,0.2,0,0\nSISE,fc,1,4,-0.004,,0.7,0.06,0.07,0.04,1,0\n"
    spearman, ssim, networks = grids_of(frame(text))
    assert spearman.rows == [[Cell("SISE", number=False), Cell("1.00", "± 0.00"), Cell("0.00†")]]
    assert ssim.rows[0][2] == Cell("0.70†", "± 0.06")
    assert [c.text for c in networks.rows[0]] == ["modules randomised", "0", "1"]
    assert [c.text for c in networks.rows[1]] == ["Ψ of the class", "0.45", "0.07"]


def test_plain_numbers_stand_right_and_are_short():
    (grid,) = grids_of(frame("a,b,c,d,e\n  x,1,0.123456,123456.7,True\n,2,44.44,,\n"))
    assert [[c.text for c in row] for row in grid.rows] == [
        ["\u2002\u2002x", "1", "0.1235", "123457", "yes"],
        ["–", "2", "44.44", "–", "–"],
    ]
    assert [c.number for c in grid.rows[0]] == [False, True, True, True, False]
    assert grids_of(frame("a\nTrue\nFalse\n"))[0].rows == [[Cell("yes", number=False)], [Cell("no", number=False)]]


def test_long_tables_are_folded(results):
    def folded():
        return "rows</summary>" in written(results)

    (results / "new_thing.csv").write_text("a\n" + "1\n" * prose.LONG)
    assert not folded()
    (results / "new_thing.csv").write_text("a\n" + "1\n" * (prose.LONG + 1))
    assert folded()


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("*.csv")), ids=lambda f: f.stem)
def test_every_table_of_the_repository_has_a_layout(file):
    grids = grids_of(pd.read_csv(file))
    assert grids and all(len(row) == len(grid.head) for grid in grids for row in grid.rows)
    assert all(grid.rows for grid in grids)


# ------------------------------------------------------------------------------------------------ configuration


def shipped():
    return OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "report.yaml"), resolve=False)["sections"]


@pytest.mark.parametrize("table", sorted(f.stem for f in (ROOT / "configs" / "table").glob("*.yaml")))
def test_every_table_has_a_place(table):
    patterns = [pattern for section in shipped() for item in section["items"] for pattern in item.get("files") or ()]
    for name in (table, f"{table}_shapes"):  # on the paper's data a table's name has no suffix
        assert any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns), name
