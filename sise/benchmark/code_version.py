"""Which code a run's numbers come from: a hash of each of its files, so that a change is noticed and named.

Comments, docstrings and layout don't count, nor do files that the run doesn't use: a corrected Grad-CAM says nothing
about records of RISE.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sise.benchmark.records import RunFolder
from sise.types import Record

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sise", "metrics", "baselines")
RUNNER = "sise/benchmark/runner.py"
"""Its own code makes the records; what it imports beyond the probe only keeps and shows them."""


def code_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the files that a run's numbers depend on.

    Args:
        config: With a ``_target_`` for everything that is instantiated: dataset, network, explainer, metrics.

    Returns:
        12 hexadecimal digits by the file's name in the repository, sorted.
    """
    roots = [file for name in [*_targets(config), "sise.probe"] if (file := _file(name))]
    found: set[str] = {RUNNER}
    while roots:
        file = roots.pop()
        if file not in found:
            found.add(file)
            roots += _imported(file)
    return {file: _hash(file) for file in sorted(found)}


def other_code(folder: RunFolder, records: Iterable[Record]) -> dict[tuple[str, ...], int]:
    """How many good records of a run are stale because its code has changed since they were made.

    Records that do not say which code made them (of an older version) are not judged.

    Args:
        folder: The run.
        records: Some of its records.

    Returns:
        Number of records by the files that changed; empty if none did.
    """
    now = code_of(folder.identity.get("config") or {})
    sessions = {
        entry["session"]: entry["code"] for entry in folder.environments() if entry.keys() >= {"session", "code"}
    }
    changed = {
        session: tuple(sorted(file for file in then.keys() | now.keys() if then.get(file) != now.get(file)))
        for session, then in sessions.items()
    }
    good = [changed.get(record.get("session"), ()) for record in records if record["status"] == "ok"]
    return dict(Counter(files for files in good if files))


def doubts(folder: RunFolder, records: Sequence[Record]) -> list[str]:
    """What a reader of a run's numbers should know of how they were made: other code than now, mixed machines."""
    found = [
        f"{count} records were made by OTHER CODE than there is now ({', '.join(files)} changed since)"
        for files, count in other_code(folder, records).items()
    ]
    used = {record.get("session") for record in records if record["status"] == "ok"}
    sessions = [entry for entry in folder.environments() if entry.get("session") in used]
    facts = [{"device": entry.get("device"), **(entry.get("packages") or {})} for entry in sessions]
    for name in sorted({name for fact in facts for name in fact}):
        values = list(dict.fromkeys(str(fact.get(name)) for fact in facts))
        if len(values) > 1:
            found.append(f"records of more than one {name}: {', '.join(values)}")
    return found


def _targets(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [name for child in node.values() for name in _targets(child)]
    return [name for child in node for name in _targets(child)] if isinstance(node, list | tuple) else []


def _file(name: str) -> str | None:
    """The file of a module, or of a thing in one: ``metrics.localization.ebpg`` -> ``metrics/localization.py``."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return None
    for end in range(len(parts), 0, -1):
        stem = "/".join(parts[:end])
        for file in (f"{stem}.py", f"{stem}/__init__.py"):
            if (ROOT / file).is_file():
                return file
    return None


@functools.cache
def _tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


@functools.cache
def _imported(file: str) -> tuple[str, ...]:
    names = []
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(dict.fromkeys(found for name in names if (found := _file(name))))


@functools.cache
def _hash(file: str) -> str:
    tree = _tree(file)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]
