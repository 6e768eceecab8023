"""The command ``sise``: it finds the command that is meant, lists what there is, and starts without torch."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest
import yaml
from checkout import ROOT

import sise
from sise.benchmark import invocation
from sise.benchmark.commands import dispatch, listing
from sise.errors import SuiteError


def said(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``sise <words>``."""
    monkeypatch.setattr("sys.argv", ["sise", *words])
    monkeypatch.setattr(invocation, "_started_as", [])
    try:
        dispatch.main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    return code, *capsys.readouterr()


@pytest.mark.parametrize("words", [(), ("--help",), ("help",)])
def test_help_names_every_command(words, monkeypatch, capsys):
    code, out, err = said(monkeypatch, capsys, *words)
    assert (code, err) == (0, "")
    named = {line.split()[0] for line in out.split("\n\n")[2].splitlines()}
    assert named == {*invocation.COMMANDS, "list"}


def test_every_script_is_a_command_and_has_a_configuration():
    scripts = {p.stem for p in (ROOT / "scripts").glob("*.py")}
    assert scripts == {script for script, _ in invocation.COMMANDS.values()}
    roots = {p.stem for p in (ROOT / "configs").glob("*.yaml")}
    assert roots == scripts


def test_the_entry_point_leads_here():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"sise": "sise.__main__:main"}


def test_the_version(monkeypatch, capsys):
    assert said(monkeypatch, capsys, "--version") == (0, f"sise {sise.__version__}\n", "")


def test_an_unknown_command_is_answered_with_the_nearest(monkeypatch, capsys):
    code, out, err = said(monkeypatch, capsys, "evalute", "limit=1")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown command 'evalute'; ") and err.endswith("Did you mean 'evaluate'?\n")
    assert said(monkeypatch, capsys, "list", "explaners")[2].endswith("Did you mean 'explainers'?\n")
    assert "got 'tables metrics'" in said(monkeypatch, capsys, "list", "tables", "metrics")[2]


def test_messages_name_commands_as_the_user_started_them(monkeypatch, capsys):
    code, _, err = said(monkeypatch, capsys, "explain")
    assert code == 2 and err.startswith("error: which image? sise explain image=")
    assert invocation.typed_now() == "sise explain" and invocation.typed("make_tables") == "sise tables"
    monkeypatch.setattr(invocation, "_started_as", [])
    monkeypatch.setattr("sys.argv", [str(ROOT / "scripts" / "explain.py")])
    assert invocation.typed_now() == "python scripts/explain.py"
    assert invocation.typed("make_tables") == "python scripts/make_tables.py"


def test_a_recorded_command_is_typed_as_the_process_was_started(monkeypatch):
    recorded = "scripts/evaluate.py explainer=rise limit=3"
    for started, wanted in (([], "python scripts/evaluate.py"), (["tables"], "sise evaluate")):
        monkeypatch.setattr(invocation, "_started_as", started)
        for command in (recorded, f"python {recorded}"):
            assert invocation.retyped(command) == f"{wanted} explainer=rise limit=3"
        assert invocation.retyped("mine/evaluate.py limit=3") == "python mine/evaluate.py limit=3"
    assert invocation.retyped("scripts/make_tables.py") == "sise tables"


def test_a_record_has_one_notation_for_both_ways_to_start(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/sise", "tables", "table=hmt"])
    monkeypatch.setattr(invocation, "_started_as", [])
    invocation.start_as("tables")
    assert sys.argv == ["scripts/make_tables.py", "table=hmt"]


def test_without_scripts_a_job_is_started_by_the_package(monkeypatch, tmp_path):
    assert invocation.words("make_tables") == [str(ROOT / "scripts" / "make_tables.py")]
    monkeypatch.setattr(invocation, "ROOT", tmp_path)
    assert invocation.words("make_tables") == ["-P", "-m", "sise", "tables"]
    assert invocation.typed("make_tables") == "sise tables"


# ---------------------------------------------------------------- list


@pytest.mark.parametrize("kind", listing.KINDS)
def test_a_list_has_a_line_for_each_name_that_a_setting_takes(kind):
    lines = listing.listing([kind]).splitlines()
    names = [line.split("  ")[0].strip() for line in lines]
    assert len(names) == len(set(names)) > 3 and all(len(line.split("  ", 1)[1].strip()) > 10 for line in lines)
    if kind != "metrics":
        assert names == sorted(p.stem for p in (ROOT / "configs" / listing.KINDS[kind]).glob("*.yaml"))


def test_the_metrics_are_those_of_all_files():
    found = listing.entries("metrics")
    assert {"EBPG", "mIoU", "Bbox", "Drop%", "Increase%", "Deletion", "Gain", "Pointing game"} <= found.keys()
    assert found["Drop%"].startswith("metrics=default: lower is better")
    assert listing.metric_names(ROOT / "configs/metrics/gain.yaml") == ["Gain"]


def test_an_explainer_is_listed_by_name_with_label_and_source():
    assert listing.entries("explainers")["rise"].startswith("RISE: Petsiuk, Das and Saenko, BMVC 2018")
    label = yaml.safe_load((ROOT / "configs/explainer/lime.yaml").read_text())["label"]
    assert listing.entries("explainers")["lime"].startswith(f"{label}: ")


def test_without_a_kind_it_counts():
    assert f"sise list explainers   {len(listing.entries('explainers'))}" in listing.listing([])
    with pytest.raises(SuiteError):
        listing.listing(["toys"])


@pytest.mark.parametrize("words", ["'--help'", "'list', 'explainers'", "'list', 'metrics'", "'evaluate', '--help'"])
def test_help_and_lists_need_no_torch(words):
    code = f"import sys; sys.argv = ['sise', {words}]\nfrom sise.__main__ import main\n"
    code += "try: main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nFalse\n") and len(done.stdout) > 500
