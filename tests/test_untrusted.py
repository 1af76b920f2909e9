"""Damaged and hostile files in a run's folder and in weights: refused by name, and no code of theirs runs."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from faults import no_traceback, tree
from omegaconf import OmegaConf
from runs import Running, folder, overrides_for, run

from vmp.errors import UserError


class Calls:
    """Unpickling it calls the function."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class SetState:
    """An object of a harmless class, unpickling whose state calls a function."""

    def __init__(self, inner) -> None:
        self.inner = inner


def traps(witness: Path) -> dict[str, object]:
    import builtins
    import functools
    import operator

    import torch

    touch = f"touch {witness}"
    write = f"open({str(witness)!r}, 'w')"
    system = Calls(os.system, touch)
    return {
        "os.system": system,
        "eval": Calls(eval, write),
        "exec": Calls(exec, write),
        "__import__": Calls(builtins.__import__, "antigravity"),
        "subprocess": Calls(subprocess.Popen, ["touch", str(witness)]),
        "partial": Calls(functools.partial(os.system, touch)),
        "getattr": Calls(getattr(operator, "methodcaller")("touch"), witness),  # noqa: B009
        "open": Calls(open, str(witness), "w"),
        "in a list": [1, [2, {"x": system}]],
        "as a key": {("a", system): 1},
        "in an array": np.array([system], dtype=object),
        "as state": SetState(system),
        "in a module": torch.nn.ModuleList([torch.nn.Identity()]).__class__,
        "rebuild": Calls(torch._utils._rebuild_tensor_v2, system),
    }


NAMES_OF_TRAPS = tuple(traps(Path("x")))


@pytest.mark.chaos
@pytest.mark.parametrize("name", NAMES_OF_TRAPS)
def test_pickles_that_would_run_code(finished, tmp_path, name, tally):
    """In every place of a checkpoint whose sums fit, and in files of weights."""
    import torch

    from vmp.backbones.weights import read
    from vmp.engine import checkpoint

    witness = tmp_path / "it_ran"
    trap = traps(witness)[name]
    fault = tally("pickles and configs that would run code")
    newest = max((finished / "checkpoints").glob("step_*"))
    for file, place in (("optimizer.pt", "state"), ("state.pt", "progress"), ("state.pt", "new")):
        fault.tries()
        where = tmp_path / place / newest.name
        shutil.copytree(newest, where)
        state = torch.load(where / file, weights_only=True)
        torch.save({**state, place: {**state.get(place, {}), "x": trap}}, where / file)
        meta = json.loads((where / "meta.json").read_text())
        meta["sha256"][file] = hashlib.sha256((where / file).read_bytes()).hexdigest()
        (where / "meta.json").write_text(json.dumps(meta))
        message: list[str] = []
        with pytest.raises(UserError, match="damaged"):
            checkpoint.newest(tmp_path / place, warn=message.append)
        assert "was not loaded" in message[0]
        assert not witness.exists()
        fault.survives()
    content = {"model_state": {"blocks.0.conv.weight": torch.zeros(1)}, "x": trap}
    for file in ("w.pyth", "w.pt", "w.bin", "w.pkl", "old.pth"):
        fault.tries()
        if file == "w.pkl":
            (tmp_path / file).write_bytes(pickle.dumps({"blobs": {}, "x": trap}))
        else:
            torch.save(content, tmp_path / file, _use_new_zipfile_serialization=file != "old.pth")
        with pytest.raises(UserError, match=file):
            read(tmp_path / file)
        assert not witness.exists()
        fault.survives()
    time.sleep(0.01)
    assert not witness.exists()


CONFIGS = {  # what a run's config.yaml is changed to
    "python/object/apply": "dataset: !!python/object/apply:os.system ['touch {witness}']\n",
    "python/object/new": "x: !!python/object/new:subprocess.Popen [['touch', '{witness}']]\n",
    "python/name": "x: !!python/name:os.system\n",
    "python/module": "x: !!python/module:antigravity\n",
    "_target_ on top": "_target_: os.system\ncommand: touch {witness}\n",
    "_target_ in a section": "{whole}\ntrainer: {{_target_: os.system, command: 'touch {witness}'}}\n",
    "resolver": '{whole}\nname: ${{oc.decode:\'__import__("os").system("touch {witness}")\'}}\n',
    "unknown resolver": "{whole}\nname: ${{eval:'1'}}\n",
    "billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b]\n",
    "no YAML": "a: [1\n",
    "bytes": "\x00\x01",
    "empty": "",
    "a list": "- 1\n",
    "a word": "word\n",
}


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("kind", CONFIGS)
def test_configs_of_runs_that_are_not_configs(data, finished, tmp_path, kind, tally):
    """Testing, continuing and starting from such a run fail with its name, and no code runs."""
    witness = tmp_path / "it_ran"
    where = folder(tmp_path)
    shutil.copytree(finished, where)
    whole = OmegaConf.to_container(OmegaConf.load(where / "config.yaml"))
    for key in ("name", "trainer"):
        if key in CONFIGS[kind].split("}")[-1] or "{whole}" not in CONFIGS[kind]:
            whole.pop(key, None)
    text = CONFIGS[kind].format(witness=witness, whole=OmegaConf.to_yaml(OmegaConf.create(whole)))
    (where / "config.yaml").write_text(text)
    (where / "result.json").unlink()
    commands = [
        Running([f"run='{where}'", "split=val", "workers=0"], script="evaluate.py"),
        Running(overrides_for(data, tmp_path, "trainer.epochs=1")),
        Running(overrides_for(data, tmp_path / "other", f"init_from='{where}'")),
    ]
    fault = tally("pickles and configs that would run code")
    for command in commands:
        fault.tries()
        message = no_traceback(command.wait())
        assert str(where) in message, message
        assert not witness.exists()
        fault.survives()


@pytest.mark.chaos
def test_damaged_checkpoints(finished, tmp_path, rounds, tally):
    """Truncated, flipped, zeroed: all are noticed."""
    from damage import damaged_bytes

    from vmp.engine import checkpoint
    from vmp.errors import RunError

    source = max((finished / "checkpoints").glob("step_*"))
    files = ("model.safetensors", "optimizer.pt", "state.pt")
    whole = {name: (source / name).read_bytes() for name in (*files, "meta.json")}
    sums = json.loads(whole["meta.json"])["sha256"]
    where = tmp_path / source.name
    shutil.copytree(source, where)
    fault, count, same = tally("damaged checkpoints"), 90 * rounds, 0
    for seed in range(count):
        fault.tries()
        name = tuple(whole)[seed % 4]
        what, damaged = damaged_bytes(whole[name], np.random.default_rng([7, seed]))
        (where / name).write_bytes(damaged)
        try:
            checkpoint.load(where)
        except RunError as error:
            assert where.name in str(error)
        else:  # nothing that counts is another: the version of torch, white space
            assert json.loads((where / "meta.json").read_bytes())["sha256"] == sums, (seed, what)
            assert all((where / file).read_bytes() == whole[file] for file in files), (seed, what)
            same += 1
        (where / name).write_bytes(whole[name])
        fault.survives()
    assert same < count / 4


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("data.json", b"{", "data.json"),
        ("data.json", b"[1]", "data.json"),
        ("data.json", b"\xff\xfe", "data.json"),
        ("metrics.jsonl", b"{}\n", "metrics.jsonl"),
        ("checkpoints", None, None),
    ],
)
def test_damaged_records_of_a_run(data, finished, tmp_path, file, content, message):
    """The same command again: refused with the file's name, never a start from scratch over what is there."""
    where = folder(tmp_path)
    shutil.copytree(finished, where)
    (where / "result.json").unlink()
    if content is None:
        for checkpoint in (where / "checkpoints").glob("step_*"):
            (checkpoint / "meta.json").write_bytes(b"{}")
        message = "are damaged"
    else:
        (where / file).write_bytes(content)
    before = tree(where, "log.txt", "config.yaml")  # which may say another place and speed
    assert message in no_traceback(run(data, tmp_path, "trainer.epochs=1"))
    assert tree(where, "log.txt", "config.yaml") == before


def test_classes_in_another_order_are_not_continued(data, finished, tmp_path):
    """Labels are numbers: two lines of classes.txt exchanged would exchange what they mean."""
    changed = tmp_path / "data"
    shutil.copytree(data, changed)
    (changed / "classes.txt").write_text("darker\nbrighter\n")
    where = folder(tmp_path / "out")
    shutil.copytree(finished, where)
    (where / "result.json").unlink()
    message = no_traceback(run(changed, tmp_path / "out", "trainer.epochs=1"))
    assert "the clips of train and val are not those with which the run began" in message
