"""The five most probable classes of videos, as a run predicts them.

python scripts/predict.py my.mp4 run=outputs/.../seed0
python scripts/predict.py a.mp4 b.mp4 FOLDER run=outputs/.../seed0 --json

Each video is measured and then tested as the run tested its clips: with the same views, frames, crops and checkpoint,
through a reader that returns exactly its frames.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.cli import friendly, parser_of
from vmp.errors import DataError, UserError

if TYPE_CHECKING:
    from vmp.prepare.measure import Measured
    from vmp.runs.open import OpenedRun

SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".divx", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
BAR = 30  # characters


def main() -> int:
    options = _parser().parse_intermixed_args()
    run, videos = read(options.what)
    chosen = {name: getattr(options, name) for name in ("device", "checkpoint", "views", "top")}
    found, bad = predict(run, videos, **chosen)
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        show(found)
    for path, reason in bad.items():
        print(f"error: {path}: {reason}", file=sys.stderr)
    return 2 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument("what", nargs="+", help="videos, folders with videos at any depth, and run=FOLDER")
    parser.add_argument("--views", help="TEMPORALxSPATIAL, such as 10x3; default: as the run was tested")
    parser.add_argument("--checkpoint", choices=("last", "best"), help="default: as the run was tested")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--top", type=int, default=5, help="classes to print")
    parser.add_argument("--json", action="store_true", help="print a JSON list with one entry per video")
    return parser


def read(what: list[str]) -> tuple[Path, list[Path]]:
    """The run and the videos. A folder stands for all videos below it, by name, without hidden files and folders."""
    runs = [word.partition("=")[2] for word in what if word.startswith("run=")]
    if len(runs) != 1:
        raise UserError("name one run: run=FOLDER, a folder with config.yaml and checkpoints")
    videos: list[Path] = []
    for word in what:
        path = Path(word)
        if word.startswith("run="):
            continue
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if _is_video(p, path))
            if not inside:
                raise UserError(f"{path}: no videos in it or below it ({', '.join(SUFFIXES)})")
            videos += inside
        else:
            videos.append(path)
    if not videos:
        raise UserError("name at least one video, or a folder with videos")
    return Path(runs[0]), list(dict.fromkeys(videos))


def _is_video(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def predict(
    folder: Path, videos: list[Path], *, device: str, checkpoint: str | None, views: str | None, top: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One entry for each video that can be read, in order, and for each other video why it cannot.

    An entry has file, frames, fps, reader, views and `top`: class and probability, best first. If the run sums logits
    over views, probabilities are the softmax of their mean.
    """
    from vmp.config import parse_views
    from vmp.engine import dist
    from vmp.prepare.measure import measure_all
    from vmp.runs.open import open_run
    from vmp.runs.run import read_run

    read_run(folder)  # fails before any video is measured
    try:
        wanted = parse_views(views) if views else None
    except ValueError as error:
        raise UserError(f"--views {views}: {error}") from None
    if wanted and min(wanted) < 1:
        raise UserError(f"--views {views}: both numbers must be at least 1")
    measured = {path.absolute(): found for path, found in measure_all([v.absolute() for v in videos])}
    bad = {str(v): found.reason for v in videos if (found := measured[v.absolute()]).status != "ok"}
    good = [v for v in videos if str(v) not in bad]
    if not good:
        raise DataError(
            "no video could be read:\n" + "\n".join(f"  {path}: {why}" for path, why in bad.items())
        )
    processes = dist.start(device)
    try:
        opened = open_run(folder, device=processes.device, checkpoint=checkpoint)
        at = wanted or opened.config.trainer.views or opened.spec.views
        entries, unread = score(opened, good, measured, views=at, processes=processes, top=top)
    finally:
        dist.stop()
    return entries, bad | unread


def score(
    opened: "OpenedRun",
    videos: list[Path],
    measured: "dict[Path, Measured]",
    *,
    views: tuple[int, int],
    processes: Any,
    top: int,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Score the videos as a split of one clip each, as the run's own clips are scored."""
    import numpy as np

    from vmp.data.manifest import Clip, Manifest
    from vmp.data.present import Present
    from vmp.engine.evaluator import best_classes
    from vmp.prepare.rows import with_measured
    from vmp.runs.score import Split
    from vmp.runs.score import score as score_split

    clips, readers = [], []
    for video in videos:
        m = measured[video.absolute()]
        clips.append(with_measured(Clip(str(video), str(video.absolute()), 0), m))
        wanted = opened.config.data.reader
        exact = (*m.readers, "pyav")  # counting is exact for every file
        readers.append(exact[0] if wanted not in exact else wanted)
    manifest = Manifest(Path("videos"), Path("/"), opened.classes, tuple(clips))
    present = Present(tuple(clips), tuple(readers), len(clips))
    free = opened.config.model_copy(update={
        "data": opened.config.data.model_copy(update={"max_bad_fraction": 1.0, "degrade": "none"})
    })  # fmt: skip
    scored = score_split(
        opened.model,
        Split("predict", manifest, present),
        config=free,
        spec=opened.spec,
        views=views,
        processes=processes,
        workers=0,
    )
    entries = []
    for index, row in zip(scored.indices.tolist(), scored.scores, strict=True):
        mean = row.astype(np.float64) / (views[0] * views[1])
        if opened.spec.reduce != "probs":
            mean = np.exp(mean - mean.max())
            mean /= mean.sum()
        best = best_classes(row[None], top)[0]
        entries.append({
            "file": clips[index].id,
            "frames": clips[index].frames,
            "fps": clips[index].fps,
            "reader": readers[index],
            "views": list(views),
            "top": [{"class": opened.classes[c], "probability": float(mean[c])} for c in best],
        })  # fmt: skip
    return entries, {clips[i].id: reason for i, reason in scored.bad.items()}


def show(entries: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    for entry in entries:
        t, v = entry["views"]
        console.print(
            f"[bold]{escape(entry['file'])}[/bold]  {entry['frames']} frames at {entry['fps']:.4g}/s, "
            f"{t} x {v} views, reader {entry['reader']}"
        )
        wide = max(len(row["class"]) for row in entry["top"])
        for row in entry["top"]:
            share = row["probability"]
            bar = "█" * round(BAR * share) or "▏"
            console.print(f"  {escape(row['class']):<{wide}}  {100 * share:5.1f} %  [blue]{bar}[/blue]")


if __name__ == "__main__":
    with friendly():
        sys.exit(main())
