"""Runs that are disturbed, again and again, until they end.

All with random crops and jitter, dropout, momentum, warm-up, accumulation, loader processes and an unreadable video
(spoiled in conftest.py); saved after every step, so that kills hit steps, saves, evaluations, starts and ends alike.
"""

import random
import signal
import time
from pathlib import Path

from runs import differences, folder

ALL = (
    "trainer.micro_batch=2",
    "trainer.save_steps=1",
    "trainer.epochs=2",
    "backbone.dropout=0.3",
    "data.max_bad_fraction=0.1",
    "trainer.log_every=4",  # rows that count the clips of several steps, and kills between them
    "train.precise_bn=6",
    "trainer.keep_finished=all",  # copies of finished runs are taken back to before their end
)
ONE = (*ALL, "trainer.workers=1")
TWO = (*ALL, "trainer.micro_batch=1")


def progress(out: Path) -> tuple[str, int]:
    """Of a run in its folder: it changes with every row and every save."""
    where = folder(out)
    names = [path.name for path in (where / "checkpoints").glob("*")] if where.exists() else []
    metrics = where / "metrics.jsonl"
    return max(names, default=""), metrics.stat().st_size if metrics.exists() else 0


def until_it_moves(process, out: Path, before: tuple[str, int], *, moves: int) -> None:
    began = time.monotonic()
    while moves and not process.over():
        assert time.monotonic() - began < 120, "no progress"
        now = progress(out)
        if now != before:
            before, moves = now, moves - 1
        time.sleep(0.001)


def disturbed(
    begin, out: Path, rng: random.Random, fault, *, numbers: tuple[int, ...], at_most: int = 80
) -> int:
    """Start, let it move on by some rows or saves, hit it a moment later, again until it ends; returns hits.

    A hit is survived when the next start did what it should.
    """
    hits = 0
    for _ in range(at_most):
        before = progress(out)
        process = begin()
        until_it_moves(process, out, before, moves=rng.choice((0, 2, 4, 6, 9)))
        number = rng.choice(numbers)
        while (
            number != signal.SIGKILL and not process.over() and not (process.said / "stdout").stat().st_size
        ):
            time.sleep(0.001)  # in the first imports Ctrl-C is Python's, not train.py's
        time.sleep(rng.random() * rng.choice((0.002, 0.02, 0.2)))
        if not process.over():
            process.signal(number)
        done = process.wait()
        codes = set()
        for one in done if isinstance(done, list) else [done]:
            codes.add(one.returncode)
            allowed = {0, -signal.SIGKILL} if number == signal.SIGKILL else {0, 128 + number, -number}
            assert one.returncode in allowed, one.stderr[-3000:]
        fault.survives(fault.row[1] - fault.row[2])  # what was hit before went on until now
        if codes != {0}:
            fault.tries()
            hits += 1
        if (folder(out) / "result.json").exists():
            fault.survives(fault.row[1] - fault.row[2])
            return hits
    raise AssertionError(f"not done after {at_most} starts")


def disturbed_runs(
    begin, left_alone: Path, home: Path, fault, *, runs: int, seed: int, least: int, numbers=(signal.SIGKILL,)
):
    """Several runs, each disturbed until it ends: (hits, what is not as in the run that was left alone). On a fast
    machine a run may end before it is hit: then there are up to five more, until there were `least` hits."""
    hits, wrong = 0, []
    for number in range(runs + 5):
        if number >= runs and hits >= least:
            break
        out = home / str(number)
        rng = random.Random(seed + number)
        hits += disturbed(lambda out=out: begin(out), out, rng, fault, numbers=numbers)
        found = differences(left_alone, folder(out))
        fault.differs(len(found))
        wrong += found
    return hits, wrong
