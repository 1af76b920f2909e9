"""One update: who takes part in a micro-batch whose clips cannot all be read, and what an update adds up."""

import itertools
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed
from runs import CONTEXT, folder, start
from torch import nn

from vmp.data.columns import Clip
from vmp.data.dataset import ClipShape, TrainClips
from vmp.data.manifest import Manifest
from vmp.data.present import Present
from vmp.engine.dist import Processes
from vmp.engine.learner import Learner
from vmp.engine.loggers import Log, Metrics
from vmp.engine.loop import TrainingLoop
from vmp.engine.plan import LoopSettings, TrainingPlan, TrainingState
from vmp.engine.stopping import Stopping
from vmp.engine.update import (
    RunningAccuracy,
    UpdateSums,
    clip_gradients,
    decide_participation,
    mean_terms,
    use_running_statistics,
)
from vmp.errors import DataError, VideoReadError
from vmp.objective import Objective
from vmp.runs.records import read_metrics

CPU = torch.device("cpu")
CASES = list(
    itertools.product(range(3), range(3), (False, True), (False, True))
)  # readable here and there, last, synced


def test_a_single_process_runs_what_it_could_read():
    alone = Processes(0, 1, CPU)
    for readable, last in itertools.product(range(3), (False, True)):
        part = decide_participation(readable, micro_batch=2, last=last, synced=False, processes=alone)
        assert part == (readable / 2, readable > 0, readable > 0)


def decide(rank: int, store: str, out) -> None:
    file = torch.distributed.FileStore(store, 2)
    torch.distributed.init_process_group(
        "gloo", store=file, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    here = Processes(rank, 2, CPU)
    out.put(
        (
            rank,
            [
                decide_participation(c[rank], micro_batch=2, last=c[2], synced=c[3], processes=here)
                for c in CASES
            ],
        )
    )
    torch.distributed.destroy_process_group()


def test_two_processes_never_wait_for_each_other(tmp_path):
    """DDP waits for every process in the last micro-batch, synchronised statistics in each that anybody runs."""
    out = CONTEXT.SimpleQueue()
    workers = [CONTEXT.Process(target=decide, args=(rank, str(tmp_path / "store"), out)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    found = dict(out.get() for _ in workers)
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    for case, first, second in zip(CASES, found[0], found[1], strict=True):
        *readable, last, synced = case
        for own, part in zip(readable, (first, second), strict=True):
            assert part.weight == own / 2, case
            assert part.runs or not own, case  # what was read is always trained on
            assert not part.batch_statistics or own, case  # a blank clip has no say in the statistics
        if last or synced:
            assert first.runs, case
            assert second.runs, case
        else:
            assert (first.runs, second.runs) == tuple(own > 0 for own in readable), case
        if synced:
            assert first.batch_statistics == second.batch_statistics == all(readable), case
        else:
            assert (first.batch_statistics, second.batch_statistics) == tuple(own > 0 for own in readable)


def test_terms_are_means_over_the_clips_that_could_be_read():
    """Two processes with micro-batches of two clips, of which one could not be read."""
    losses = [[1.0, 3.0], [5.0, 8.0], [6.0]]  # of the clips, by micro-batch
    here, there = UpdateSums(), UpdateSums()
    for sums, micro_batches in ((here, losses[:2]), (there, losses[2:])):
        for clips in micro_batches:
            sums.add({"loss": torch.tensor(clips).mean()}, len(clips) / 2)
    means = mean_terms([(sums.values(), sums.weight) for sums in (here, there)])
    assert means == {"loss": pytest.approx(sum(map(sum, losses)) / 5)}
    assert mean_terms([({}, 0.0), (there.values(), there.weight)]) == {"loss": 6.0}


def test_what_is_not_finite_is_seen_in_the_loss_and_in_any_gradient():
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = torch.optim.SGD(weights, lr=1)
    sums = UpdateSums()
    assert sums.is_finite(optimizer)
    weights[0].grad, weights[1].grad = torch.ones(2), torch.tensor([1.0, float("nan")])
    assert not sums.is_finite(optimizer)
    weights[1].grad = torch.ones(2)
    assert sums.is_finite(optimizer)
    sums.add({"loss": torch.tensor(float("inf"))}, 1.0)
    assert not sums.is_finite(optimizer)


def test_large_gradients_are_finite():
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.full((2,), 1e25)  # its square is not a float32
    assert UpdateSums().is_finite(torch.optim.SGD([weight], lr=1))


def test_running_statistics_leave_dropout_on():
    """In evaluation mode a batch does not change the statistics; nothing else of the model goes there."""
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5)).train()
    use_running_statistics(model)
    out = model(torch.full((64, 3), 5.0))
    assert torch.equal(model[0].running_mean, torch.zeros(3))
    assert 0 < (out == 0).float().mean() < 1
    model.train()
    model(torch.full((64, 3), 5.0))
    assert model[0].running_mean.min() > 0


def test_the_accuracy_counts_on_from_a_checkpoint():
    accuracy = RunningAccuracy(2, 3, CPU)
    accuracy.add(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    assert (accuracy.correct, accuracy.counted) == (3, 5)
    accuracy.reset()
    assert (accuracy.correct, accuracy.counted) == (0, 0)


def test_gradients_are_clipped_by_the_norm_of_all_together():
    a, b, frozen = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    optimizer = torch.optim.SGD([{"params": [a, frozen]}, {"params": [b], "lr": 0.1}], lr=1)
    clip_gradients(optimizer, 10)
    assert (a.grad.tolist(), b.grad.tolist()) == ([3, 0], [0, 4])
    clip_gradients(optimizer, 1)
    torch.testing.assert_close(torch.cat([a.grad, b.grad]), torch.tensor([0.6, 0, 0, 0.8]))


@pytest.mark.slow
def test_a_run_clips_and_a_loose_bound_changes_nothing(data, tmp_path):
    def slopes(name: str, *more: str) -> list[float]:
        start(data, tmp_path / name, "trainer.epochs=1", "optim.weight_decay=0", *more).succeed()
        return [row["vmp/slope"] for row in read_metrics(folder(tmp_path / name)) if row["kind"] == "train"]

    free = slopes("free")
    assert slopes("loose", "optim.clip_norm=1e6") == free
    tight = slopes("tight", "optim.clip_norm=1e-9")
    assert max(tight) - min(tight) < 1e-5 < max(free) - min(free)


class OfTwo(Processes):
    """The first of two processes, of which the other could not read one clip."""

    def gather(self, value):
        found = isinstance(value, tuple) and len(value) == 3
        return [value, ({"other": "unreadable"}, 0, 0)] if found else [value]


def test_unreadable_clips_of_all_processes_count_together(tmp_path):
    """One clip on each of two processes, where 15% of ten are allowed: neither notices alone."""
    clips = tuple(Clip(str(n), f"{n}.mp4", n % 2, frames=8) for n in range(10))
    manifest = Manifest(tmp_path / "train.csv", tmp_path, ("a", "b"), clips)
    shape = ClipShape(frames=2, stride=1, crop=8, jitter=(8, 8), test_side=8, test_crop=8)
    data = TrainClips(manifest, Present(clips, ("pyav",) * 10, 10), shape, seed=0)

    def read(index, *args, **options):
        if index == 3:
            raise VideoReadError("3.mp4", "gone")
        return np.zeros((2, 8, 8, 3), np.uint8)

    data._read = read  # type: ignore[method-assign]
    model = nn.Linear(1, 2)
    model.forward = lambda clips: SimpleNamespace(  # type: ignore[method-assign]
        logits=nn.functional.linear(clips.float().mean(dim=(1, 2, 3, 4))[:, None], model.weight),
        variations={},
    )

    def train(processes: Processes) -> TrainingState:
        state = TrainingState()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        TrainingLoop(
            learner=Learner(model, optimizer, torch.amp.GradScaler("cpu", enabled=False)),
            state=state,
            objective=Objective(),
            schedule=lambda epoch: 1.0,
            data=data,
            evaluate=None,
            scalars=dict,
            describe=str,
            plan=TrainingPlan(epochs=1, batch=5, micro_batch=5, world=1, clips=10, seed=0),
            settings=LoopSettings(max_bad_fraction=0.15),
            processes=processes,
            folder=tmp_path,
            metrics=Metrics(None),
            log=Log(None),
            stopping=Stopping(),
        ).run()
        return state

    assert train(Processes(0, 1, CPU)).bad == {"3": "unreadable: 3.mp4: gone"}
    with pytest.raises(DataError, match=r"training: 2 of 10 clips cannot be used(.|\n)*3.mp4(.|\n)*other"):
        train(OfTwo(0, 1, CPU))
