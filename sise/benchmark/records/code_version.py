"""Which code a run's numbers come from: a hash of each of its files, so that a change is noticed and named.

Comments, docstrings and layout don't count, nor do files that the run doesn't use: a corrected Grad-CAM says nothing
about records of RISE. A user's own files count as the suite's do, with what they import, and so do the files that
their source names as a text and that lie in the folder of the source or below it, byte by byte: a network's settings
in ``"scale.json"`` beside it. So do the files that settings name, as ``model.classes`` does. What else user's code
reads, from a name put together at run time or another folder, is not seen. Of an installed package the files count
that are named by a setting or define a module of the network, with the package's version.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from torch import nn

from sise.benchmark.places import ROOT
from sise.benchmark.records.departures import NOT_IDENTITY
from sise.benchmark.records.files import file_hash
from sise.benchmark.records.folder import RunFolder

PACKAGE = "sise"
RUNNER = tuple(
    f"sise/benchmark/run/{name}.py" for name in ("cells", "explaining", "pair_facts", "probing", "runner", "scoring")
)
"""Their own code makes the records; what they import beyond the probe only keeps and shows them."""
MAP_MAKERS = tuple(f"sise/benchmark/run/{name}.py" for name in ("explaining", "probing"))
"""Those of them that a map depends on; the others measure it."""
LONGEST_NAME = 256
"""Longer texts name no file."""


def code_of(
    config: Mapping[str, Any], network: nn.Module | None = None, makers: Sequence[str] = RUNNER
) -> dict[str, str]:
    """Hashes of the files that a run's numbers depend on.

    Args:
        config: With a ``_target_`` for everything that is instantiated: dataset, network, explainer, metrics.
        network: Adds the files that define its modules' classes, however the network was made.
        makers: Files that count whatever the configuration names.

    Returns:
        12 hexadecimal digits by the file's name in the repository or below a folder of ``sys.path``, sorted. A file
        that a source file names stands as ``<source file>:<its name there>``, one that a setting names as
        ``<setting>=<its name there>``.
    """
    names = [*_targets(config), "sise.probe.probe"]
    if network is not None:
        names += sorted({type(module).__module__ for module in network.modules()})
    roots = [file for name in names if (file := _file(name))]
    found: set[str] = set(makers)
    while roots:
        file = roots.pop()
        if file not in found:
            found.add(file)
            roots += _imported(file)
    found |= {named for file in found for named in _named_in(file)}
    found |= _named_by_settings(config)
    return {file: _hash(file) for file in sorted(found)}


STRUCTURE = "the network's structure"


def other_code(folder: RunFolder, good: Mapping[str | None, int], structure: str = "") -> dict[tuple[str, ...], int]:
    """How many good records of a run are stale because its code has changed since they were made.

    Records that do not say which code made them (of an older version) are not judged, nor are files outside of the
    repository that are not found from here: a run may be read where its network's code is not.

    Args:
        folder: The run.
        good: How many of its good records, or of some of them, were made in each session.
        structure: Of its network as it is now, from :func:`sise.benchmark.models.structure.structure_of`; "" if not
            known.

    Returns:
        Number of records by the files that changed, and :data:`STRUCTURE`; empty if none did.
    """
    now = code_of(folder.identity.get("config") or {})
    sessions = [entry for entry in folder.environments() if entry.keys() >= {"session", "code"}]
    changed = {entry["session"]: _changed(entry["code"], now) for entry in sessions}
    for entry in sessions:
        if structure and entry.get("network", structure) != structure:
            changed[entry["session"]] += (STRUCTURE,)
    found: Counter[tuple[str, ...]] = Counter()
    for session, count in good.items():
        if session is not None and changed.get(session):
            found[changed[session]] += count
    return dict(found)


def _changed(then: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """The files that differ between a session's code and today's; ``now`` is what the settings alone lead to."""
    looked_outside = not all(
        _is_own(file) or _setting_of(file) for file in then
    )  # sessions of older versions looked neither there nor beside
    looked_beside = any(map(_source_of, then))
    files = {
        file
        for file in now.keys() - then.keys()
        if _is_own(file) or (looked_beside if _source_of(file) else looked_outside)
    }
    files = {file for file in files if not _setting_of(file)}  # what it named then is no other setting today
    for file in then:
        if _path(file) is None:
            here = _is_own(file) or bool(_source_of(file) and _path(_source_of(file)))
            files |= {file} if here else set()
        elif then[file] != _hash(file):
            files.add(file)
    return tuple(sorted(files))


def doubts(folder: RunFolder, good: Mapping[str | None, int]) -> list[str]:
    """What a reader of a run's numbers should know of how they were made: other code than now, mixed machines.

    Args:
        folder: The run.
        good: How many of its good records were made in each session.
    """
    found = [
        f"{count} records were made by OTHER CODE than there is now ({', '.join(files)} changed since)"
        for files, count in other_code(folder, good).items()
    ]
    sessions = [entry for entry in folder.environments() if entry.get("session") in good]
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


def _source_of(file: str) -> str:
    """The source file that names a file; "" for a source file, and for one that a setting names."""
    return "" if _setting_of(file) else file.rpartition(":")[0]


def _setting_of(file: str) -> str:
    """The setting that names a file; "" for other files."""
    found = re.match(r"([\w.]+)=", file)
    return found[1] if found else ""


def _named_by_settings(node: Any, above: str = "") -> set[str]:
    """The files that settings name, but for those whose place or content a run's identity knows otherwise."""
    if isinstance(node, Mapping):
        return {file for key, child in node.items() for file in _named_by_settings(child, f"{above}.{key}".strip("."))}
    if isinstance(node, list | tuple):
        return {file for child in node for file in _named_by_settings(child, above)}
    named = isinstance(node, str) and len(node) < LONGEST_NAME and above not in NOT_IDENTITY
    named = named and bool({".", "/"} & set(node))  # a word is a choice
    return {f"{above}={node}"} if named and _is_file(Path(node)) else set()


def _is_own(file: str) -> bool:
    return file.split("/")[0] == PACKAGE


def _file(name: str) -> str | None:
    """The file of a module, or of a thing in one: ``sise.metrics.localization.ebpg`` -> ``metrics/localization.py``.

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
    """Where a file of :func:`code_of` lies: in the repository, where Python finds its module, or where a text says."""
    if setting := _setting_of(file):
        named = Path(file[len(setting) + 1 :])
        return named if _is_file(named) else None
    if source := _source_of(file):
        above, name = _path(source), file[len(source) + 1 :]
        return above.parent / name if above and (above.parent / name).is_file() else None
    if _is_own(file):
        return _own_path(file)
    places = _places(file.split("/")[0].removesuffix(".py"))
    return next((place / file for place in places if (place / file).is_file()), None)


@functools.cache
def _own_path(file: str) -> Path | None:
    # a checkout has baselines/ and metrics/ beside sise/, with links to them inside only where `make install` ran
    beside = ROOT / file.removeprefix(f"{PACKAGE}/")
    there = [ROOT / file, *([beside] if file.split("/")[1] in ("baselines", "metrics") else [])]
    return next((path for path in there if path.is_file()), None)


def _there(file: str) -> Path:
    """Where a file lies that was found a moment ago.

    Raises:
        FileNotFoundError: If it was taken away since.
    """
    path = _path(file)
    if path is None:
        raise FileNotFoundError(f"{file} is not there any more")
    return path


@functools.cache
def _places(package: str) -> tuple[Path, ...]:
    """The folders that a top-level module or package lies in; as ``model=module`` does, looks in the current one last.

    A folder without ``__init__.py`` is a package too, and may lie in several places. Nothing is imported.
    """
    try:
        spec = importlib.util.find_spec(package)
        last = PathFinder.find_spec(package, [os.getcwd()])
    except (ImportError, ValueError):  # a module without a spec, such as __main__
        return ()
    places: list[Path] = []
    for found in filter(None, (spec, last if spec is None or spec.origin is None else None)):
        if found.has_location and found.origin is not None:
            above = Path(found.origin).parent
            places.append(above.parent if found.submodule_search_locations else above)
        else:
            places += [Path(folder).parent for folder in found.submodule_search_locations or ()]
    return tuple(places)


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
    return ast.parse(_there(file).read_bytes())


@functools.cache
def _imported(file: str) -> tuple[str, ...]:
    """The files a file imports, of the suite and of the user's own; those of installed packages are not followed."""
    if not _is_own(file) and is_installed(_there(file)):
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
    return tuple(dict.fromkeys(f for f in found if _is_own(f) or not is_installed(_there(f))))


def _named_in(file: str) -> list[str]:
    """The files, at a user's source file or below, that a text in it names; links lead where they like."""
    if _is_own(file) or is_installed(_there(file)):
        return []
    here = _there(file)
    return [f"{file}:{name}" for name in _texts(file) if name != here.name and _is_file(here.parent / name)]


@functools.cache
def _texts(file: str) -> tuple[str, ...]:
    """What stands in quotes in a source file and may be the name of a file in its folder or below."""
    texts = {node.value for node in ast.walk(_tree(file)) if isinstance(node, ast.Constant)}
    names = {Path(text.lstrip("/")) for text in texts if isinstance(text, str) and 0 < len(text) < LONGEST_NAME}
    return tuple(sorted(name.as_posix() for name in names if ".." not in name.parts))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that is no name
        return False


def _hash(file: str) -> str:
    """Of a source file what runs; of an installed package's its bytes and version, as they are now; else the bytes."""
    path = _there(file)
    if _source_of(file) or _setting_of(file):
        stat = path.stat()
        return _content_hash(path, stat.st_size, stat.st_mtime_ns)
    if not _is_own(file) and is_installed(path):
        content = repr(_version(file.split("/")[0].removesuffix(".py"))).encode() + path.read_bytes()
        return hashlib.sha256(content).hexdigest()[:12]
    return _source_hash(file)


@functools.cache
def _content_hash(path: Path, size: int, changed: int) -> str:
    return file_hash(path)[:12]


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
