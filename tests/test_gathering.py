"""What processes bring together: rows of tensors and scores on the first, flags on all."""

from datetime import timedelta
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed
from runs import CONTEXT
from torch import nn

from vmp.data.dataset import ClipShape, TestClips
from vmp.data.manifest import read_manifest
from vmp.data.present import find_clips
from vmp.engine import dist
from vmp.engine.dist import Processes
from vmp.engine.evaluator import score
from vmp.errors import DataError, RunError, VideoReadError

CPU = torch.device("cpu")
WORLD = 3


# --- rows and flags ------------------------------------------------------------------------------------------------

TYPES = (torch.float32, torch.float64, torch.int64)
COUNTS = ((0, 0, 0), (5, 0, 1), (2, 3, 3), (0, 17, 4))  # rows of each process


def rows(rank: int, counts: tuple[int, ...], dtype: torch.dtype, width: tuple[int, ...]) -> torch.Tensor:
    numbers = torch.arange(counts[rank] * int(np.prod(width))) + 1000 * rank
    return numbers.to(dtype).reshape(counts[rank], *width)


CASES = tuple(product((1, 200, 2**26), COUNTS, TYPES, ((), (7,))))  # bytes at once, ..., shape of a row


def gather_cases(here: Processes) -> list[np.ndarray | None]:
    found = []
    for at_once, counts, dtype, width in CASES:
        dist.AT_ONCE = at_once
        got = here.collect(rows(here.rank, counts, dtype, width))
        found.append(None if got is None else got.numpy())
    return found


# --- scores --------------------------------------------------------------------------------------------------------


class Grey(nn.Module):
    """Logits from whole numbers, so that no batch rounds them otherwise. broken: the first pixel that has no score."""

    def __init__(self, broken: int | None = None) -> None:
        super().__init__()
        self.broken = broken

    def forward(self, clips: torch.Tensor) -> SimpleNamespace:
        sums = clips.flatten(1).to(torch.int64).sum(dim=1)  # (V,)
        logits = torch.stack([sums % 97, sums % 89, sums % 83], dim=1) / 16
        if self.broken is not None:
            logits[sums % 7 == self.broken] = torch.nan
        return SimpleNamespace(logits=logits, variations={"": clips[:, 0, 0, 0].double().mean()})


class Some(TestClips):
    """With clips that cannot be read."""

    __test__ = False
    unreadable: tuple[int, ...] = ()

    def __getitem__(self, index: int):
        if index in self.unreadable:
            return index, VideoReadError(self.root, "gone"), torch.zeros(0)
        return super().__getitem__(index)


def test_clips(data, unreadable: tuple[int, ...]) -> Some:
    manifest = read_manifest(data / "val.csv")
    shape = ClipShape(frames=4, stride=1, crop=16, jitter=(32, 32), test_side=32, test_crop=16)
    clips = Some(manifest, find_clips(manifest, max_bad_fraction=0), shape, temporal=2, spatial=3)
    clips.unreadable = unreadable
    return clips


test_clips.__test__ = False


UNREADABLE = ((), (4,), (1, 4, 7), tuple(range(9)))  # 1, 4 and 7 are all that the second process reads


def score_cases(here: Processes, data) -> list:
    def score_with(unreadable, *, broken=None, **options):
        try:
            clips = test_clips(data, unreadable)
            return score(Grey(broken), clips, processes=here, reduce="probs", **options)
        except (RunError, DataError) as error:
            return str(error)

    def refuse(bad: dict[int, str]) -> None:
        raise DataError(f"{len(bad)} clips")

    found = [score_with(unreadable) for unreadable in UNREADABLE]
    return [*found, score_with((), broken=3), score_with((4, 5), check=refuse)]


# --- three processes -----------------------------------------------------------------------------------------------


def as_rank(rank: int, store: str, data, out) -> None:
    file = torch.distributed.FileStore(store, WORLD)
    torch.distributed.init_process_group(
        "gloo", store=file, rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    here, nothing = Processes(rank, WORLD, CPU), torch.tensor(False)
    try:
        flags = here.maximum([torch.tensor(rank == 1), rank == 2, 10 * rank, nothing])
        out.put((rank, (gather_cases(here), score_cases(here, data), flags)))
    except Exception as error:
        out.put((rank, repr(error)))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def by_rank(data, tmp_path_factory) -> list:
    """Rows, scores and flags as each of three processes gets them."""
    out, store = CONTEXT.SimpleQueue(), tmp_path_factory.mktemp("gathering") / "store"
    each = [CONTEXT.Process(target=as_rank, args=(rank, str(store), data, out)) for rank in range(WORLD)]
    for one in each:
        one.start()
    found = dict(out.get() for _ in each)
    for one in each:
        one.join(60)
        assert one.exitcode == 0
    return [found[rank] for rank in range(WORLD)]


def test_rows_come_together_on_the_first_process_however_they_are_cut(by_rank):
    first, *others = (one[0] for one in by_rank)
    for got, (_, counts, dtype, width) in zip(first, CASES, strict=True):
        wanted = torch.cat([rows(rank, counts, dtype, width) for rank in range(WORLD)]).numpy()
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)
    assert others == [[None] * len(CASES)] * 2


def test_every_process_has_the_largest_flags(by_rank):
    assert [one[2] for one in by_rank] == [[1, 1, 20, 0]] * WORLD


def test_three_processes_score_as_one(data, by_rank):
    found = [one[1] for one in by_rank]
    alone = score_cases(Processes(0, 1, CPU), data)
    for first, *others, one, unreadable in zip(*found, alone, UNREADABLE, strict=False):
        assert others == [None, None]
        assert one.indices.tolist() == [i for i in range(9) if i not in unreadable]
        for name in ("indices", "scores", "losses"):
            np.testing.assert_array_equal(getattr(first, name), getattr(one, name))
        assert first.scores.dtype == one.scores.dtype == np.float32
        assert first.bad == one.bad
        assert one.bad.keys() == set(unreadable)
        assert first.variation == (None if len(unreadable) == 9 else pytest.approx(one.variation, rel=1e-12))


def test_what_one_process_finds_wrong_ends_all(by_rank):
    said = ["test: the model gives scores that are not finite; the run has diverged", "2 clips"]
    assert [one[1][-2:] for one in by_rank] == [said] * WORLD
