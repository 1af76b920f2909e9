"""Runs and tables as one HTML page that opens from disk: no server, no network, no files beside it.

Notes:
- the answer comes first (answers.py), then the runs; tables follow, only those of the runs' own folders or those
  named on the command line;
- the templates (*.html) render tables, the list of runs and their details as plain HTML and escape everything that
  comes from a run's folder; script.js draws the rest from JSON in the page (drawn.py);
- the same inputs give the same bytes: no clock, no host name, everything in a fixed order;
- the page never exceeds a given size: curves are thinned, confusion matrices and pictures of the less interesting
  runs are left out, and the page says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vmp.errors import UserError
from vmp.files import replacing
from vmp.formats import finite, format_duration, format_number, format_signed
from vmp.invocation import command_line
from vmp.report.answers import find_answers, summarize
from vmp.report.details import read_details
from vmp.report.drawn import as_json, draw_worst, drawn_data, fit_confusions
from vmp.report.entries import Entry, read_entry
from vmp.report.searches import read_searches
from vmp.report.tables import PrintedTable, read_tables
from vmp.runs.run import find_runs

HERE = Path(__file__).parent
LIMIT = 5_000_000  # bytes of a page at most
POINTS, MOST_POINTS, FEWEST_POINTS = 18_000, 240, 24  # of a line in all runs, in one run
CLIPS = 4  # worst clips drawn per run


@dataclass(frozen=True)
class WrittenPage:
    """The file and what it holds."""

    path: Path
    runs: int
    finished: int
    tables: int
    pictures: int
    bytes: int


def write_report(
    folders: Sequence[Path],
    *,
    out: Path,
    tables: Sequence[Path] = (),
    clips: int = CLIPS,
    limit: int = LIMIT,
    progress: bool = False,
) -> WrittenPage:
    """Write the page.

    Args:
        folders: runs, or folders with runs below them.
        tables: folders with table<n>.csv, or with mini/table<n>.csv.
        clips: worst clips to draw per run; 0 reads no video.
        limit: bytes of the page at most.

    Raises:
        UserError: there is no run, the page would exceed `limit`, or it cannot be written.
    """
    found = list(_find_runs(folders))
    points = max(FEWEST_POINTS, min(MOST_POINTS, POINTS // max(1, len(found))))
    entries = sorted(
        (read_entry(folder, name, points=points, worst=clips) for folder, name in found),
        key=lambda e: e.order,
    )
    printed = [table for folder in tables for table in read_tables(folder)]
    answers = find_answers(entries)
    first = [number for a in answers for one in (a.best, a.other) if one for number in one.numbers[:1]]
    data = drawn_data(entries)
    content: dict[str, Any] = {
        "runs": entries,
        "finished": sum(not entry.problem for entry in entries),
        "answers": answers,
        "summary": summarize(answers),
        "notes": _notes(entries, printed),
        "provenance": [read_details(entry) for entry in entries],
        "tables": printed,
        "searches": read_searches(folders),
        "run_numbers": {entry.run.folder.absolute(): number for number, entry in enumerate(entries)},
    }
    room = limit - len(_render(content, {}))
    fit_confusions(data, first, room)
    room -= len(as_json(data))
    if room < 0:
        raise UserError(
            f"{len(entries)} runs do not fit into a page of {limit / 1e6:.0f} MB; name fewer folders"
        )
    pictures = draw_worst(
        entries, data["runs"], first=first, clips=clips, room=room - 200 * len(entries), progress=progress
    )
    page = _render(content, data)
    try:
        with replacing(out) as temporary:
            temporary.write_bytes(page)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another with --out") from None
    return WrittenPage(out, len(entries), content["finished"], len(printed), pictures, len(page))


def _find_runs(folders: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each run once, with its folder as the user named it."""
    seen = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        empty = True
        for run in find_runs(folder):
            empty = False
            if run.folder.resolve() not in seen:
                seen.add(run.folder.resolve())
                yield run.folder, run.folder.as_posix()
        if empty:
            raise UserError(
                f"{folder}: no run there (no config.yaml below it); {command_line('train')} makes one"
            )


def _render(content: dict[str, Any], data: dict[str, Any]) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: "" if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "finite": finite,
        "format_number": format_number,
        "format_signed": format_signed,
        "format_duration": format_duration,
    }
    text = environment.get_template("page.html").render(
        **content,
        as_folder=lambda text: Path(text).absolute(),
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "script.js").read_text(encoding="utf-8")),
        data=as_json(data),
    )
    return text.encode("utf-8", "backslashreplace")  # a file name need not be valid UTF-8


def _notes(entries: Sequence[Entry], tables: Sequence[PrintedTable]) -> list[str]:
    """What a reader has to know before comparing numbers."""
    miniatures = sum(entry.miniature for entry in entries)
    lacking = sum(bool(entry.incomplete) for entry in entries)
    notes = []
    if miniatures:
        which = "All" if miniatures == len(entries) else f"{miniatures}"
        notes.append(f"{which} of them are miniatures: small generated videos, not the paper's datasets.")
    if lacking:
        notes.append(f"{lacking} run{'s' * (lacking != 1)} lacked clips, and each is marked.")
    if any(table.miniature for table in tables):
        notes.append(
            "In tables marked miniature, ours and the paper's are of other videos and models: compare directions, "
            "not sizes."
        )
    return notes
