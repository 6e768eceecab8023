"""The machine and the versions behind a session of records."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["environment", "without_folders", "without_places"]

_PACKAGES = ("torch", "torchvision", "torchray", "numpy", "scikit-image", "pillow", "captum", "pandas", "hydra-core")


# environment ----------------------------------------------------------------------------------------------------
def environment(device: Any = None) -> dict[str, Any]:
    """What results may depend on and an identity does not hold; free of absolute paths.

    Args:
        device: The torch device the run computes on; ``None`` = CPU.

    Returns:
        ``packages`` (versions; ``None`` if missing), ``python``, ``platform``, ``device`` (its name), ``cpu``,
        ``cuda`` and ``cudnn`` (``None`` on a CPU), ``threads``, ``commit`` and ``dirty`` (``None`` outside a
        checkout), ``command`` and ``time`` (UTC).
    """
    import torch

    device = torch.device(device or "cpu")
    cpu = _cpu_name()
    commit, dirty = _commit()
    return {
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        "cpu": cpu,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "commit": commit,
        "dirty": dirty,
        "command": " ".join([without_folders(sys.argv[0]), *map(without_places, sys.argv[1:])]),
        "time": time_now(),
    }


def time_now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        name = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        name = None
    return name.group(1).strip() if name else platform.processor() or platform.machine()


@functools.lru_cache(maxsize=1)
def _commit() -> tuple[str | None, bool | None]:
    """Commit of the checkout this file is tracked in, and whether it has uncommitted changes."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # else some other project's repository surrounds us
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def without_folders(word: str) -> str:
    """Text with its absolute paths cut to their last part: results travel, a machine's folders should not."""
    return re.sub(r"(?<![\w.~])(?:[A-Za-z]:[\\/]|~?/)(?:[^\s,\]/\\]+[\\/])*(?=[^\s,\]/\\])", "", word)


def without_places(word: str) -> str:
    """A word of a command with ``...`` for its absolute paths: a shortened one would name another place."""
    return re.sub(r"(?<![\w.~])(?:[A-Za-z]:[\\/]|~?/)(?=\S)[^,\]]*", "...", word)
