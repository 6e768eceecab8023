"""What mkdocs does besides: the README is the first page, and tables and figures of results/ belong to the site.

Pages are written for a reader of the checkout; links are changed to what stands where in the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site that lie at the top of the checkout."""
FILES = ("LICENSE", "CITATION.cff")
RESULTS = ("*.md", "*.csv", "figures/*.jpg", "figures/*.png", "published/*.csv")
ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):(?=<code>|`)")
"""Sphinx's roles, which docstrings have."""


def on_files(files: Files, config: Any) -> Files:
    """Adds what lies outside of docs/."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=_from_top((ROOT / source).read_text(encoding="utf-8"))))
    for name in FILES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for pattern in RESULTS:
        for path in sorted((ROOT / "results").glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def _from_top(text: str) -> str:
    """A page of the top as one of docs/: there is no folder docs/ above the others in the site."""
    text = re.sub(r"(\]\()docs/", r"\1", text)
    for page, source in PAGES.items():
        text = text.replace(f"]({source})", f"]({page})")
    return text


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between docs/, results/ and the top, as they are in the site."""
    if page.file.src_uri.startswith("results/"):
        return re.sub(r"(\]\()\.\./docs/", r"\1../", markdown)
    for name, source in PAGES.items():
        markdown = markdown.replace(f"](../{source})", f"]({name})")
    return markdown.replace("](../results/", "](results/")


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings without Sphinx's roles."""
    return ROLE.sub("", html)
