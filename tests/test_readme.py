"""The README says what is there: its files, its commands, its Python."""

import argparse
import re
import runpy
import shlex
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vmp.config import check
from vmp.paper.demo import DemoRequest, plan_demo

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_files_that_are_named_exist():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(links) >= 2
    for link in links:
        assert (ROOT / link).exists(), link
    for name in re.findall(r"`(test_\w+\.py)`", README):
        assert (ROOT / "tests" / name).exists(), name


def test_the_tree_is_true():
    """Every file and folder in it exists, and every package of src/vmp is in it."""
    tree = README.partition("## The tree")[2].partition("```")[2].partition("```")[0]
    parent, named = ROOT, set()
    for line in tree.strip().splitlines():
        if not line.startswith("  "):
            parent = ROOT
        paths = [parent / word for word in takewhile(lambda word: "." in word or "/" in word, line.split())]
        assert paths, line
        for path in paths:
            assert path.exists(), (line, path)
        named |= set(paths)
        if not line.startswith("  "):
            parent = paths[0]
    packages = {path.parent for path in (ROOT / "src/vmp").glob("*/__init__.py")}
    assert packages
    assert packages <= named, sorted(str(path) for path in packages - named)


COMMANDS = [
    line.partition("#")[0].strip()
    for line in README.splitlines()
    if re.match(r"    (python|torchrun) ", line)
]


class Parsed(Exception):
    """The script has accepted its arguments."""


def parse_only(script: str, arguments: list[str], monkeypatch):
    """Run a script until it has parsed its arguments."""
    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)

        def parse_and_stop(*args, parse=parse, **kwargs):
            parse(*args, **kwargs)  # exits if it does not understand them
            raise Parsed

        monkeypatch.setattr(argparse.ArgumentParser, name, parse_and_stop)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / script))["main"]()


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_compose(command, monkeypatch):
    words = shlex.split(command)
    script = next(word for word in words if word.endswith(".py"))
    overrides = [word for word in words[words.index(script) + 1 :] if word != "-m"]
    if script.startswith("scripts/"):
        parse_only(script, overrides, monkeypatch)
        return
    if "-m" in words:
        overrides = [re.sub(r"=([^=,\[]+),.*", r"=\1", word) for word in overrides]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(Path(script).stem, overrides)
    if script == "train.py":
        check(OmegaConf.to_container(cfg, resolve=True))


def test_its_evaluation_is_of_a_run_that_the_demo_makes():
    (command,) = [command for command in COMMANDS if command.startswith("python evaluate.py")]
    planned = plan_demo(DemoRequest())
    made = [f"run={run.folder}" for arms in planned.values() for runs in arms.values() for run in runs]
    assert shlex.split(command)[2] in made


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert named
    assert named - {"and"} <= targets


def test_its_python_runs():
    import torch

    code = re.search(r"```python\n(.*?)```", README, flags=re.S)
    assert code
    scope = {
        "clip": torch.randint(0, 256, (2, 3, 9, 32, 32), dtype=torch.uint8),
        "model": lambda x: x.mean(dim=(2, 3, 4)),
        "labels": torch.tensor([0, 1]),
        "criterion": torch.nn.functional.cross_entropy,
    }
    exec(code[1], scope)
    scope["loss"].backward()
    assert scope["prompt"].m.grad is not None


def test_the_project_speaks_of_itself_only():
    """No machine paths and no package registry's host in what is tracked."""
    import subprocess

    hosts = "|".join(["pypi" + r"\.org", "python" + "hosted", "/wo" + "rk/", "bash_" + "jobs"])
    found = subprocess.run(
        ["git", "grep", "-nIE", hosts], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.stdout == ""
