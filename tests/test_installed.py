"""The package as `pip install` leaves it: the layer with torch alone, and the command vmp from an empty folder."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
BARE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
FEW = (
    *("backbone.weights=none", "dataset.train=16", "dataset.val=10", "dataset.test=10", "trainer.clips=10"),
    *("trainer.epochs=1", "trainer.batch_size=4", "trainer.device=cpu", "trainer.workers=0"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(home)]
    subprocess.run(build, cwd=ROOT, check=True)
    (file,) = home.glob("*.whl")
    return file


def needed(name: str) -> set[str]:
    """A distribution and what it cannot do without."""
    found, todo = set[str](), [name]
    while todo:
        if (one := todo.pop()) not in found:
            found.add(one)
            asked = [Requirement(text) for text in metadata.requires(one) or ()]
            todo += [r.name for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def environment(home: Path, wheel: Path, only: set[str] | None = None) -> Path:
    """The folder of commands of an environment with the wheel; `only` these of our packages, else all."""
    venv.create(home)
    (site,) = home.glob("lib/python*/site-packages")
    if only is None:
        (site / "ours.pth").write_text(str(Path(metadata.distribution("torch").locate_file(""))))
    for name in only or ():
        files = metadata.distribution(name).files or ()
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(metadata.distribution(name).locate_file(top))
    uv = Path(sys.executable).with_name("uv")
    install = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--offline",
        "--no-deps",
        "--python",
        home / "bin/python",
        wheel,
    ]
    subprocess.run([*map(str, install)], check=True)
    return home / "bin"


@pytest.mark.slow
def test_the_layer_needs_torch_alone(wheel, tmp_path):
    """In an environment that has the wheel and torch with its own requirements."""
    bin = environment(tmp_path / "venv", wheel, only=needed("torch"))
    code = (
        "import torch; from vmp import MotionPrompt\n"
        "out = MotionPrompt()(torch.randint(0, 256, (1, 3, 4, 8, 8), dtype=torch.uint8))\n"
        "out.variation.backward(); print(tuple(out.prompts.shape))\n"
        "import numpy"
    )
    done = subprocess.run(
        [bin / "python", "-c", code], cwd=tmp_path, env=BARE, capture_output=True, text=True
    )
    assert done.stdout == "(1, 3, 3, 8, 8)\n", done.stderr
    assert "No module named 'numpy'" in done.stderr
    told = subprocess.run([bin / "vmp", "train"], cwd=tmp_path, env=BARE, capture_output=True, text=True)
    assert told.returncode == 2
    assert "pip install 'video-motion-prompts[train]'" in told.stderr


@pytest.mark.slow
def test_the_command_trains_from_an_empty_folder(wheel, tmp_path):
    bin, home = environment(tmp_path / "venv", wheel), tmp_path / "empty"
    home.mkdir()
    done = subprocess.run(
        [bin / "vmp", "train", *FEW], cwd=home, env=BARE, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    (result,) = home.rglob("result.json")
    found = json.loads(result.read_text())
    assert found["command"].startswith("vmp train backbone.weights=none ")
    assert found["commit"] is None  # it is no checkout, wherever it lies
    assert found["versions"]["video-motion-prompts"] == metadata.version("video-motion-prompts")


def test_commands_are_listed_and_suggested(capsys, monkeypatch):
    from vmp.commands import COMMANDS, main

    files = {path.stem for path in (ROOT / "src/vmp/commands").glob("*.py")}
    assert {*COMMANDS} <= files
    monkeypatch.setattr(sys, "argv", ["vmp", "evalute"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "did you mean evaluate?" in capsys.readouterr().err


@pytest.mark.slow
def test_the_wheel_holds_the_configs_as_they_are(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for path in (ROOT / "conf").rglob("*.yaml"):
            name = f"vmp/conf/{path.relative_to(ROOT / 'conf').as_posix()}"
            assert archive.read(name) == path.read_bytes()
    assert not [name for name in names if name.startswith(("tests/", "scripts/", "outputs/"))]
