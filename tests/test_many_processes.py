"""Several processes of one run: they agree on clips, settings and checkpoint before they train, and their number
changes no loss (disturbed.py says how they train)."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from disturbed import TWO, progress, until_it_moves
from runs import Ranks, Running, differences, folder, overrides_for, start, start_ranks

from vmp.runs.records import read_metrics

pytestmark = pytest.mark.slow


def contents(home: Path) -> dict[str, bytes]:
    """Of the files of a run that a start must not touch; a start may append to log.txt, and takes the lock."""
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and path.name not in ("log.txt", ".lock")
    }


def copied(out: Path, to: Path, *, newest: str) -> Path:
    """A run as a disk shows it to another machine: its newest checkpoint is missing or damaged, or all of it is."""
    if newest == "nothing at all":
        to.mkdir()
        return to
    shutil.copytree(out, to)
    (*_, last) = sorted((folder(to) / "checkpoints").glob("step_*"))
    if newest == "missing":
        shutil.rmtree(last)
    else:
        content = bytearray((last / "state.pt").read_bytes())
        content[len(content) // 2] ^= 1
        (last / "state.pt").write_bytes(content)
    return to


@pytest.mark.chaos
def test_processes_that_find_different_checkpoints_stop_and_overwrite_nothing(spoiled, pair, tmp_path, tally):
    """Each of two processes in turn has a folder of its own that lacks what the other sees. When both see the same
    folder again, the run ends with the same bits."""
    out = tmp_path / "out"
    ranks = start_ranks(spoiled, out, *TWO, ranks=2)
    until_it_moves(ranks, out, progress(out), moves=5)
    ranks.signal(signal.SIGTERM)
    assert {done.returncode for done in ranks.wait()} == {143}
    (*_, last) = sorted((folder(out) / "checkpoints").glob("step_*"))
    # a first process that finds its newest damaged goes back to the one before, as a single process does
    misses = [(0, "missing"), (1, "damaged"), (1, "nothing at all")]
    fault = tally("processes that see different checkpoints")
    for number, (rank, newest) in enumerate(misses):
        other = copied(out, tmp_path / str(number), newest=newest)
        own = [[f"output='{out}'"], [f"output='{out}'"]]
        own[rank] = [f"output='{other}'"]
        before = contents(out), contents(other)
        fault.tries()
        for done in start_ranks(spoiled, out, *TWO, ranks=2, own=own).wait():
            assert done.returncode == 2, (rank, newest, done.stderr[-2000:])
            assert "do not find the same checkpoint; nothing was trained or overwritten" in done.stderr
            assert f"{last.name}, step {int(last.name.split('_')[1])}, digest" in done.stderr or rank == 0
            assert last.name in done.stderr
            assert "`output` must be one folder that every machine sees" in done.stderr
        assert (contents(out), contents(other)) == before, (rank, newest)
        fault.survives()
    start_ranks(spoiled, out, *TWO, ranks=2).succeed()
    wrong = differences(pair, folder(out))
    fault.differs(len(wrong))
    assert not wrong
    # a finished run: the first process knows
    own = [[f"output='{out}'"], [f"output='{tmp_path / 'none'}'"]]
    start_ranks(spoiled, out, *TWO, ranks=2, own=own).succeed()


def test_processes_with_other_clips_or_settings_stop_before_the_first_step(spoiled, tmp_path):
    other = tmp_path / "data"
    shutil.copytree(spoiled, other)
    (other / "train/005.mp4").unlink()
    own = [["optim.lr=0.05"], [f"dataset.folder='{other}'", "optim.lr=0.06"]]
    for done in start_ranks(spoiled, tmp_path / "out", *TWO, ranks=2, own=own).wait():
        assert done.returncode == 2, done.stderr[-2000:]
        assert "optim.lr: 0.05 -> 0.06 (process 0 -> process 1)" in done.stderr
        assert "the clips of train are not those of process 0" in done.stderr
    assert not (folder(tmp_path / "out") / "config.yaml").exists()


def test_srun_starts_one_run_as_torchrun_does(spoiled, pair, tmp_path):
    first, second = start_ranks(spoiled, tmp_path, *TWO, ranks=2, starter="srun").wait()
    assert (first.returncode, second.returncode) == (0, 0), first.stderr[-2000:] + second.stderr[-2000:]
    assert "Slurm started 2 processes" in first.stdout
    assert not differences(pair, folder(tmp_path))


def test_a_process_whose_portion_cannot_be_read_takes_part_with_nothing(spoiled, tmp_path):
    """Two processes of one clip each, and one clip is unreadable. At λ = 0 training has no variation to log, and the
    blank clip, which is looked at as in testing, must not bring one."""
    plain = ("trainer.batch_size=2", "trainer.epochs=2", "trainer.log_every=1", "vmp.lambda=0")
    start_ranks(spoiled, tmp_path, *TWO, *plain, ranks=2).succeed()
    where = folder(tmp_path, "learned_lambda0")
    assert list(json.loads((where / "result.json").read_text())["unreadable_in_training"]) == ["train/3"]
    training = [row for row in read_metrics(where) if row["kind"] == "train"]
    assert len(training) == 24
    assert not any("train/variation" in row for row in training)


def test_a_run_that_goes_on_with_more_processes_says_so(spoiled, tmp_path):
    """The clips of a step stay the same; the change is warned of, and kept in the result."""
    done = start(spoiled, tmp_path, *TWO, "trainer.max_minutes=0.0001").wait()
    assert done.returncode == 75, done.stderr[-2000:]
    first, _ = start_ranks(spoiled, tmp_path, *TWO, ranks=2).wait()
    assert first.returncode == 0, first.stderr[-2000:]
    assert "processes 1 -> 2" in first.stdout
    result = json.loads((folder(tmp_path) / "result.json").read_text())
    assert [session["processes"] for session in result["sessions"]] == [1, 2]
    assert result["sessions"][1]["step"] > 0
    assert {session["commit"] for session in result["sessions"]} == {result["commit"]}


# --- the same losses from any number -------------------------------------------------------------------------------

STEADY = (  # no batch statistics, which follow the clips of a process, and no dropout, which is drawn by process
    "backbone=timesformer",
    "backbone.weights=none",
    "backbone.patch=16",
    "backbone.dim=24",
    "backbone.depth=2",
    "backbone.heads=2",
    "backbone.stride=1",
    "backbone.dropout=0",
    "backbone.drop_path=0",
    "trainer.views=1x1",
    "trainer.epochs=3",
    "trainer.micro_batch=1",
    "data.max_bad_fraction=0.1",
)


def test_one_two_and_four_processes_have_the_same_losses(spoiled, tmp_path):
    curves = []
    for world in (1, 2, 4):
        arguments = overrides_for(spoiled, tmp_path / str(world), *STEADY)
        # a transformer has no width
        arguments = [one for one in arguments if not one.startswith("backbone.width")]
        done = Running(arguments).wait() if world == 1 else Ranks(arguments, ranks=world).wait(240)
        for one in done if isinstance(done, list) else [done]:
            assert one.returncode == 0, one.stderr[-3000:]
        (metrics,) = (tmp_path / str(world)).rglob("metrics.jsonl")
        curves.append([row["train/loss"] for row in read_metrics(metrics.parent) if row["kind"] == "train"])
    assert len(curves[0]) == 18
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=1e-4)
