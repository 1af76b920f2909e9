"""Writes predictions.csv and per_class.csv of a tested split; records.py reads them."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vmp.data.manifest import Clip, Manifest
from vmp.engine.evaluator import Scores, best_classes, class_accuracies

PREDICTIONS = (
    *("id", "path", "start", "end", "label", "label_name", "predicted", "predicted_name"),
    *("score", "top5", "problem"),
)


def write_predictions(
    folder: Path, scores: Scores, clips: Sequence[Clip], manifest: Manifest, *, missing: Mapping[str, str]
) -> None:
    """predictions.csv and per_class.csv.

    predictions.csv has one row per clip: its path below the dataset's root, its span in frames [start, end), the actual
    and the predicted class by number and name, the score, the five best classes, or why there is no score.

    Args:
        clips: the usable ones, which `scores` has by index.
        missing: of the others, id -> reason.
    """
    by_id = {clip.id: clip for clip in manifest.clips}
    bad = {clips[i].id: reason for i, reason in scores.bad.items()} | dict(missing)

    def about(clip: Clip) -> list[Any]:
        end = clip.start + clip.length if clip.frames else clip.end
        return [
            *(clip.id, clip.path, clip.start, "" if end is None else end),
            *(clip.label, manifest.classes[clip.label]),
        ]

    with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(PREDICTIONS)
        for at, index in enumerate(scores.indices.tolist()):
            row = scores.scores[at]
            top = best_classes(row[None], 5)[0].tolist()
            predicted = [top[0], manifest.classes[top[0]], f"{row[top[0]]:.6g}"]
            writer.writerow([*about(clips[index]), *predicted, " ".join(map(str, top)), ""])
        writer.writerows(
            [*about(by_id[name]), "", "", "", "", reason] for name, reason in sorted(bad.items())
        )
    counts = class_accuracies(scores, [c.label for c in clips], classes=len(manifest.classes))
    with open(folder / "per_class.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "name", "clips", "right", "accuracy"])
        for label, (n, right) in enumerate(counts):
            accuracy = f"{100 * right / n:.2f}" if n else ""
            writer.writerow([label, manifest.classes[label], n, right, accuracy])
