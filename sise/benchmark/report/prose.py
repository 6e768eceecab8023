"""The words of the Markdown files in results/."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from sise.errors import SuiteError
from sise.extras import how_to_install

NOTHING = Markup()
LONG = 40  # a table of more rows is folded


# words ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Prose:
    """A Markdown file: its first heading, its words before and after the first table, commands named in it."""

    title: str
    lead: Markup
    notes: Markup
    commands: Sequence[str]


def prose(text: str, *, tables: bool) -> Prose:
    """Takes a Markdown file apart.

    Args:
        text: The file. Raw HTML in it is shown as text; links and images are not followed.
        tables: Keep its tables and headings, in the notes; else they are left out, for the CSV has them.
    """
    try:
        from markdown_it import MarkdownIt
    except ImportError as error:
        raise SuiteError(f"expected the package markdown-it-py; install it: {how_to_install('report')}") from error
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    markdown.add_render_rule("table_open", lambda *_: '<div class="scroll" tabindex="0"><table>\n')
    markdown.add_render_rule("table_close", lambda *_: "</table></div>\n")
    title, commands, inside, seen = "", [], "", False
    before: list[Any] = []
    after: list[Any] = []
    for token in markdown.parse(text):
        commands += [c.content for c in token.children or () if c.type == "code_inline"]
        first = token.type == "heading_open" and not title
        if token.type == "heading_open" and (first or not tables):
            inside = "heading"
        elif token.type == "table_open":
            if not tables and after and after[-1].type == "paragraph_close":
                del after[-3:]  # between two tables: a caption of the second
            seen, inside = True, "" if tables else "table"
        if not inside:
            (after if seen else before).append(token)
        elif token.type == "inline" and inside == "heading" and not title:
            title = token.content
        if token.type == f"{inside}_close":
            inside = ""

    def html(tokens: list[Any]) -> Markup:
        return Markup(markdown.renderer.render(tokens, markdown.options, {}))

    scripts = dict.fromkeys(c for c in commands if c.startswith(("python scripts/", "sise ")))
    return Prose(title, html(before), html(after), list(scripts))
