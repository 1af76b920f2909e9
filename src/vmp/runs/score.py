"""Test a model with a run's settings: after an epoch, for the result, and again later with evaluate.py."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vmp.build import clip_shape
from vmp.config import Config
from vmp.data.columns import Clip, Clips
from vmp.data.manifest import Manifest
from vmp.data.present import Present, check_bad, check_rates, find_clips
from vmp.datasets import find_splits, kept_clips
from vmp.machine import cpus
from vmp.pathways import shown_scalars
from vmp.ranks import read_rank
from vmp.runs import records
from vmp.runs.records import RESULT_FILE, has_top5, read_result

if TYPE_CHECKING:
    from torch import Tensor

    from vmp.data.dataset import TestClips
    from vmp.engine.dist import Processes
    from vmp.engine.evaluator import Scores
    from vmp.model import PromptedClassifier
    from vmp.runs.open import Opened


class Split(NamedTuple):
    """A split of the run's dataset, and which of its clips can be used."""

    name: str
    manifest: Manifest
    present: Present

    @property
    def labels(self) -> list[int]:
        """The label of each usable clip."""
        return Clips.of(self.present.clips).numbers("label").tolist()

    def unscored(self, bad: dict[int, str]) -> dict[str, str]:
        """Clip id -> why it has no score. bad: the same of usable clips, by index."""
        return {self.present.clips[i].id: why for i, why in bad.items()} | self.present.bad

    def test_clips(
        self, config: Config, model: "PromptedClassifier", *, views: tuple[int, int] = (1, 1)
    ) -> "TestClips":
        """The usable clips, as the model is tested on them. views: temporal x spatial."""
        from vmp.data.dataset import TestClips

        shape = clip_shape(config, model, crops=views[1])
        kept = kept_clips(config, self.manifest)
        return TestClips(self.manifest, self.present, shape, temporal=views[0], spatial=views[1], kept=kept)


def find_split(config: Config, name: str, manifest: Manifest) -> Split:
    """Raises:
    DataError: more clips are missing than data.max_bad_fraction allows, or a rate is needed and unknown.
    """
    data = config.data
    present = find_clips(manifest, reader=data.reader, max_bad_fraction=data.max_bad_fraction)
    check_rates(present, config.backbone.spec.fps, where=str(manifest.path))
    return Split(name, manifest, present)


def clips_tested(opened: "Opened", *, views: tuple[int, int] = (1, 1)) -> "TestClips":
    """The clips that a run was tested on, as its model takes them. views: temporal x spatial."""
    split = find_split(opened.config, *find_splits(opened.config, progress=False).tested)
    return split.test_clips(opened.config, opened.model, views=views)


def spread_clips(dataset: "TestClips", count: int) -> "Iterator[tuple[int, Tensor]]":
    """Yield index and first view, (3, frames, H, W) uint8, of at most `count` clips spread over the dataset."""
    import torch

    for index in torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).long().tolist():
        views = dataset[index][1]
        if isinstance(views, torch.Tensor):
            yield index, views[0]


def score(
    model: "PromptedClassifier",
    split: Split,
    *,
    config: Config,
    views: tuple[int, int],
    processes: "Processes",
    reduce: str | None = None,
    workers: int | None = None,
    check_stop: Callable[[], None] = lambda: None,
    at_once: int | None = None,
    attention: bool = False,
    scored: "Callable[[Sequence[int], Tensor], None]" = lambda indices, scores: None,
) -> "Scores | None":
    """Score a split once; the first process gets all scores, the others None.

    Args:
        views: temporal x spatial.
        reduce: what is summed over the views; None: what the backbone sums.
        workers: loader processes; None: as trainer.workers says.
        check_stop: called after each batch; raises Stopped if the run was asked to stop.
        at_once: clips in a batch; None: as many as give 32 views.
        attention: whether to measure the mean attention of each pathway with prompts.
        scored: called after each batch with its readable clips: indices, and scores (N, classes).

    Raises:
        DataError: more clips are unreadable than data.max_bad_fraction allows (raised on every process).
    """
    import torch

    from vmp.engine import evaluator
    from vmp.engine.precision import autocast_type
    from vmp.model import mean_attention, measuring_attention

    def refuse_too_many(bad: dict[int, str]) -> None:
        share = config.data.max_bad_fraction
        check_bad(split.unscored(bad), split.present.total, share, where=str(split.manifest.path))

    measured: Any = measuring_attention(model) if attention else nullcontext({})
    with measured as found:
        scores = evaluator.score(
            model,
            split.test_clips(config, model, views=views),
            processes=processes,
            reduce=reduce or config.backbone.spec.reduce,
            workers=loader_workers(config.trainer.workers if workers is None else workers),
            timeout=config.data.timeout,
            autocast=autocast_type(config.trainer.amp),
            name=split.name,
            check_stop=check_stop,
            at_once=at_once,
            check_bad=refuse_too_many,
            scored=scored,
        )
    empty = torch.empty(0, dtype=torch.double, device=processes.device)
    means = {pathway: processes.collect(torch.cat([empty, *parts])) for pathway, parts in found.items()}
    if scores is None:
        return None
    return replace(
        scores, attention=mean_attention({name: mean for name, mean in means.items() if mean is not None})
    )


def summarize(scores: "Scores", split: Split) -> dict[str, float]:
    """Accuracies in percent, the mean cross-entropy of a clip, and the prompts' variation."""
    from vmp.engine.evaluator import accuracies

    out = accuracies(scores, split.labels, expected=split.present.total)
    out["cross_entropy"] = float(scores.losses.mean())
    return out if scores.variation is None else {**out, "variation": scores.variation}


def record_scores(scores: "Scores", split: Split, folder: Path) -> dict[str, Any]:
    """Write predictions.csv and per_class.csv; returns accuracies and numbers of clips."""
    write_scores(scores, split, folder)
    counts = split.present.counts()
    counts["present"] -= len(scores.bad)
    counts["unreadable"] += len(scores.bad)
    return {**summarize(scores, split), "clips": counts}


def write_scores(scores: "Scores", split: Split, folder: Path) -> None:
    """Write predictions.csv and per_class.csv.

    predictions.csv has one row per clip: its path below the dataset's root, its span in frames [start, end), the actual
    and the predicted class by number and name, the score and the five best classes, or why there is no score.
    """
    from vmp.engine.evaluator import best_classes, class_accuracies

    clips, names = split.present.clips, split.manifest.classes

    def describe(clip: Clip) -> list[Any]:
        end = clip.start + clip.length if clip.frames else clip.end
        return [clip.id, clip.path, clip.start, "" if end is None else end, clip.label, names[clip.label]]

    rows = []
    best = best_classes(scores.scores, 5).tolist()
    for index, row, top in zip(scores.indices.tolist(), scores.scores, best, strict=True):
        predicted = [top[0], names[top[0]], f"{row[top[0]]:.6g}"]
        rows.append([*describe(clips[index]), *predicted, " ".join(map(str, top)), ""])
    unscored = split.unscored(scores.bad)
    by_id = {clip.id: clip for clip in split.manifest.clips if clip.id in unscored} if unscored else {}
    rows += [[*describe(by_id[i]), "", "", "", "", why] for i, why in sorted(unscored.items())]
    counts = class_accuracies(scores, split.labels, classes=len(names))
    by_class = [
        [label, names[label], n, right, f"{100 * right / n:.2f}" if n else ""]
        for label, (n, right) in enumerate(counts)
    ]
    if has_top5(len(names)):
        for row, (n, right) in zip(
            by_class, class_accuracies(scores, split.labels, classes=len(names), k=5), strict=True
        ):
            row += [right, f"{100 * right / n:.2f}" if n else ""]
    records.write_scores(folder, rows, by_class)


def print_result(folder: Path, *, classes: int | None = None) -> None:
    """Print `describe_result`."""
    print(describe_result(folder, classes=classes))


def describe_result(folder: Path, *, classes: int | None = None) -> str:
    """The accuracies of a result in a line. classes: their number; None: as the result says."""
    r = read_result(folder)
    learned = "".join(f"  {name} {value:.3f}" for name, value in shown_scalars(r.get("scalars", {})).items())
    c = r["clips"].get(r["split"], r["clips"])
    top5 = f"  top-5 {r['top5']:.2f}" if has_top5(classes or r.get("classes")) else ""
    return (
        f"{r['split']}: top-1 {r['top1']:.2f}{top5}  mean class {r['mean_class']:.2f}{learned}"
        f"  ({c['present']} of {c['expected']} clips)  -> {folder / RESULT_FILE}"
    )


def loader_workers(wanted: int | None) -> int:
    """Loader processes: as wanted, or one fewer than this process's share of the CPUs, at least 1 and at most 8."""
    if wanted is not None:
        return wanted
    here = read_rank()
    # with --cpus-per-task, cpus() is what srun gave this task alone
    alone = here.starter == "Slurm" and "SLURM_CPUS_PER_TASK" in os.environ
    return min(8, max(1, cpus() // (1 if alone else here.local_world) - 1))
