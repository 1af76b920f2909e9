"""Tests a model: scores every clip of a split once, over all its views, and counts top-1, top-5 and mean class.

Notable here:
- clips are distributed over processes one by one, without padding or repeats, and scores are merged by clip;
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
from vmp.data.shared import SharedMemoryCollate
from vmp.engine.dist import Processes
from vmp.engine.faults import explain_torch_errors
from vmp.errors import RunError, VideoReadError
from vmp.progress import bar

ROWS_AT_ONCE = 1024  # clips ranked at a time, which bounds memory
PIXELS_AT_ONCE = 64 * 8 * 224 * 224  # frames x height x width of the views of one forward pass


@dataclass(frozen=True, slots=True)
class Scores:
    """The N clips that could be read, in the split's order.

    indices: (N,) of the split's usable clips.
    scores: (N, classes), probabilities or logits summed over views.
    losses: (N,), cross-entropy of the mean over views.
    bad: index -> why the clip could not be read.
    variation: mean over distinct views of V summed over pathways; None without prompts.
    """

    indices: np.ndarray
    scores: np.ndarray
    losses: np.ndarray
    bad: dict[int, str]
    variation: float | None


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
    """Score every clip of the split once; every process returns all scores.

    Args:
        model: clips (V, 3, T, H, W) uint8 -> an output with `logits` and `variations`.
        reduce: what is summed over views, "probs" or "logits".
        between: is called after each batch and may raise.
    """
    mine = list(range(processes.rank, len(dataset), processes.world))
    loader: DataLoader = DataLoader(
        dataset,
        sampler=mine,
        batch_size=clips_at_once(dataset.temporal * dataset.spatial),
        collate_fn=SharedMemoryCollate(_keep),
        pin_memory=processes.device.type == "cuda",
        **loader_processes(dataset, workers, timeout=timeout),
    )
    model.eval()
    found: dict[int, tuple[np.ndarray, float]] = {}  # index -> scores, loss
    bad: dict[int, str] = {}
    variation: list[float] = []
    with (
        explain_torch_errors(dataset.being_read, between),
        _ending_workers_on_errors(),
        bar(name, len(mine), shown=processes.first) as shown,
    ):
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
                    found[index] = (own * weights[:, None]).sum(dim=0).numpy(), loss
                    at += len(x)
            shown.advance(len(items))
            between()
        parts = processes.gather((found, bad, variation))
    merged = {index: pair for part, _, _ in parts for index, pair in part.items()}
    assert len(merged) == sum(len(part) for part, _, _ in parts), "a clip was scored twice"
    indices = sorted(merged)
    scores = np.stack([merged[i][0] for i in indices]) if merged else np.zeros((0, 0), np.float32)
    if not np.isfinite(scores).all():
        raise RunError(f"{name}: the model gives scores that are not finite; the run has diverged")
    losses = np.array([merged[i][1] for i in indices])
    all_bad = {i: reason for _, part, _ in parts for i, reason in part.items()}
    values = [v for _, _, part in parts for v in part]
    mean = float(np.mean(values)) if values else None
    return Scores(np.array(indices, dtype=np.int64), scores, losses, all_bad, mean)


def _cross_entropy(logits: Tensor, weights: Tensor, label: int, *, reduce: str) -> float:
    """Cross-entropy of one clip in float64. logits (V, classes), weights (V,) of its V views."""
    logits, shares = logits.double(), weights.double() / weights.sum()
    if reduce == "probs":
        return -float((shares.log() + logits.log_softmax(dim=1)[:, label]).logsumexp(dim=0))
    return -float((logits * shares[:, None]).sum(dim=0).log_softmax(dim=0)[label])


def ranks(scores: Scores, labels: Sequence[int]) -> np.ndarray:
    """(N,), how many classes rank above each clip's true one; 0 where the prediction is correct.

    Equal scores rank by class number, as in `best_classes`.
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
    """(N, classes) -> (N, k), the k best classes of each clip, best first; equal scores by class number."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def clips_at_once(views: int) -> int:
    """Clips in a batch of the loader, where each clip has this many views."""
    return max(1, 32 // views)


def accuracies(scores: Scores, labels: Sequence[int], *, expected: int) -> dict[str, float]:
    """top1, top5, mean_class over the classes that occur, and top1_lower_bound, which counts clips without a score as
    wrong; all in percent. Clips are counted in whole numbers, so that 3 of 400 are 0.75 exactly.

    Args:
        labels: of the split's usable clips.
        expected: clips in the split, missing ones included.

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
    """top1, top5 and mean_class as torchmetrics counts them, for the final test of a run; equal to `accuracies`.

    torchmetrics gets ranks in place of scores, so that ties are broken as in `best_classes`.
    """
    import torchmetrics.functional.classification as tm  # takes seconds to import, so only here

    target = torch.tensor([labels[i] for i in scores.indices])
    clips, classes = scores.scores.shape
    # by k, for each class: tp, fp, tn, fn, clips
    counts = {k: torch.zeros(classes, 5, dtype=torch.long) for k in (1, 5)}
    for at in range(0, clips, ROWS_AT_ONCE):
        rows = slice(at, at + ROWS_AT_ONCE)
        places = best_classes(scores.scores[rows], classes).argsort(axis=1)  # (N, classes), 0 for the best
        values = torch.from_numpy(-places.astype(np.float32))
        for k, count in counts.items():
            best = {"num_classes": classes, "average": None, "top_k": min(k, classes)}
            count += tm.multiclass_stat_scores(values, target[rows], **best)
    right, of = counts[1][:, 0].double(), counts[1][:, 4].double()
    top1, top5 = (100 * int(counts[k][:, 0].sum()) / clips for k in (1, 5))
    return {"top1": top1, "top5": top5, "mean_class": float((100 * right / of)[of > 0].mean())}


def class_accuracies(scores: Scores, labels: Sequence[int], *, classes: int) -> list[tuple[int, int]]:
    """(clips, correctly classified ones) of each class."""
    target = np.array([labels[i] for i in scores.indices], dtype=np.int64)
    right = target[ranks(scores, labels) == 0]
    clips, correct = (np.bincount(found, minlength=classes).tolist() for found in (target, right))
    return list(zip(clips, correct, strict=True))


@contextmanager
def _ending_workers_on_errors() -> Iterator[None]:
    try:
        yield
    except BaseException:
        end_workers()
        raise


def _keep(items: list) -> list:
    return items
