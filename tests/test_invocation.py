"""Messages name the command that the reader has: vmp, or a script where they work in a checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import vmp.commands.prepare
from vmp.invocation import command_line, typed_command

ROOT = Path(__file__).resolve().parent.parent


def test_the_command_that_the_reader_has(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1"])
    monkeypatch.chdir(ROOT)
    assert command_line("prepare") == "python scripts/prepare.py"
    assert command_line("train") == "python train.py"
    assert typed_command() == ["python", "train.py", "seed=1"]
    monkeypatch.chdir(tmp_path)  # where there is no scripts/prepare.py, or another one
    assert command_line("prepare") == "vmp prepare"
    (tmp_path / "train.py").touch()
    assert command_line("train") == "vmp train"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [vmp.commands.prepare.__file__, "hmdb51"])
    assert command_line("prepare") == "vmp prepare"
    assert typed_command() == ["vmp", "prepare", "hmdb51"]


def test_a_folder_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    os.rmdir(tmp_path / "gone")
    assert command_line("prepare") == "vmp prepare"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "named"), [(["-m", "vmp", "train"], "vmp"), (["train.py"], "python scripts/")]
)
def test_in_a_message(start, named, tmp_path):
    words = [*start, "dataset=ucf101", f"data.root={tmp_path}", f"output={tmp_path}"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    script = "prepare.py" if "scripts" in named else " prepare"
    assert f"  {named}{script} ucf101 --annotations DIR --videos DIR --out {tmp_path}/ucf101" in done.stderr
