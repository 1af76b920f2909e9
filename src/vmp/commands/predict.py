"""The most probable classes of videos, as published weights or a run predict them.

vmp predict my.mp4 backbone=i3d_inception weights=k400 --top 10
vmp predict my.mp4 backbone=timesformer weights=FILE backbone.size=hr
vmp predict a.mp4 b.mp4 FOLDER run=outputs/.../seed0 --json

Each video is measured and then tested as the backbone was published, or as the run tested its clips: with the same
views, frames, crops and checkpoint, through a reader that returns exactly its frames.
"""

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.cli import parser_of
from vmp.errors import DataError, UserError
from vmp.overrides import Source, model_source

if TYPE_CHECKING:
    from vmp.runs.open import Opened

SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".divx", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
BAR = 30  # characters
WHAT = "videos, frame folders, folders of these; run=FOLDER, or backbone=NAME weights=NAME|FILE [backbone.KEY=VALUE]"


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("what", nargs="+", help=WHAT)
    parser.add_argument(
        "--views", help="TEMPORALxSPATIAL, such as 10x3; default: as published or as the run was tested"
    )
    parser.add_argument("--checkpoint", choices=("last", "best"), help="of a run; default: as it was tested")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--top", type=int, default=5, help="classes to print")
    parser.add_argument("--fps", type=float, default=0.0, help="frames per second of frame folders")
    parser.add_argument("--json", action="store_true", help="print a JSON list with one entry per video")
    options = parser.parse_intermixed_args()
    source = model_source(options.what)
    with redirect_stdout(sys.stderr) if options.json else nullcontext():  # progress is no JSON
        found, bad = predict(model_of(source, options), find_videos(source.rest), options)
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        show(found)
    for path, reason in bad.items():
        print(f"error: {path}: {reason}", file=sys.stderr)
    return 2 if bad else 0


def model_of(source: Source, options: argparse.Namespace) -> "Callable[[Any], Opened]":
    """Device -> the model, after checks that need no weights."""
    from vmp.runs.open import open_published, open_run
    from vmp.runs.run import read_run

    if folder := source.run:
        read_run(folder)
        return lambda device: open_run(folder, device=device, checkpoint=options.checkpoint)
    if not source.overrides:
        raise UserError(
            "name a model: run=FOLDER, a folder with config.yaml and checkpoints, or published weights, as in "
            "backbone=i3d_inception weights=k400"
        )
    if options.checkpoint:
        raise UserError(
            f"--checkpoint {options.checkpoint}: published weights have none; use it with run=FOLDER"
        )
    from vmp.compose import CONF, composer
    from vmp.config import check, check_start

    config = check(composer(CONF)(source.overrides))
    check_start(config)
    return lambda device: open_published(config, device=device)


def find_videos(words: list[str]) -> list[Path]:
    """The videos that are named. A folder stands for all videos below it, by name, without hidden files and folders,
    unless it is a frame folder."""
    from vmp.prepare.videos import is_frame_folder

    videos: list[Path] = []
    for path in map(Path, words):
        if not path.is_dir() or is_frame_folder(path):
            videos.append(path)
            continue
        files = path.rglob("*")
        inside = sorted(
            p for p in files if is_frame_folder(p) or (p.suffix.lower() in SUFFIXES and p.is_file())
        )
        inside = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        if not inside:
            raise UserError(f"{path}: no videos ({', '.join(SUFFIXES)}) or frame folders in it or below it")
        videos += inside
    if not videos:
        raise UserError("name at least one video, or a folder with videos")
    return list(dict.fromkeys(videos))


def predict(
    open_model: "Callable[[Any], Opened]", videos: list[Path], options: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One entry for each video that can be read, in order, and for each other video why it cannot.

    An entry has file, frames, fps, reader, views and `top`: class and probability, best first. If the
    backbone sums logits over views, probabilities are the softmax of their mean.
    """
    import numpy as np

    from vmp.config import parse_views
    from vmp.data.columns import Clip
    from vmp.data.frames import FRAMES
    from vmp.data.manifest import Manifest
    from vmp.data.present import Present
    from vmp.engine import dist
    from vmp.engine.evaluator import best_classes
    from vmp.prepare.measure import measure_all
    from vmp.prepare.rows import with_measured
    from vmp.runs.score import Split, score

    try:
        wanted = parse_views(options.views) if options.views else None
    except ValueError as error:
        raise UserError(f"--views {options.views}: {error}") from None
    if wanted and min(wanted) < 1:
        raise UserError(f"--views {options.views}: both numbers must be at least 1")
    measured = {path.absolute(): found for path, found in measure_all([v.absolute() for v in videos])}
    bad = {str(v): found.reason for v in videos if (found := measured[v.absolute()]).status != "ok"}
    good = [v for v in videos if str(v) not in bad]
    if not good:
        raise DataError(
            "no video could be read:\n" + "\n".join(f"  {path}: {why}" for path, why in bad.items())
        )
    processes = dist.start(options.device)
    try:
        opened = open_model(processes.device)
        for note in opened.notes:
            print(f"note: {note}", file=sys.stderr)
        views = wanted or opened.config.trainer.views or opened.spec.views
        clips, readers = [], []  # the videos as a split of one clip each
        for video in good:
            found = measured[video.absolute()]
            if FRAMES in found.readers:
                found = replace(found, fps=options.fps)
            clips.append(with_measured(Clip(str(video), str(video.absolute()), 0), found))
            exact = found.readers
            reader = opened.config.data.reader
            readers.append(reader if reader in exact else exact[0])
        manifest = Manifest(Path("videos"), Path("/"), opened.classes, tuple(clips))
        present = Present(tuple(clips), tuple(readers), len(clips))
        data = opened.config.data.model_copy(update={"max_bad_fraction": 1.0, "degrade": "none"})
        scored = score(
            opened.model,
            Split("predict", manifest, present),
            config=opened.config.model_copy(update={"data": data}),
            spec=opened.spec,
            views=views,
            processes=processes,
            workers=0,
        )
    finally:
        dist.stop()
    entries = []
    for index, row in zip(scored.indices.tolist(), scored.scores, strict=True):
        mean = row.astype(np.float64) / (views[0] * views[1])
        if opened.spec.reduce != "probs":
            mean = np.exp(mean - mean.max())
            mean /= mean.sum()
        best = best_classes(row[None], options.top)[0]
        entries.append({
            "file": clips[index].id,
            "frames": clips[index].frames,
            "fps": clips[index].fps,
            "reader": readers[index],
            "views": list(views),
            "top": [{"class": opened.classes[c], "probability": float(mean[c])} for c in best],
        })  # fmt: skip
    return entries, bad | {clips[i].id: reason for i, reason in scored.bad.items()}


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
            percent = f"{100 * share:.1f}" if share >= 5e-4 else f"{100 * share:.1g}"
            console.print(f"  {escape(row['class']):<{wide}}  {percent:>6} %  [blue]{bar}[/blue]")
