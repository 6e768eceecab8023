"""Which code a run's numbers come from: a hash of each of its files, so that a change is noticed and named.

Comments, docstrings and layout don't count, nor do files that the run doesn't use: a corrected Grad-CAM says nothing
about records of RISE. A user's own files count as the suite's do, with what they import. Of an installed package the
files count that are named by a setting or define a module of the network, with the package's version.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import sysconfig
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from torch import nn

from sise.benchmark.records import RunFolder
from sise.types import Record

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("sise", "metrics", "baselines")
RUNNER = "sise/benchmark/runner.py"
"""Its own code makes the records; what it imports beyond the probe only keeps and shows them."""


def code_of(config: Mapping[str, Any], network: nn.Module | None = None) -> dict[str, str]:
    """Hashes of the files that a run's numbers depend on.

    Args:
        config: With a ``_target_`` for everything that is instantiated: dataset, network, explainer, metrics.
        network: Adds the files that define its modules' classes, however the network was made.

    Returns:
        12 hexadecimal digits by the file's name in the repository or below a folder of ``sys.path``, sorted.
    """
    names = [*_targets(config), "sise.probe"]
    if network is not None:
        names += sorted({type(module).__module__ for module in network.modules()})
    roots = [file for name in names if (file := _file(name))]
    found: set[str] = {RUNNER}
    while roots:
        file = roots.pop()
        if file not in found:
            found.add(file)
            roots += _imported(file)
    return {file: _hash(file) for file in sorted(found)}


STRUCTURE = "the network's structure"


def other_code(folder: RunFolder, records: Iterable[Record], structure: str = "") -> dict[tuple[str, ...], int]:
    """How many good records of a run are stale because its code has changed since they were made.

    Records that do not say which code made them (of an older version) are not judged, nor are files outside of the
    repository that are not found from here: a run may be read where its network's code is not.

    Args:
        folder: The run.
        records: Some of its records.
        structure: Of its network as it is now, from :func:`sise.benchmark.structure.structure_of`; "" if not known.

    Returns:
        Number of records by the files that changed, and :data:`STRUCTURE`; empty if none did.
    """
    now = code_of(folder.identity.get("config") or {})
    sessions = [entry for entry in folder.environments() if entry.keys() >= {"session", "code"}]
    changed = {entry["session"]: _changed(entry["code"], now) for entry in sessions}
    for entry in sessions:
        if structure and entry.get("network", structure) != structure:
            changed[entry["session"]] += (STRUCTURE,)
    good = [changed.get(record.get("session"), ()) for record in records if record["status"] == "ok"]
    return dict(Counter(files for files in good if files))


def _changed(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """The files that differ between a session's code and today's; ``now`` is what the settings alone lead to."""
    looked_outside = not all(map(_is_own, then))  # sessions of older versions did not
    files = {file for file in now.keys() - then.keys() if _is_own(file) or looked_outside}
    for file in then:
        if _path(file) is None:
            files |= {file} if _is_own(file) else set()
        elif then[file] != _hash(file):
            files.add(file)
    return tuple(sorted(files))


def doubts(folder: RunFolder, records: Sequence[Record]) -> list[str]:
    """What a reader of a run's numbers should know of how they were made: other code than now, mixed machines."""
    found = [
        f"{count} records were made by OTHER CODE than there is now ({', '.join(files)} changed since)"
        for files, count in other_code(folder, records).items()
    ]
    used = {record.get("session") for record in records if record["status"] == "ok"}
    sessions = [entry for entry in folder.environments() if entry.get("session") in used]
    facts = [{"device": entry.get("device"), **(entry.get("packages") or {})} for entry in sessions]
    networks = list(dict.fromkeys(entry["network"] for entry in sessions if "network" in entry))
    if len(networks) > 1:
        found.append(f"records of networks of {len(networks)} structures: {', '.join(networks)}")
    for name in sorted({name for fact in facts for name in fact}):
        values = list(dict.fromkeys(str(fact.get(name)) for fact in facts))
        if len(values) > 1:
            found.append(f"records of more than one {name}: {', '.join(values)}")
    return found


def _targets(node: Any) -> list[str]:
    """Every dotted name that a setting names: of what is instantiated, and of a user's network (``model.target``)."""
    if isinstance(node, Mapping):
        own = [str(node[key]) for key in ("_target_", "target") if isinstance(node.get(key), str)]
        return own + [name for child in node.values() for name in _targets(child)]
    return [name for child in node for name in _targets(child)] if isinstance(node, list | tuple) else []


def _is_own(file: str) -> bool:
    return file.split("/")[0] in PACKAGES


def _file(name: str) -> str | None:
    """The file of a module, or of a thing in one: ``metrics.localization.ebpg`` -> ``metrics/localization.py``.

    None where there is no such source file, as for what is built into Python, and for torch: environments hold its
    version, and every network would change with it.
    """
    parts = name.split(".")
    if parts[0] == "torch":
        return None
    for end in range(len(parts), 0, -1):
        stem = "/".join(parts[:end])
        for file in (f"{stem}.py", f"{stem}/__init__.py"):
            if _path(file):
                return file
    return None


def _path(file: str) -> Path | None:
    """Where a file of :func:`_file` lies: in the repository, or where Python would find its module."""
    if _is_own(file):
        return ROOT / file if (ROOT / file).is_file() else None
    place = _place(file.split("/")[0].removesuffix(".py"))
    return place / file if place and (place / file).is_file() else None


@functools.cache
def _place(package: str) -> Path | None:
    """The folder that a top-level module or package lies in; as ``model=module`` does, looks in the current one last.

    Nothing is imported.
    """
    try:
        spec = importlib.util.find_spec(package) or PathFinder.find_spec(package, [os.getcwd()])
    except (ImportError, ValueError):  # a module without a spec, such as __main__
        return None
    if spec is None or not spec.has_location:
        return None
    above = Path(spec.origin).parent
    return above.parent if spec.submodule_search_locations else above


@functools.cache
def _libraries() -> tuple[Path, ...]:
    """The folders of Python's own modules and of installed packages."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({Path(sysconfig.get_path(name)).resolve() for name in names})


def is_installed(path: Path) -> bool:
    """Whether a file belongs to Python or to an installed package, and not to the user."""
    return "site-packages" in path.parts or any(path.resolve().is_relative_to(folder) for folder in _libraries())


@functools.cache
def _tree(file: str) -> ast.Module:
    return ast.parse(_path(file).read_bytes())


@functools.cache
def _imported(file: str) -> tuple[str, ...]:
    """The files a file imports, of the suite and of the user's own; those of installed packages are not followed."""
    if not _is_own(file) and is_installed(_path(file)):
        return ()
    package = file.removesuffix("/__init__.py").removesuffix(".py").split("/")
    names = []
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # one dot is the package that the file lies in, or is
            up = node.level - file.endswith("/__init__.py")
            above = ".".join(package[: len(package) - up]) if node.level else ""
            module = ".".join(filter(None, [above, node.module]))
            names += [".".join(filter(None, [module, alias.name])) for alias in node.names]
    found = [inner for name in names if (inner := _file(name))]
    return tuple(dict.fromkeys(f for f in found if _is_own(f) or not is_installed(_path(f))))


def _hash(file: str) -> str:
    """Of a source file what runs; of an installed package's its bytes and version, as they are now."""
    path = _path(file)
    if not _is_own(file) and is_installed(path):
        content = repr(_version(file.split("/")[0].removesuffix(".py"))).encode() + path.read_bytes()
        return hashlib.sha256(content).hexdigest()[:12]
    return _source_hash(file)


@functools.cache
def _version(package: str) -> str | None:
    """The version of the distribution that a top-level package comes from."""
    for distribution in _distributions().get(package, ()):
        return importlib.metadata.version(distribution)
    return None


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


@functools.cache
def _source_hash(file: str) -> str:
    tree = _tree(file)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]
