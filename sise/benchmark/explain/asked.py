"""What was asked: explainers, image files, targets."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from sise.benchmark import invocation
from sise.benchmark.datasets.images import IMAGE_FORMATS, to_rgb, upright
from sise.errors import SuiteError

log = logging.getLogger(__name__)
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")
"""What is an image in a folder."""


def compose_explainers(overrides: Sequence[str], config_name: str = "explain") -> list[DictConfig]:
    """One configuration per explainer of ``explainer=[a,b]``.

    Settings of an explainer (``explainer.call.mu=0.3``) go to those that have them.

    Args:
        overrides: The command line's.
        config_name: The root configuration.
    """
    names = next((o.split("=", 1)[1] for o in overrides if o.startswith("explainer=")), "sise")
    own = [o for o in overrides if o.startswith("explainer.")]
    general = [o for o in overrides if not o.startswith(("explainer=", "explainer."))]
    configs = []
    for name in dict.fromkeys(n.strip() for n in names.strip("[]").split(",")):
        shipped = compose(config_name, [*general, f"explainer={name}"])
        unknown = object()
        fitting = [o for o in own if OmegaConf.select(shipped, o.split("=", 1)[0], default=unknown) is not unknown]
        configs.append(compose(config_name, [*general, f"explainer={name}", *fitting]) if fitting else shipped)
    return configs


def image_files(image: Any) -> list[Path]:
    """The files of ``image=``: one, those in a folder (not below it) by name, or those of a list.

    Raises:
        SuiteError: If none is given, one does not exist, or a folder holds no image.
    """
    if image is None:
        raise SuiteError(f"which image? {invocation.typed('explain')} image=<file or folder>; --help tells the rest.")
    files: list[Path] = []
    for one in [image] if isinstance(image, str | int | float) else image:
        path = Path(str(one)).expanduser()
        if path.is_dir():
            named = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and not f.is_dir())
            found = [f for f in named if f.is_file()]
            if len(found) < len(named):
                first = next(f for f in named if f not in found)
                log.warning(
                    "%s: %d of %d pictures left out, links that lead nowhere (the first: %s)",
                    path, len(named) - len(found), len(named), first.name,
                )  # fmt: skip
            if not found:
                raise SuiteError(f"the folder {path} holds no image ({' '.join(SUFFIXES)}).")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise SuiteError(f"image={path}: there is no such file or folder.")
    return files


def read_picture(path: Path) -> Image.Image:
    """The image in a file, RGB, turned as its camera says.

    Raises:
        SuiteError: If it cannot be decoded.
    """
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            return to_rgb(upright(image))
    except Exception as error:  # a damaged file can raise anything
        raise SuiteError(f"{path} is not a readable image ({error}); expected {', '.join(IMAGE_FORMATS)}.") from error


def find_targets(asked: Any, classes: Sequence[str]) -> list[int] | None:
    """Class indices of ``target=``: names (in upper or lower case) and indices.

    Returns:
        One index each, without repetition; None if nothing is asked for.

    Raises:
        SuiteError: On an unknown name, with the nearest ones, a name that two classes have, an index out of range, or
            nothing in a list.
    """
    if asked is None:
        return None
    lower = [name.lower() for name in classes]
    found: list[int] = []
    for one in [asked] if isinstance(asked, str | int | float) else asked:
        name = str(one).strip().lower()
        if name in lower:
            if lower.count(name) > 1:
                same = [i for i, other in enumerate(lower) if other == name]
                raise SuiteError(f"target={one}: {len(same)} classes are called so; give an index: {same}.")
            found.append(lower.index(name))
        elif re.fullmatch(r"-?\d+", name):
            if not 0 <= int(name) < len(classes):
                raise SuiteError(f"target={one}: the network scores classes 0 to {len(classes) - 1}.")
            found.append(int(name))
        else:
            word = re.compile(rf"\b{re.escape(name)}s?\b")
            near = [i for i, other in enumerate(lower) if word.search(other)]
            near += [lower.index(n) for n in difflib.get_close_matches(name, lower, n=8, cutoff=0.5)]
            names = ", ".join(f"{classes[i]} ({i})" for i in list(dict.fromkeys(near))[:8])
            hint = f"the nearest are: {names}" if names else "none is near; an index does as well"
            raise SuiteError(f"target={one}: the network has no class of this name; {hint}.")
    if not found:
        raise SuiteError("target=[] names no class; leave it out for the best class of each image.")
    return list(dict.fromkeys(found))
