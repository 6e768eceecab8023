"""LaTeX of tables: what breaks and what does not, and, where there is a TeX, that every table fits its page."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from checkout import ROOT

from sise.benchmark.tables.latex import LETTERS, LONG_WORD, PREAMBLE, breakable, floating, tex

TABLES = sorted((ROOT / "results").glob("*.tex"))
PACKAGES = re.search(r"{(.*)}", PREAMBLE)[1].split(",")


def installed():
    """Whether pdflatex and the packages of a table are here."""
    if not shutil.which("pdflatex") or not shutil.which("kpsewhich"):
        return False
    found = subprocess.run(["kpsewhich", *(f"{name}.sty" for name in PACKAGES)], capture_output=True, text=True)
    return len(found.stdout.split()) == len(PACKAGES)


needs_tex = pytest.mark.skipif(not installed(), reason=f"needs pdflatex with {', '.join(PACKAGES)}")


def compiled(folder, text):
    """pdflatex's log of a two-column document with the text, which must compile; lines are not broken in it."""
    lines = [r"\documentclass[10pt,twocolumn]{article}", PREAMBLE, r"\begin{document}", text, r"\end{document}"]
    (folder / "page.tex").write_text("\n".join(lines), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-cnf-line=max_print_line=1000", "page.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def faults(log):
    return re.findall(r"^(?:Overfull.*|LaTeX Warning: (?!Label|There were).*)$", log, re.MULTILINE)


# ------------------------------------------------------------------------------------------------ text


def test_a_long_word_breaks_after_its_marks_and_a_short_one_does_not():
    assert breakable("a/b, c=d") == "a/b, c=d"
    word = "only=[vgg7/sise,vgg7/rise]"
    assert len(word) >= LONG_WORD
    assert breakable(word).replace("{[}", "[").replace("{]}", "]").split(r"\allowbreak{}") == [
        "only=", "[vgg7/", "sise,", "vgg7/", "rise]",
    ]  # fmt: skip


def test_code_is_set_in_typewriter_letters_and_a_lone_backtick_is_itself():
    assert breakable("Made by `a b=1`, then `c`.") == r"Made by \texttt{a b=1}, then \texttt{c}."
    assert breakable("a ` b") == r"a \textasciigrave{} b"


def test_every_letter_is_ascii():
    assert all(value.isascii() for value in LETTERS.values())
    assert tex("5 % ≈ [x_1]") == r"5 \% $\approx$ {[}x\_1{]}"


@pytest.mark.parametrize("file", TABLES, ids=lambda f: f.stem)
def test_a_committed_table_needs_no_letter_that_tex_lacks(file):
    assert file.read_text(encoding="utf-8").isascii()


# ------------------------------------------------------------------------------------------------ pages


@needs_tex
@pytest.mark.parametrize("file", TABLES, ids=lambda f: f.stem)
def test_a_committed_table_fits_its_page(tmp_path, file):
    assert faults(compiled(tmp_path, file.read_text(encoding="utf-8"))) == []


@needs_tex
def test_a_table_too_wide_and_too_high_is_shrunk(tmp_path):
    head = ["Method", *(f"A long metric's name {i}" for i in range(12))]
    rows = [[tex(f"method_{i}"), *["12.34 $\\pm$ 0.56"] * 12] for i in range(90)]
    notes = ["`python scripts/evaluate.py only=[" + ",".join(f"shapes/resnet50/method_{i}" for i in range(40)) + "]`"]
    text = floating("Wide & high, 100 %", "tab:wide", head, rows, [*notes, "".join(LETTERS)])
    assert faults(compiled(tmp_path, text)) == []
    without = text.replace("max width=\\textwidth, max totalheight=0.88\\textheight", "")
    assert any("too large" in fault for fault in faults(compiled(tmp_path, without)))
