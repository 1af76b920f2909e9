"""What `auto` chooses, that a run keeps it, and fp16's loss scale in real runs on a CPU."""

import itertools
import json
import re
import shutil
import time

import pytest
import torch
from runs import ROOT, Ranks, Running, bright_or_dark, differences, folder, overrides_for

from vmp.backbones import SPECS
from vmp.compose import composer
from vmp.config import check
from vmp.engine import checkpoint
from vmp.engine.precision import AMX_SPEED, KEYS, choose, describe, make_scaler, may_skip
from vmp.errors import RunError
from vmp.runs.folder import check_same_run
from vmp.runs.precision import settle_precision
from vmp.runs.records import read_config, write_records

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capability", "deterministic", "expected"),
    [
        (None, False, ("none", False, False)),
        ((7, 0), False, ("fp16", False, True)),  # V100
        ((7, 5), True, ("fp16", False, False)),  # T4
        ((8, 0), False, ("bf16", True, True)),  # A100
        ((9, 0), True, ("bf16", True, False)),  # H100
    ],
)
def test_auto_takes_what_the_device_multiplies(capability, deterministic, expected):
    choice = choose(capability, deterministic=deterministic)
    assert choice[:3] == expected
    line = describe(choice._asdict(), torch.device("cuda"))
    assert line.startswith({"none": "float32", "fp16": "fp16 autocast", "bf16": "bf16 autocast"}[choice.amp])
    assert ("no TF32" in line) == (not choice.tf32)


@pytest.mark.parametrize(
    ("amx", "backbone", "crop", "expected", "why"),
    [
        (False, "i3d", 224, "none", "a CPU"),
        (
            True,
            "i3d",
            224,
            "bf16",
            "times as fast as float32 for i3d, 2.5 times with trainer.channels_last=true",
        ),
        (True, "timesformer", 224, "bf16", "for timesformer"),
        (True, "x3d", 224, "none", "not measured to be faster"),
        (True, "i3d", 28, "none", "not measured to be faster"),  # the miniature
        (True, "tiny", 224, "none", "not measured to be faster"),
        (True, "custom", 224, "none", "not measured to be faster"),
    ],
)
def test_auto_on_a_cpu_depends_on_its_units_and_on_the_backbone(amx, backbone, crop, expected, why):
    choice = choose(None, deterministic=False, amx=amx, backbone=backbone, crop=crop)
    assert choice.amp == expected
    assert why in choice.why
    assert set(AMX_SPEED) <= set(SPECS)


def config(**trainer):
    return composer(ROOT / "conf")([f"trainer.{key}={value}" for key, value in trainer.items()])


def begin(folder, raw):
    """A run with a checkpoint."""
    write_records(folder, raw, {}, ("a",))
    (folder / "checkpoints" / "step_00000001_0000").mkdir(parents=True)


def test_auto_is_settled_once_and_kept(tmp_path):
    raw = config(tf32="null")
    new, line = settle_precision(tmp_path / "new", raw, check(raw), CPU)
    assert {k: new["trainer"][k] for k in ("amp", "tf32", "cudnn_benchmark")} == {
        "amp": "none",
        "tf32": None,  # the user's word stands
        "cudnn_benchmark": False,
    }
    assert line.startswith("precision: float32 (trainer.amp=auto: a CPU")
    raw = config(amp="bf16", tf32=True, cudnn_benchmark=True)  # as on an A100
    folder = tmp_path / "begun"
    begin(folder, raw)
    check_same_run(folder, config())
    kept, line = settle_precision(folder, config(), check(config()), CPU)
    assert kept == raw
    assert line == "precision: bf16 autocast (trainer.amp=auto: as the run began)"
    check_same_run(folder, config(channels_last="true"))  # a memory format changes no more than the rounding
    with pytest.raises(RunError, match=r"trainer\.amp: bf16 -> none"):
        check_same_run(folder, config(amp="none"))


def test_a_scale_above_1_may_be_lowered():
    scaler = make_scaler(CPU, torch.float16)
    assert may_skip(scaler)
    assert not may_skip(make_scaler(CPU, torch.bfloat16))
    scaler.scale(torch.ones(()))  # makes the scale
    scaler.update(1.0)
    assert not may_skip(scaler)


@pytest.mark.slow
def test_under_fp16_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    """The rate is so high that the first update leaves weights that no activation in fp16 survives."""
    data = bright_or_dark(tmp_path / "data")
    done = Running(overrides_for(data, tmp_path / "out", "trainer.amp=fp16", "optim.lr=1e8")).wait()
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(r"the loss or a gradient of step \d+ is not finite", done.stderr)


@pytest.fixture(scope="module")
def steep(tmp_path_factory):
    """A data folder, and a run whose head is so steep that scaled gradients overflow fp16."""
    home = tmp_path_factory.mktemp("steep")
    data = bright_or_dark(home / "data")
    done = Running(
        overrides_for(data, home / "start", "trainer.epochs=1", "trainer.keep_finished=all")
    ).wait()
    assert done.returncode == 0, done.stderr
    kept = folder(home / "start") / "checkpoints"
    found = checkpoint.newest(kept)
    heads = [name for name in found.model if re.search(r"\.(head|fc|proj)\w*\.weight$", name)]
    assert len(heads) == 1, list(found.model)
    model = {name: 1000 * value if name in heads else value for name, value in found.model.items()}
    shutil.rmtree(found.path)
    checkpoint.save(kept, found.path.name, model=model, state=found.state)
    return data, folder(home / "start")


def options(steep, out, *more):
    data, start = steep
    fixed = [
        "trainer.amp=fp16",
        "trainer.micro_batch=1",
        "optim.lr=1e-6",
        "vmp.lr_mult=1000",
        "trainer.keep_finished=all",
    ]
    return overrides_for(data, out, f"init_from='{start}'", *fixed, "trainer.save_steps=4", *more)


@pytest.mark.slow
def test_updates_that_overflow_are_skipped_and_a_killed_run_keeps_its_scale(steep, tmp_path):
    """Two processes, of two micro-batches each."""
    ranks = 2
    begin = lambda out: Ranks(options(steep, out), ranks=ranks)  # noqa: E731
    alone = begin(tmp_path / "alone").wait()
    assert [done.returncode for done in alone] == [0] * ranks, alone[0].stderr
    whole = next((tmp_path / "alone").rglob("log.txt")).parent
    said = [line for line in (whole / "log.txt").read_text().splitlines() if "overflowed" in line]
    steps = [int(re.search(r"step (\d+):", line)[1]) for line in said]
    scales = [float(line.split()[-1]) for line in said]
    assert steps[:4] == [1, 2, 3, 4]
    assert len(steps) < 20  # then they fit
    assert scales == [2.0 ** (15 - i) for i in range(len(scales))]
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    slopes = [row["vmp/slope"] for row in rows if row["kind"] != "val"]  # of the start, and after each update
    moved = [step for step, (a, b) in enumerate(itertools.pairwise(slopes), 1) if a != b]
    assert set(moved).isdisjoint(steps)
    assert len(moved) > 10

    killed = begin(tmp_path / "killed")
    rows = tmp_path / "killed" / whole.relative_to(tmp_path / "alone") / "metrics.jsonl"
    while not (rows.exists() and rows.read_text().count("\n") > len(steps) + 8):
        assert not killed.over()
        time.sleep(0.02)
    killed.signal(9)
    killed.wait()
    again = begin(tmp_path / "killed").wait()
    assert [done.returncode for done in again] == [0] * ranks, again[0].stderr
    assert "continuing from step_" in again[0].stdout
    assert differences(whole, rows.parent) == []
    last = [checkpoint.newest(run / "checkpoints").state["scaler"] for run in (whole, rows.parent)]
    assert last[0] == last[1]
    assert last[0]["scale"] == scales[-1]


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["auto", "fp16"])
def test_a_run_on_this_gpu_learns_and_says_its_precision(tmp_path, amp):
    data = bright_or_dark(tmp_path / "data")
    done = Running(overrides_for(data, tmp_path / "out", "trainer.device=cuda", f"trainer.amp={amp}")).wait()
    assert done.returncode == 0, done.stderr
    where = next((tmp_path / "out").rglob("config.yaml")).parent
    chosen = choose(torch.cuda.get_device_capability(), deterministic=False)._asdict()
    chosen |= {} if amp == "auto" else {"amp": amp}
    kept = read_config(where)["trainer"]
    assert [kept[key] for key in KEYS] == [chosen[key] for key in KEYS]
    assert f"precision: {describe(chosen, torch.device('cuda'))} (" in done.stdout
    assert json.loads((where / "result.json").read_text())["top1"] > 60
