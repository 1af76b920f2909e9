"""Print the most probable classes of videos, predicted with published weights or by a run.

examples:
  vmp predict my.mp4 backbone=i3d_inception weights=k400 --top 10
  vmp predict my.mp4 backbone=timesformer weights=FILE backbone.size=hr
  vmp predict a.mp4 b.mp4 FOLDER run=outputs/.../seed0 --csv out.csv

Each video is tested with the views, frames, crops and checkpoint with which the run was tested, or by the published
protocol of the backbone, and through a reader that was measured to return exactly its frames.
"""

import csv
import itertools
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from gzip import GzipFile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vmp.cli import check_fps, parser_of, print_notes
from vmp.errors import UserError
from vmp.files import open_regular, write_csv
from vmp.overrides import model_source
from vmp.runs.folder import check_file

if TYPE_CHECKING:
    from vmp.trained import Prediction

BAR = 30  # characters
FIRST = ("file", "frames", "fps")  # columns of a table
WHAT = "videos, frame folders, folders of these; run=FOLDER, or backbone=NAME weights=NAME|FILE [backbone.KEY=VALUE]"


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("what", nargs="+", metavar="VIDEO|KEY=VALUE", help=WHAT)
    parser.add_argument(
        "--views",
        help="test views, TEMPORALxSPATIAL such as 10x3 (default: as in the run's test, or as published)",
    )
    parser.add_argument(
        "--checkpoint", choices=("last", "best"), help="of a run (default: the one that was tested)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--top", type=int, default=5, help="number of classes to print (default: 5)")
    parser.add_argument(
        "--fps", type=float, default=0.0, help="frame rate of frame folders, which do not record it"
    )
    parser.add_argument("--batch-size", type=int, help="videos at a time (default: as many as give 32 views)")
    parser.add_argument("--json", action="store_true", help="print a JSON list with one entry per video")
    parser.add_argument(
        "--csv",
        type=Path,
        help="write a table with one row per video: its best classes, or why it could not be read; until all are "
        "predicted, the rows so far are in FILE.partial",
        metavar="FILE",
    )
    options = parser.parse_intermixed_args()
    if options.top < 1:
        raise UserError(f"--top {options.top}: must be at least 1")
    check_fps(options.fps)
    if options.csv:
        check_table(options.csv)
    source = model_source(options.what)
    with redirect_stdout(sys.stderr) if options.json else nullcontext():  # stdout gets only JSON
        videos = find_videos(source.rest)
        from vmp.build import set_precision_switches
        from vmp.trained import check_views, load_named

        check_views(options.views)  # before weights are fetched
        model = load_named(source, checkpoint=options.checkpoint, device=options.device)
        set_precision_switches(model.config)
        print_notes(model.notes, sys.stderr)
        settings = {"views": options.views, "fps": options.fps, "batch_size": options.batch_size}
        if options.csv:
            with keeping_rows(options.csv, len(videos), top=options.top) as keep:
                found, bad = model.predict_readable(videos, keep=keep, **settings)
                write_table(options.csv, found, bad, top=options.top)
            print(f"-> {options.csv}", file=sys.stderr)
        else:
            found, bad = model.predict_readable(videos, **settings)
    if options.json:
        entries = [as_entry(one, top=options.top) for one in found]
        print(json.dumps(entries, indent=1, ensure_ascii=False))
    else:
        show(found, top=options.top)
    for path, reason in bad.items():
        print(f"error: {path}: {reason}", file=sys.stderr)
    return 2 if bad else 0


def check_table(path: Path) -> None:
    """Raise UserError where --csv names a file that cannot be written, or that is not a table of this command."""
    from vmp.data.frames import PICTURES
    from vmp.prepare.videos import SUFFIXES

    check_file(path, "--csv ")
    if path.suffix.lower() in (*SUFFIXES, *PICTURES):
        raise UserError(f"--csv {path}: names a video or picture; name a table, such as {path.stem}.csv")
    if path.exists() and not _is_table(path):
        raise UserError(
            f"--csv {path}: exists and is no table of this command, which would begin with {','.join(FIRST)}; choose "
            "another name, or move that file away"
        )


def _is_table(path: Path) -> bool:
    """Whether a file is a table of this command, or empty."""
    wanted = ",".join(FIRST).encode()
    try:
        with open_regular(path, limit=sys.maxsize) as file:
            start = (GzipFile(fileobj=file) if path.suffix == ".gz" else file).read(len(wanted))
    except (UserError, OSError, EOFError, zlib.error):
        return False
    return start in (wanted, b"")


def find_videos(words: list[str]) -> list[Path]:
    """The videos that are named. A folder stands for all videos below it, by name, unless it is a frame folder."""
    from vmp.prepare.videos import SUFFIXES, is_frame_folder

    videos: list[Path] = []
    for path in map(Path, words):
        if not path.is_dir() or is_frame_folder(path):
            videos.append(path)
            continue
        inside = sorted(
            p for p in _below(path) if is_frame_folder(p) or (p.suffix.lower() in SUFFIXES and p.is_file())
        )
        if not inside:
            raise UserError(f"{path}: no videos ({', '.join(SUFFIXES)}) or frame folders in it or below it")
        videos += inside
    if not videos:
        raise UserError("name at least one video, or a folder with videos")
    return list(dict.fromkeys(videos))


def _below(folder: Path) -> Iterator[Path]:
    """What a folder holds at any depth, but for what is hidden; links are followed, and each file or folder comes once,
    under its own name if that is below the folder."""
    pending, links, seen = [folder], list[Path](), set[str]()
    while pending or links:
        path = pending.pop() if pending else links.pop(0)
        if (real := os.path.realpath(path)) in seen:
            continue
        seen.add(real)
        if path != folder:
            yield path
        if not path.is_dir():
            continue
        if not os.access(path, os.R_OK | os.X_OK):
            raise UserError(f"{path}: may not be read (permission denied); what it holds would be left out")
        for inner in sorted(path.iterdir()):
            if not inner.name.startswith("."):
                (links if inner.is_symlink() else pending).append(inner)


def as_entry(one: "Prediction", *, top: int) -> dict[str, Any]:
    return {
        "file": one.video,
        "frames": one.frames,
        "fps": one.fps,
        "reader": one.reader,
        "views": list(one.views),
        "top": [{"class": name, "probability": share} for name, share in one.top(top)],
    }


@contextmanager
def keeping_rows(table: Path, videos: int, *, top: int) -> "Iterator[Callable[[Prediction], None]]":
    """Context that yields a function which writes the row of a prediction at once, to a file beside the table.

    Once the table is complete, that file is removed. If the command is interrupted or fails before, it stays, and a
    message says where it is and how many of the videos were predicted.
    """
    done = 0
    file: IO[str] | None = None

    def keep(one: "Prediction") -> None:
        nonlocal file, done
        try:
            if file is None:
                file = _open_partial(table)
                csv.writer(file, lineterminator="\n").writerow(_header(len(one.top(top))))
            csv.writer(file, lineterminator="\n").writerow(_row(one, top=top))
            file.flush()
        except OSError as error:
            raise UserError(f"--csv {table}: cannot be written ({error.strerror or error})") from None
        done += 1

    try:
        yield keep
    except BaseException as error:
        said = f"{done} of {videos} videos were predicted"
        said += f"; their rows are in {file.name}" if file else ""
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(said) from None
        print(said, file=sys.stderr)
        raise
    else:
        if file:
            os.unlink(file.name)
    finally:
        if file:
            with suppress(OSError):  # a full disk, of which the message is given
                file.close()


def _open_partial(table: Path) -> IO[str]:
    """A file of a new name, so that rows of a command that was interrupted before stay."""
    name = table.name.removesuffix(".gz") + ".partial"
    table.parent.mkdir(parents=True, exist_ok=True)
    names = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    path = next(path for path in map(table.with_name, names) if not path.exists())
    return open(path, "x", encoding="utf-8", errors="backslashreplace", newline="")


def write_table(path: Path, found: "Sequence[Prediction]", bad: dict[str, str], *, top: int) -> None:
    """Columns file, frames, fps, class1, probability1, ... and problem."""
    header = _header(len(found[0].top(top)) if found else 0)
    blank = [""] * (len(header) - 2)
    rows = [_row(one, top=top) for one in found]
    rows += [[video, *blank, reason] for video, reason in bad.items()]
    write_csv(path, [header, *rows])


def _header(best: int) -> list[str]:
    """best: number of classes in a row."""
    ranked = [f"{word}{place}" for place in range(1, best + 1) for word in ("class", "probability")]
    return [*FIRST, *ranked, "problem"]


def _row(one: "Prediction", *, top: int) -> list[Any]:
    best = [cell for name, share in one.top(top) for cell in (name, f"{share:.6g}")]
    return [one.video, one.frames, f"{one.fps:.6g}", *best, ""]


def show(found: "Sequence[Prediction]", *, top: int) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    for one in found:
        t, v = one.views
        rate = f"at {one.fps:.4g}/s" if one.fps else "at an unknown rate"
        console.print(
            f"[bold]{escape(one.video)}[/bold]  {one.frames} frames {rate}, {t} x {v} views, reader {one.reader}"
        )
        wide = max(len(name) for name, _ in one.top(top))
        for name, share in one.top(top):
            bar = "█" * round(BAR * share) or "▏"
            percent = f"{100 * share:.1f}" if share >= 5e-4 else f"{100 * share:.1g}"
            console.print(f"  {escape(f'{name:<{wide}}')}  {percent:>6} %  [blue]{bar}[/blue]")
