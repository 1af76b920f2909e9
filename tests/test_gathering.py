"""What processes bring together: rows of tensors and scores on the first, flags on all."""

import time
from datetime import timedelta
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed
from runs import CONTEXT
from torch import nn

from vmp.data.dataset import ClipShape, TestClips, read_ahead, stream_views
from vmp.data.manifest import read_manifest
from vmp.data.present import find_clips
from vmp.engine import dist, evaluator
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
        dist.BYTES_AT_ONCE = at_once
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

    def _read(self, index: int, *args, **options):
        if index in self.unreadable:
            raise VideoReadError(self.root, "gone")
        return super()._read(index, *args, **options)


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
    return [*found, score_with((), broken=3), score_with((4, 5), check_bad=refuse)]


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


# --- views in pieces -----------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A network whose float32 logits depend, in their last bits, on how it is called; with a variation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU(), nn.Conv3d(8, 16, 2), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, clips: torch.Tensor) -> SimpleNamespace:
        features = self.layers(clips.float() / 255).mean(dim=(2, 3, 4))
        return SimpleNamespace(logits=self.head(features), variations={"": features.square().mean()})


@torch.inference_mode()
def score_whole(model: nn.Module, clips: TestClips, *, at_once: int, pixels: int) -> tuple[list, list, float]:
    """Slow reference: whole clips, read in order, in batches of `at_once` clips and chunks of `pixels`."""
    scores, losses, variation = [], [], []
    for begin in range(0, len(clips), at_once):
        items = [clips[i] for i in range(begin, min(begin + at_once, len(clips)))]
        items = [item for item in items if isinstance(item[1], torch.Tensor)]
        if not items:
            continue
        chunks = torch.cat([views for _, views, _ in items]).split(max(1, pixels // (4 * 16 * 16)))
        outs = [model(chunk) for chunk in chunks]
        variation += [out.variations[""].double() for out, c in zip(outs, chunks, strict=True) for _ in c]
        rows = torch.cat([out.logits for out in outs]).split([len(weights) for *_, weights in items])
        for (index, _, weights), row in zip(items, rows, strict=True):
            scores.append((row.softmax(dim=1) * weights[:, None]).sum(dim=0).numpy())
            each = row.double().log_softmax(dim=1)[:, clips.present.clips[index].label]
            shares = weights.double() / weights.sum()
            losses.append(-float((shares.log() + each).logsumexp(dim=0)))
    return scores, losses, float(np.mean(variation))


@pytest.mark.parametrize(
    ("at_once", "pixels", "workers"), [(1, 4 * 1024, 2), pytest.param(4, 5 * 1024, 0, marks=pytest.mark.slow)]
)
def test_views_in_pieces_give_the_same_bits_as_whole_clips(data, monkeypatch, at_once, pixels, workers):
    """However many views a piece has, and however many processes read them. Each clip has six views of 3 kB."""
    monkeypatch.setattr(evaluator, "PIXELS_AT_ONCE", pixels)
    clips, model = test_clips(data, (1, 4)), Small()
    clips.views_per_piece = 6
    wanted = score_whole(model, clips, at_once=at_once, pixels=pixels)
    for views in (1, 4):
        clips.views_per_piece = views
        assert len(list(clips.pieces(0))) == -(-6 // views)
        here = Processes(0, 1, CPU)
        got = score(model, clips, processes=here, reduce="probs", at_once=at_once, workers=workers)
        assert got.indices.tolist() == [0, 2, 3, 5, 6, 7, 8]
        assert sorted(got.bad) == [1, 4]
        np.testing.assert_array_equal(got.scores, wanted[0])
        np.testing.assert_array_equal(got.losses, wanted[1])
        assert got.variation == wanted[2]


class Uneven(Some):
    """Whose first clip takes much longer than the others."""

    def _read(self, index: int, *args, **options):
        time.sleep(0.5 * (index == 0))
        return super()._read(index, *args, **options)


def test_pieces_come_in_order_whichever_process_is_first(data):
    manifest = read_manifest(data / "val.csv")
    shape = ClipShape(frames=4, stride=1, crop=16, jitter=(32, 32), test_side=32, test_crop=16)
    clips = Uneven(manifest, find_clips(manifest, max_bad_fraction=0), shape, temporal=2, spatial=3)
    clips.views_per_piece = 4
    order = [8, 0, 3, 4, 1]
    found = list(stream_views(clips, order, workers=3, timeout=60, pin_memory=False))
    assert [(p.clip, len(p.views), p.last) for p in found] == [
        (clip, *piece) for clip in order for piece in ((4, False), (2, True))
    ]
    for index in order:
        views = torch.cat([piece.views for piece in found if piece.clip == index])
        assert torch.equal(views, clips[index][1])


@pytest.mark.parametrize(("frames", "crop"), [(33, 256), (9, 224), (4, 16), (65, 512)])
def test_what_a_process_reads_ahead_is_bounded(frames, crop):
    shape = ClipShape(frames=frames, stride=1, crop=crop, jitter=(crop, crop), test_side=crop, test_crop=crop)
    view = 3 * frames * crop * crop
    for views in (1, 3, 30):
        each, pieces = read_ahead(shape, views)
        assert each <= views
        assert pieces >= 2  # so that one is made while another is used
        assert each * pieces * view <= max(25e6, 2 * view)
