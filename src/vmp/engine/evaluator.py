"""Testing: every clip of a split once, its views summed, the scores turned into top-1, top-5 and mean class accuracy.

Notable here:
- clips are dealt to processes one by one, with no padding and no repeats, and merged by clip;
- a clip that cannot be read gets no score: it is listed, and `top1_lower_bound` counts it as wrong;
- accuracies are in percent and micro-averaged over clips unless they are named otherwise.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vmp.data.dataset import TestClips, end_workers, loader_processes
from vmp.data.manifest import Clip
from vmp.engine.dist import Processes
from vmp.engine.faults import told
from vmp.errors import RunError, VideoReadError
from vmp.progress import bar

PIXELS_AT_ONCE = 64 * 8 * 224 * 224  # frames x height x width of the views of one forward pass


@dataclass(frozen=True, slots=True)
class Scores:
    """Of the clips that could be read, in the split's order. scores: (N, classes), summed over views."""

    indices: np.ndarray
    scores: np.ndarray
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
        batch_size=max(1, 32 // (dataset.temporal * dataset.spatial)),  # of clips with all their views
        collate_fn=_keep,
        pin_memory=processes.device.type == "cuda",
        **loader_processes(dataset, workers, timeout=timeout),
    )
    model.eval()
    found: list[tuple[int, Tensor]] = []
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
                each = each.softmax(dim=1) if reduce == "probs" else each
                at = 0
                for index, x, weights in good:
                    found.append((index, (each[at : at + len(x)] * weights[:, None]).sum(dim=0)))
                    at += len(x)
            shown.advance(len(items))
            between()
        parts = processes.gather((found, bad, variation))
    everything = sorted(((i, s.numpy()) for part, _, _ in parts for i, s in part), key=lambda pair: pair[0])
    indices = np.array([i for i, _ in everything], dtype=np.int64)
    assert len(set(indices.tolist())) == len(indices), "a clip was scored twice"
    all_bad = {i: reason for _, part, _ in parts for i, reason in part.items()}
    values = [v for _, _, part in parts for v in part]
    scores = np.stack([s for _, s in everything]) if everything else np.zeros((0, 0), np.float32)
    if not np.isfinite(scores).all():
        raise RunError(f"{name}: the model gives scores that are not finite; the run has diverged")
    return Scores(indices, scores, all_bad, float(np.mean(values)) if values else None)


def accuracies(scores: Scores, labels: Sequence[int], *, expected: int) -> dict[str, float]:
    """Percentages: top1, top5 (top-k of as many classes as there are, if fewer), mean_class over the classes that
    occur, and top1_lower_bound, which counts clips that could not be scored as wrong.

    Args:
        labels: of all usable clips of the split.
        expected: clips that the split should have, missing ones included.
    """
    if not len(scores.indices):
        raise RunError("no clip of the split could be read, so there is nothing to measure")
    from torchmetrics.functional.classification import multiclass_accuracy

    target = torch.tensor([labels[i] for i in scores.indices])
    values = torch.from_numpy(scores.scores)
    classes = values.shape[1]
    top1, top5 = (
        multiclass_accuracy(
            values, target, num_classes=classes, average="micro", top_k=min(k, classes)
        ).item()
        * 100
        for k in (1, 5)
    )
    by_class = class_accuracies(scores, labels, classes=classes)
    return {
        "top1": top1,
        "top5": top5,
        "mean_class": float(np.mean([100 * right / n for n, right in by_class if n])),
        "top1_lower_bound": top1 * len(target) / expected,
    }


def class_accuracies(scores: Scores, labels: Sequence[int], *, classes: int) -> list[tuple[int, int]]:
    """(clips, right ones) of each class."""
    target = np.array([labels[i] for i in scores.indices])
    right = target[scores.scores.argmax(axis=1) == target] if len(target) else target
    counts = np.bincount(target, minlength=classes), np.bincount(right, minlength=classes)
    return list(zip(counts[0].tolist(), counts[1].tolist(), strict=True))


def write_predictions(
    folder: Path, scores: Scores, clips: Sequence[Clip], classes: Sequence[str], *, missing: Mapping[str, str]
) -> None:
    """predictions.csv, a row a clip with its five best classes and why it has none, and per_class.csv."""
    best = np.argsort(-scores.scores, axis=1, kind="stable")[:, :5]
    bad = {clips[i].id: reason for i, reason in scores.bad.items()} | dict(missing)
    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "label", "predicted", "score", "top5", "problem"])
        for index, row, top in zip(scores.indices.tolist(), scores.scores, best, strict=True):
            five = " ".join(str(c) for c in top)
            writer.writerow([clips[index].id, clips[index].label, top[0], f"{row[top[0]]:.6g}", five, ""])
        writer.writerows([clip_id, "", "", "", "", reason] for clip_id, reason in sorted(bad.items()))
    counts = class_accuracies(scores, [c.label for c in clips], classes=len(classes))
    with open(folder / "per_class.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "name", "clips", "right", "accuracy"])
        for label, (n, right) in enumerate(counts):
            writer.writerow([label, classes[label], n, right, f"{100 * right / n:.2f}" if n else ""])


@contextmanager
def _ended() -> Iterator[None]:
    try:
        yield
    except BaseException:
        end_workers()
        raise


def _keep(items: list) -> list:
    return items
