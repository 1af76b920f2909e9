"""Folders of finished runs, made up but in the real format: what `vmp report` and other readers of many runs are
measured with. Accuracies are those of clips of mixed difficulty, so that runs of a setting agree as real ones do."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from vmp.compose import CONF, composer
from vmp.files import write_text
from vmp.runs import records

BACKBONES = ("tiny", "c2d", "timesformer")
LAMBDAS = (None, 0.0, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 50.0)  # None: without prompts
EPOCHS, ROWS_PER_EPOCH = 30, 100


def make_runs(out: Path, count: int, *, clips: int, classes: int) -> None:
    """`count` runs below a folder: backbones x methods x as many seeds as it takes.

    Args:
        clips: of the tested split.
    """
    compose = composer(CONF)
    rng = np.random.default_rng(0)
    names = [f"({number % 4}) a movement, variant {number}" for number in range(classes)]
    labels, difficulty = rng.integers(0, classes, clips), rng.normal(0, 1.5, clips)
    for number in range(count):
        backbone = BACKBONES[number % len(BACKBONES)]
        weight = LAMBDAS[number // len(BACKBONES) % len(LAMBDAS)]
        seed = number // (len(BACKBONES) * len(LAMBDAS))
        method = ["vmp=none"] if weight is None else ["vmp=learned", f"vmp.lambda={weight}"]
        config = compose(
            ["dataset=manifest", "dataset.folder=nowhere", f"backbone={backbone}", f"seed={seed}", *method]
        )
        skill = 0.5 + (0 if weight is None else 0.15) + rng.normal(0, 0.1)
        right = rng.random(clips) < 1 / (1 + np.exp(difficulty - skill))
        predicted = np.where(right, labels, (labels + rng.integers(1, classes, clips)) % classes)
        scalars = {} if weight is None else {"slope": 10 + weight / 5, "shift": float(rng.normal(0, 0.05))}
        _write_run(out / backbone / f"{weight}" / f"seed{seed}", config, names, labels, predicted, scalars)


def _write_run(
    folder: Path,
    config: dict[str, Any],
    names: list[str],
    labels: np.ndarray,
    predicted: np.ndarray,
    scalars: dict[str, float],
) -> None:
    records.write_records(folder, config, {"train": "", "val": ""}, names)
    rows, total = [], EPOCHS * ROWS_PER_EPOCH
    learned = {f"vmp/{name}": value for name, value in scalars.items()}
    for step in range(1, total + 1):
        epoch, loss = step / ROWS_PER_EPOCH, 3 * 0.5 ** (step / total) + 0.01 * (step % 7)
        rows.append({"kind": "train", "epoch": epoch, "step": step, "train/loss": loss})
        rows[-1] |= {"train/cross_entropy": loss, "train/lr": 0.01, **learned}
        if not step % ROWS_PER_EPOCH:
            rows.append({"kind": "val", "epoch": epoch, "step": step, "val/top1": 60.5, "val/top5": 90.5})
    write_text(folder / records.METRICS_FILE, "".join(json.dumps(row) + "\n" for row in rows))
    right = labels == predicted
    scores = np.random.default_rng(config["seed"]).uniform(0.2, 1, len(labels))
    by_clip = []
    for i, (label, guess, score) in enumerate(
        zip(labels.tolist(), predicted.tolist(), scores.tolist(), strict=True)
    ):
        best = " ".join(str((guess + k) % len(names)) for k in range(5))
        known = [f"val/{i:06d}", f"videos/{i:06d}.mp4", 0, 64, label, names[label]]
        by_clip.append([*known, guess, names[guess], f"{score:.6g}", best, ""])
    totals = np.bincount(labels, minlength=len(names)).tolist()
    hits = np.bincount(labels[right], minlength=len(names)).tolist()
    by_class = [
        [c, names[c], n, k, f"{100 * k / n:.2f}" if n else ""]
        for c, (n, k) in enumerate(zip(totals, hits, strict=True))
    ]
    records.write_scores(folder, by_clip, by_class)
    counts = {"expected": len(labels), "present": len(labels), "missing": 0, "unreadable": 0}
    top1, mean_class = (
        100 * float(right.mean()),
        float(np.mean([100 * k / n for n, k in zip(totals, hits, strict=True) if n])),
    )
    records.write_result(
        folder,
        {
            **{"split": "val", "epoch": EPOCHS, "views": [1, 1], "reduce": "probs", "degrade": "none"},
            **{"top1": top1, "top5": 95.0, "mean_class": mean_class, "top1_lower_bound": top1},
            **{"clips": {"train": counts, "val": counts}, "unreadable_in_training": {}, "scalars": scalars},
            **{"steps": total, "seed": config["seed"], "seconds": 3600.0, "parameters": 1_000_000},
            **{"command": "python train.py", "commit": "0123456789ab", "device": "1 x CPU", "versions": {}},
        },
    )
