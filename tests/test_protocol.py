"""Every lettered choice that code and configurations name is defined in docs/protocol.md, and the other way round."""

from __future__ import annotations

import re

from checkout import ROOT

LETTER = re.compile(r"\b[MLFAEGTPUV](?:[1-9]|1[0-4])\b")
NO_CHOICE = re.compile(r"Tesla T4|\(T4\)|a T4\b|1,F1")  # a graphics card


def named():
    """The letters in code and configurations, each with a file that names it."""
    files = [file for folder in ("sise", "metrics", "baselines", "configs") for file in (ROOT / folder).rglob("*.*")]
    found = {}
    for file in sorted(files):
        if file.suffix in (".py", ".yaml"):
            for letter in LETTER.findall(NO_CHOICE.sub("", file.read_text(encoding="utf-8"))):
                found.setdefault(letter, str(file.relative_to(ROOT)))
    return found


def defined():
    """The letters in the first column of the tables of docs/protocol.md."""
    return re.findall(r"^\| ([A-Z]\d+) \|", (ROOT / "docs/protocol.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_letters_are_defined_once_and_named():
    assert sorted(set(defined())) == sorted(defined())
    assert {letter: file for letter, file in named().items() if letter not in defined()} == {}
    assert set(defined()) - named().keys() == set()


def test_settings_of_the_page_exist():
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    keys = set(re.findall(r"`((?:protocol|metrics)\.[\w.]+)`", (ROOT / "docs/protocol.md").read_text(encoding="utf-8")))
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("evaluate", ["metrics=[default,pointing]"])
    missing = [key for key in sorted(keys) if OmegaConf.select(cfg, key, default=KeyError) is KeyError]
    assert len(keys) > 15 and missing == []
