"""Testing a model with a run's settings: for the curve while training, for the result, and again later."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.build import clip_shape
from vmp.config import Config
from vmp.data.manifest import Manifest
from vmp.data.present import Present, check_bad
from vmp.launched import launched
from vmp.machine import cpus
from vmp.runs.records import read_result

if TYPE_CHECKING:
    from vmp.backbones import Spec
    from vmp.engine.dist import Processes
    from vmp.engine.evaluator import Scores


def score(
    config: Config,
    model: Any,
    spec: "Spec",
    manifest: Manifest,
    present: Present,
    views: tuple[int, int],
    processes: "Processes",
    name: str,
    *,
    workers: int | None = None,
    between: Callable[[], None] = lambda: None,
) -> "Scores":
    """Score a split once; every process gets all scores.

    Args:
        views: temporal x spatial.
        between: called after each batch; it may raise.

    Raises:
        DataError: more clips cannot be read than data.max_bad_fraction allows.
    """
    import torch

    from vmp.data.dataset import TestClips
    from vmp.engine import evaluator

    shape = clip_shape(config, spec, model, crops=views[1])
    dataset = TestClips(manifest, present, shape, temporal=views[0], spatial=views[1])
    scores = evaluator.score(
        model,
        dataset,
        processes=processes,
        reduce=spec.reduce,
        workers=loader_workers(config.trainer.workers if workers is None else workers),
        timeout=config.data.timeout,
        autocast=torch.bfloat16 if config.trainer.amp == "bf16" else None,
        name=name,
        between=between,
    )
    bad = {present.clips[i].id: reason for i, reason in scores.bad.items()} | present.bad
    check_bad(bad, present.total, config.data.max_bad_fraction, where=str(manifest.path))
    return scores


def numbers(scores: "Scores", present: Present) -> dict[str, float]:
    """Accuracies in percent, the mean cross-entropy of a clip, and the prompts' variation."""
    from vmp.engine.evaluator import accuracies

    out = accuracies(scores, [clip.label for clip in present.clips], expected=present.total)
    out["cross_entropy"] = float(scores.losses.mean())
    return out if scores.variation is None else {**out, "variation": scores.variation}


def measure(scores: "Scores", manifest: Manifest, present: Present, folder: Path) -> dict[str, Any]:
    """Accuracies by torchmetrics and numbers of clips; predictions.csv and per_class.csv go to the folder."""
    from vmp.engine.evaluator import reported
    from vmp.runs.predictions import write_predictions

    write_predictions(folder, scores, present.clips, manifest, missing=present.bad)
    counts = present.counts()
    counts["present"] -= len(scores.bad)
    counts["unreadable"] += len(scores.bad)
    ours = numbers(scores, present)
    return {**ours, **reported(scores, [clip.label for clip in present.clips]), "clips": counts}


def print_result(folder: Path) -> None:
    r = read_result(folder / "result.json")
    scalars = {k: v for k, v in r.get("scalars", {}).items() if k.endswith(("slope", "shift"))}
    learned = "".join(f"  {name} {value:.3f}" for name, value in scalars.items())
    c = r["clips"].get(r["split"], r["clips"])
    print(
        f"{r['split']}: top-1 {r['top1']:.2f}  top-5 {r['top5']:.2f}  mean class {r['mean_class']:.2f}{learned}"
        f"  ({c['present']} of {c['expected']} clips)  -> {folder / 'result.json'}"
    )


def loader_workers(wanted: int | None) -> int:
    """Loader processes: as wanted, or one fewer than the CPUs that this process has, at most 8."""
    if wanted is not None:
        return wanted
    own = cpus() // launched().beside
    return min(8, max(1, own - 1))
