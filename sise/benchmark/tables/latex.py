"""LaTeX of tables that fit a page: :func:`floating` sets one, :func:`tex` writes text as LaTeX prints it.

A float is no wider than the text and no higher than a page: ``adjustbox`` shrinks what would be. Its notes stand below
the numbers in a ``threeparttable`` and are as wide as the text, so that a narrow table has no tower of notes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["PREAMBLE", "breakable", "floating", "tex"]

PREAMBLE = r"\usepackage{booktabs,adjustbox,threeparttable}"
"""What a document needs that inputs a table."""

LETTERS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"$\sim$", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "[": "{[}", "]": "{]}", "|": r"$|$",
    "–": "--", "—": "---", "±": r"$\pm$", "≠": r"$\neq$", "≈": r"$\approx$", "°": r"$^\circ$", "−": "$-$",
    "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "√": r"$\surd$", "μ": r"$\mu$", "σ": r"$\sigma$",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "ε": r"$\varepsilon$", "λ": r"$\lambda$", "τ": r"$\tau$",
    "Ψ": r"$\Psi$", "Σ": r"$\Sigma$", "∩": r"$\cap$", "·": r"$\cdot$", "→": r"$\to$", "↓": r"$\downarrow$",
    "↑": r"$\uparrow$", "†": r"$\dagger$", "²": r"$^2$", "½": r"$1/2$", "∞": r"$\infty$", "…": r"\dots{}",
    "“": "``", "”": "''", "’": "'", "‘": "`", "`": r"\textasciigrave{}", "ᵏ": "$^k$",
}  # fmt: skip
LONG_WORD = 20
"""Letters from which on a word, a command's setting or a path, may break after a mark."""


def tex(text: str) -> str:
    """Text as LaTeX prints it letter by letter; brackets in braces, since ``\\\\ [`` would read as a length."""
    return "".join(LETTERS.get(letter, letter) for letter in text)


def breakable(text: str) -> str:
    """Running text as LaTeX prints it, what stands between backticks in typewriter letters.

    A long word may break after its marks: a command has no hyphens.
    """

    def set_word(word: str) -> str:
        if len(word) < LONG_WORD:
            return tex(word)
        return r"\allowbreak{}".join(map(tex, re.findall(r"[^,=/._-]*[,=/._-]+|[^,=/._-]+$", word)))

    def set_words(words: str) -> str:
        return " ".join(map(set_word, words.split(" ")))

    plain, *rest = " ".join(text.split()).split("`")
    if len(rest) % 2:  # a backtick alone means itself
        return set_words(text)
    code = [rf"\texttt{{{set_words(words)}}}" if i % 2 == 0 else set_words(words) for i, words in enumerate(rest)]
    return "".join([set_words(plain), *code])


def floating(caption: str, label: str, head: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    r"""A ``table*`` to ``\input``; needs :data:`PREAMBLE`.

    Args:
        caption: Its heading, as text.
        label: For ``\ref``: letters, digits, ``:`` and ``-``.
        head: A word per column, as text; the first column is set left, the others right.
        rows: LaTeX, a cell per column.
        notes: What stands below, as text, one after the other.
    """
    return "\n".join([
        r"\begin{table*}",
        r"\centering",
        rf"\caption{{{tex(caption)}}}\label{{{label}}}",
        r"\renewcommand{\TPTminimum}{\textwidth}",
        r"\begin{adjustbox}{max width=\textwidth, max totalheight=0.88\textheight}",
        r"\begin{threeparttable}",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        " & ".join(map(tex, head)) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\begin{tablenotes}[para,flushleft]\scriptsize",
        *(rf"\item {breakable(note)}" for note in notes),
        r"\end{tablenotes}",
        r"\end{threeparttable}",
        r"\end{adjustbox}",
        r"\end{table*}",
        "",
    ])  # fmt: skip
