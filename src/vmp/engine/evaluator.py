"""Testing: every clip of a split once, its views summed, the scores turned into top-1, top-5 and mean class accuracy.

Notable here:
- clips are dealt to processes one by one, with no padding and no repeats, and merged by clip;
- a clip that cannot be read gets no score: it is listed, and `top1_lower_bound` counts it as wrong;
- accuracies are in percent and micro-averaged over clips unless they are named otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vmp.data.dataset import TestClips, end_workers, loader_processes
from vmp.data.shared import Sending
from vmp.engine.dist import Processes
from vmp.engine.faults import told
from vmp.errors import RunError, VideoReadError
from vmp.progress import bar

ROWS_AT_ONCE = 1024  # clips whose scores are compared at a time
PIXELS_AT_ONCE = 64 * 8 * 224 * 224  # frames x height x width of the views of one forward pass


@dataclass(frozen=True, slots=True)
class Scores:
    """Of the clips that could be read, in the split's order. scores: (N, classes), summed over views; losses: (N,),
    the cross-entropy of the mean over views, of probabilities or logits as they are summed."""

    indices: np.ndarray
    scores: np.ndarray
    losses: np.ndarray
    bad: dict[int, str]
    variation: float | None  # mean over distinct views of V summed over pathways; None without prompts


@torch.inference_mode()
def score(
    model: nn.Module,
    dataset: TestClips,
    *,
    processes: Processes,
    reduce: str,
    workers: int = 0,
    timeout: float = 0.0,
    autocast: torch.dtype | None = None,
    name: str = "test",
    between: Callable[[], None] = lambda: None,
) -> Scores:
    """Score every clip of the split once; every process gets all of them.

    Args:
        model: clips (V, 3, T, H, W) uint8 -> an output with `logits` and `variations`.
        reduce: what is summed over views, "probs" or "logits".
        between: called after each batch; it may raise.
    """
    mine = list(range(processes.rank, len(dataset), processes.world))
    loader: DataLoader = DataLoader(
        dataset,
        sampler=mine,
        batch_size=clips_at_once(dataset.temporal * dataset.spatial),
        collate_fn=Sending(_keep),
        pin_memory=processes.device.type == "cuda",
        **loader_processes(dataset, workers, timeout=timeout),
    )
    model.eval()
    found: list[tuple[int, Tensor, float]] = []
    bad: dict[int, str] = {}
    variation: list[float] = []
    with told(dataset.being_read, between), _ended(), bar(name, len(mine), shown=processes.first) as shown:
        for items in loader:
            good = [(i, x, w) for i, x, w in items if isinstance(x, Tensor)]
            bad |= {i: f"unreadable: {x}" for i, x, _ in items if isinstance(x, VideoReadError)}
            if good:
                # (V of all clips, 3, T, H, W)
                views = torch.cat([x.to(processes.device, non_blocking=True) for _, x, _ in good])
                logits, variations = [], []
                for chunk in views.split(max(1, PIXELS_AT_ONCE // views[0, 0].numel())):
                    with torch.autocast(processes.device.type, dtype=autocast, enabled=autocast is not None):
                        out = model(chunk)
                    logits.append(out.logits.float())
                    if out.variations:
                        variations.append(sum(v.double() for v in out.variations.values()).expand(len(chunk)))
                each = torch.cat(logits).cpu()
                variation += torch.cat(variations).tolist() if variations else []
                at = 0
                for index, x, weights in good:
                    own = each[at : at + len(x)]
                    loss = _cross_entropy(own, weights, dataset.present.clips[index].label, reduce=reduce)
                    own = own.softmax(dim=1) if reduce == "probs" else own
                    found.append((index, (own * weights[:, None]).sum(dim=0), loss))
                    at += len(x)
            shown.advance(len(items))
            between()
        parts = processes.gather((found, bad, variation))
    everything = sorted(
        ((i, s.numpy(), loss) for part, _, _ in parts for i, s, loss in part), key=lambda f: f[0]
    )
    indices = np.array([i for i, _, _ in everything], dtype=np.int64)
    assert len(set(indices.tolist())) == len(indices), "a clip was scored twice"
    all_bad = {i: reason for _, part, _ in parts for i, reason in part.items()}
    values = [v for _, _, part in parts for v in part]
    scores = np.stack([s for _, s, _ in everything]) if everything else np.zeros((0, 0), np.float32)
    losses = np.array([loss for _, _, loss in everything])
    if not np.isfinite(scores).all():
        raise RunError(f"{name}: the model gives scores that are not finite; the run has diverged")
    return Scores(indices, scores, losses, all_bad, float(np.mean(values)) if values else None)


def _cross_entropy(logits: Tensor, weights: Tensor, label: int, *, reduce: str) -> float:
    """Of one clip, in float64: logits (V, classes), weights (V,) of its views."""
    logits, shares = logits.double(), weights.double() / weights.sum()
    if reduce == "probs":
        return -float((shares.log() + logits.log_softmax(dim=1)[:, label]).logsumexp(dim=0))
    return -float((logits * shares[:, None]).sum(dim=0).log_softmax(dim=0)[label])


def ranks(scores: Scores, labels: Sequence[int]) -> np.ndarray:
    """Of each scored clip, how many classes come before its true one: (N,), 0 where the top class is right.

    Equal scores are ordered by class number, as in `best_classes`.
    """
    target = np.array([labels[i] for i in scores.indices], dtype=np.int64)
    found = np.empty(len(target), dtype=np.int64)
    numbers = np.arange(scores.scores.shape[1])
    for at in range(0, len(target), ROWS_AT_ONCE):
        rows = slice(at, at + ROWS_AT_ONCE)
        values, true = scores.scores[rows], target[rows, None]
        own = np.take_along_axis(values, true, axis=1)
        found[rows] = ((values > own) | ((values == own) & (numbers < true))).sum(axis=1)
    return found


def best_classes(scores: np.ndarray, k: int) -> np.ndarray:
    """(N, classes) -> the k best classes of each clip, best first; equal scores in the order of their numbers."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def clips_at_once(views: int) -> int:
    """Clips of a loader's batch, each with all its views."""
    return max(1, 32 // views)


def accuracies(scores: Scores, labels: Sequence[int], *, expected: int) -> dict[str, float]:
    """Percentages: top1, top5, mean_class over the classes that occur, and top1_lower_bound, which counts clips that
    could not be scored as wrong. Clips are counted in whole numbers, so that 3 of 400 are 0.75 exactly.

    Args:
        labels: of all usable clips of the split.
        expected: clips that the split should have, missing ones included.

    Raises:
        RunError: no clip could be scored.
    """
    clips = len(scores.indices)
    if not clips:
        raise RunError("no clip of the split could be read, so there is nothing to measure")
    rank = ranks(scores, labels)
    top1, top5 = (int((rank < k).sum()) for k in (1, 5))
    by_class = class_accuracies(scores, labels, classes=scores.scores.shape[1])
    return {
        "top1": 100 * top1 / clips,
        "top5": 100 * top5 / clips,
        "mean_class": float(np.mean([100 * right / n for n, right in by_class if n])),
        "top1_lower_bound": 100 * top1 / expected,
    }


def reported(scores: Scores, labels: Sequence[int]) -> dict[str, float]:
    """top1, top5 and mean_class of a final test, counted by torchmetrics; what `accuracies` counts without it.

    Scores are handed over as places in the order of `best_classes`, so that no two are equal.
    """
    import torchmetrics.functional.classification as tm  # seconds: only for the test that is reported

    target = torch.tensor([labels[i] for i in scores.indices])
    clips, classes = scores.scores.shape
    counts = {
        k: torch.zeros(classes, 5, dtype=torch.long) for k in (1, 5)
    }  # tp, fp, tn, fn, clips of each class
    for at in range(0, clips, ROWS_AT_ONCE):
        rows = slice(at, at + ROWS_AT_ONCE)
        places = np.argsort(
            best_classes(scores.scores[rows], classes), axis=1
        )  # (N, classes), 0 for the best
        values = torch.from_numpy(-places.astype(np.float32))
        for k, count in counts.items():
            count += tm.multiclass_stat_scores(
                values, target[rows], num_classes=classes, average=None, top_k=min(k, classes)
            )
    right, of = counts[1][:, 0].double(), counts[1][:, 4].double()
    top1, top5 = (100 * int(counts[k][:, 0].sum()) / clips for k in (1, 5))
    return {"top1": top1, "top5": top5, "mean_class": float((100 * right / of)[of > 0].mean())}


def class_accuracies(scores: Scores, labels: Sequence[int], *, classes: int) -> list[tuple[int, int]]:
    """(clips, right ones) of each class."""
    target = np.array([labels[i] for i in scores.indices], dtype=np.int64)
    right = target[ranks(scores, labels) == 0] if len(target) else target
    counts = np.bincount(target, minlength=classes), np.bincount(right, minlength=classes)
    return list(zip(counts[0].tolist(), counts[1].tolist(), strict=True))


@contextmanager
def _ended() -> Iterator[None]:
    try:
        yield
    except BaseException:
        end_workers()
        raise


def _keep(items: list) -> list:
    return items
