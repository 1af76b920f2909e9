"""Test a model: score every clip of a split once, over all its views, and compute top-1, top-5 and mean class accuracy.

Notes:
- clips are distributed over the processes one by one, without padding or repeats. The first process gathers all scores
  and sorts them by clip; the others get none;
- views arrive in pieces (data/dataset.py) and go through the model in chunks of a fixed size, so neither memory nor
  results depend on the number of views or on how they were split;
- a clip that cannot be read gets no score: it is listed, and `top1_lower_bound` counts it as wrong;
- accuracies are in percent and averaged over clips unless their name says otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from vmp.data.dataset import Piece, TestClips, end_workers, stream_views
from vmp.engine.dist import Processes
from vmp.engine.faults import explain_torch_errors
from vmp.errors import RunError, VideoReadError
from vmp.progress import bar

ROWS_AT_ONCE = 1024  # clips ranked at a time, which bounds memory
PIXELS_AT_ONCE = 64 * 8 * 224 * 224  # views x frames x height x width of one forward pass


@dataclass(frozen=True, slots=True)
class Scores:
    """The N clips that could be read, in the split's order.

    indices: (N,), their places among the split's usable clips.
    scores: (N, classes), probabilities or logits summed over views.
    losses: (N,), cross-entropy of the mean over views.
    bad: index -> why the clip could not be read.
    variation: V summed over pathways, as the mean over distinct views; None without prompts.
    attention: pathway with prompts -> mean attention, if it was measured.
    """

    indices: np.ndarray
    scores: np.ndarray
    losses: np.ndarray
    bad: dict[int, str]
    variation: float | None
    attention: dict[str, float] = field(default_factory=dict)


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
    check_stop: Callable[[], None] = lambda: None,
    at_once: int | None = None,
    check_bad: Callable[[dict[int, str]], None] = lambda bad: None,
    scored: Callable[[Sequence[int], Tensor], None] = lambda indices, scores: None,
) -> Scores | None:
    """Score every clip of the split once. Returns all scores on the first process, and None on the others.

    Args:
        model: clips (V, 3, T, H, W) uint8 -> an output with `logits` and `variations`.
        reduce: what is summed over views, "probs" or "logits".
        check_stop: called after each batch; raises Stopped if the run was asked to stop.
        at_once: number of clips whose views share chunks; None: as many as have 32 views together.
        check_bad: called on every process with the unreadable clips of all processes; raises if they are too many.
        scored: called on every process after each batch with its readable clips: indices, and scores (N, classes).

    Raises:
        RunError: a score is not finite (raised on every process).
    """
    mine = range(processes.rank, len(dataset), processes.world)
    device, batch = processes.device, at_once or clips_at_once(dataset.temporal * dataset.spatial)
    stream = stream_views(dataset, mine, workers=workers, timeout=timeout, pin_memory=device.type == "cuda")
    model.eval()
    own = _ScoresOfProcess(len(mine), reduce)
    with (
        explain_torch_errors(dataset.being_read, check_stop),
        _ending_workers_on_errors() if workers else nullcontext(),  # without, all children are the caller's
        bar(name, len(mine), shown=processes.first) as progress_bar,
    ):
        for at in range(0, len(mine), batch):
            count = len(mine[at : at + batch])
            readable: list[tuple[int, Tensor]] = []  # index and weights (V,) of each clip
            logits, variations = [], []
            for chunk in _chunks(
                stream, count, readable, own.bad, device
            ):  # (V of several clips, 3, T, H, W)
                with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                    out = model(chunk)
                logits.append(out.logits.float())
                if out.variations:
                    variations.append(sum(v.double() for v in out.variations.values()).expand(len(chunk)))
            if readable:
                labels = [dataset.present.clips[index].label for index, _ in readable]
                clip_scores = own.add(readable, labels, torch.cat(logits).cpu())
                own.variations += torch.cat(variations).tolist() if variations else []
                scored([index for index, _ in readable], clip_scores)
            progress_bar.advance(count)
            check_stop()
        return own.collect(processes, name, check_bad)


class _ScoresOfProcess:
    """The scores of the clips that one process has read so far.

    variations: V of each view.
    bad: why the other clips could not be read, by index.
    """

    def __init__(self, clips: int, reduce: str) -> None:
        self.bad: dict[int, str] = {}
        self.variations: list[float] = []
        self._clips, self._reduce = clips, reduce
        self._indices: list[int] = []
        self._losses: list[float] = []
        self._scores = torch.empty(0, 0)  # (clips, classes), filled from the start

    def add(self, readable: Sequence[tuple[int, Tensor]], labels: Sequence[int], logits: Tensor) -> Tensor:
        """Add clips from the logits of their views; returns their scores (N, classes).

        Args:
            readable: index and weights (V,) of each clip.
            logits: (V of all clips, classes), on the CPU.
        """
        if not self._indices:
            self._scores = torch.empty(self._clips, logits.shape[1])
        before = len(self._indices)
        of_clips = logits.split([len(weights) for _, weights in readable])
        for (index, weights), of_clip, label in zip(readable, of_clips, labels, strict=True):
            self._losses.append(_cross_entropy(of_clip, weights, label, reduce=self._reduce))
            of_clip = of_clip.softmax(dim=1) if self._reduce == "probs" else of_clip
            self._scores[len(self._indices)] = (of_clip * weights[:, None]).sum(dim=0)
            self._indices.append(index)
        return self._scores[before : len(self._indices)]

    def collect(
        self, processes: Processes, name: str, check_bad: Callable[[dict[int, str]], None]
    ) -> Scores | None:
        """The scores of all processes on the first one, None on the others."""
        scores = self._scores[: len(self._indices)]
        parts = processes.gather((self.bad, bool(scores.isfinite().all()), *scores.shape))
        bad = {index: reason for part, *_ in parts for index, reason in part.items()}
        check_bad(bad)
        if not all(finite for _, finite, *_ in parts):
            raise RunError(f"{name}: the model gives scores that are not finite; the run has diverged")
        classes = max(part[-1] for part in parts)
        indices = processes.collect(torch.tensor(self._indices, dtype=torch.long))
        losses = processes.collect(torch.tensor(self._losses, dtype=torch.double))
        variations = processes.collect(torch.tensor(self.variations, dtype=torch.double))
        if processes.world > 1:
            scores = gather_sorted(
                scores if self._indices else scores.new_empty(0, classes), indices, processes
            )
        if indices is None or losses is None or variations is None:
            return None
        assert len(indices.unique()) == len(indices), "a clip was scored twice"
        order = indices.argsort()
        mean = float(np.mean(variations.numpy())) if len(variations) else None
        return Scores(indices[order].numpy(), scores.numpy(), losses[order].numpy(), bad, mean)


def _chunks(
    stream: Iterator[Piece],
    clips: int,
    readable: list[tuple[int, Tensor]],
    bad: dict[int, str],
    device: torch.device,
) -> Iterator[Tensor]:
    """Yield the views of the next `clips` clips on the device, in chunks for one forward pass each.

    Afterwards `readable` has index and weights of each clip that could be read, and `bad` the others with the reasons.
    """
    waiting: list[Tensor] = []
    chunk_size = 1  # views
    while clips:
        index, views, weights, last = next(stream)
        clips -= last
        if isinstance(views, VideoReadError):
            bad[index] = f"unreadable: {views}"
            continue
        if readable and readable[-1][0] == index:  # a further piece of the same clip
            readable[-1] = index, torch.cat([readable[-1][1], weights])
        else:
            readable.append((index, weights))
        waiting.append(views.to(device, non_blocking=True))
        chunk_size = max(1, PIXELS_AT_ONCE // views[0, 0].numel())
        while sum(map(len, waiting)) >= chunk_size:
            joined = torch.cat(waiting)
            yield joined[:chunk_size]
            waiting = [joined[chunk_size:]] if len(joined) > chunk_size else []
    if waiting:
        yield torch.cat(waiting)


def gather_sorted(scores: Tensor, indices: Tensor | None, processes: Processes) -> Tensor:
    """Gather the scores of all processes on the first one, sorted by clip. They come in pieces, as they may be
    gigabytes.

    Args:
        scores: those of this process, (clips, classes).
        indices: the clip indices of all processes in rank order; None except on the first process.
    """
    # the place of each row, (N,)
    places = torch.empty(0, dtype=torch.long) if indices is None else indices.argsort().argsort()
    gathered = scores.new_empty(len(places), scores.shape[1])
    for at, piece in processes.gather_rows(scores):
        gathered.index_copy_(0, places[at : at + len(piece)], piece)
    return gathered


def _cross_entropy(logits: Tensor, weights: Tensor, label: int, *, reduce: str) -> float:
    """Cross-entropy of one clip in float64. logits (V, classes), weights (V,) of its V views."""
    logits, shares = logits.double(), weights.double() / weights.sum()
    if reduce == "probs":
        return -float((shares.log() + logits.log_softmax(dim=1)[:, label]).logsumexp(dim=0))
    return -float((logits * shares[:, None]).sum(dim=0).log_softmax(dim=0)[label])


def best_classes(scores: np.ndarray, k: int) -> np.ndarray:
    """The k best classes of each clip, best first; ties by class number. scores: (N, classes), finite -> (N, k)."""
    k = min(k, scores.shape[1])
    found = np.empty((len(scores), k), dtype=np.int64)
    for at in range(0, len(scores), ROWS_AT_ONCE):
        left = scores[at : at + ROWS_AT_ONCE].copy()
        every = np.arange(len(left))
        for place in range(k):
            best = left.argmax(axis=1)  # the first one in a tie
            found[at : at + len(left), place] = best
            left[every, best] = -np.inf
    return found


def clips_at_once(views: int) -> int:
    """Number of clips that are scored together, each with this many views."""
    return max(1, 32 // views)


def accuracies(scores: Scores, labels: Sequence[int], *, expected: int) -> dict[str, float]:
    """Accuracies in percent: top1, top5, mean_class (over the classes that occur), and top1_lower_bound.

    The last counts clips without a score as wrong. Clips are counted as integers, so 3 of 400 give exactly 0.75.

    Args:
        labels: the labels of the split's usable clips.
        expected: number of clips in the split, including missing ones.

    Raises:
        RunError: no clip could be scored.
    """
    clips = len(scores.indices)
    if not clips:
        raise RunError("no clip of the split could be read, so there is nothing to measure")
    target = _targets(scores, labels)
    right = best_classes(scores.scores, 5) == target[:, None]  # (N, 5)
    top1, top5 = int(right[:, 0].sum()), int(right.sum())
    by_class = _counts(target, right[:, 0], classes=scores.scores.shape[1])
    return {
        "top1": 100 * top1 / clips,
        "top5": 100 * top5 / clips,
        "mean_class": float(np.mean([100 * right / n for n, right in by_class if n])),
        "top1_lower_bound": 100 * top1 / expected,
    }


def class_accuracies(
    scores: Scores, labels: Sequence[int], *, classes: int, k: int = 1
) -> list[tuple[int, int]]:
    """For each class: (number of clips, number of those whose class is among the k best)."""
    target = _targets(scores, labels)
    right = (best_classes(scores.scores, k) == target[:, None]).any(axis=1)
    return _counts(target, right, classes=classes)


def _targets(scores: Scores, labels: Sequence[int]) -> np.ndarray:
    return np.array([labels[i] for i in scores.indices], dtype=np.int64)


def _counts(target: np.ndarray, right: np.ndarray, *, classes: int) -> list[tuple[int, int]]:
    clips, correct = (np.bincount(found, minlength=classes).tolist() for found in (target, target[right]))
    return list(zip(clips, correct, strict=True))


@contextmanager
def _ending_workers_on_errors() -> Iterator[None]:
    try:
        yield
    except BaseException:
        end_workers()
        raise
