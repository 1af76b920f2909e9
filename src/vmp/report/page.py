"""Runs and tables as one HTML page that opens from disk: no server, no network, nothing beside it.

Notable here:
- the runs come first; tables come after them, and only those of the runs' own folders or those that were named;
- tables, the list of runs and how each was made are plain HTML; what is drawn comes from JSON in the page
  (page/script.js), which holds what the runs' files say and nothing else;
- names of classes, paths and tags are data: whatever is put into HTML or JSON goes through html.py;
- the same inputs give the same bytes: no clock, no host, everything in a fixed order;
- a page has a size that it does not exceed: curves are thinned, pictures are left out, and the page says so.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmp.errors import UserError
from vmp.files import replacing
from vmp.report.drawn import draw_worst, drawn_data
from vmp.report.entries import Entry, read_entry
from vmp.report.html import Html, as_json, join, tag
from vmp.report.runs import how_made, runs_table
from vmp.report.tables import Table, read_tables, table_html
from vmp.runs.run import Run, find_runs

PAGE = Path(__file__).parent
LIMIT = 14_000_000  # bytes of a page, at most
CLIPS = 4  # worst clips drawn for a run


@dataclass
class Written:
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
) -> Written:
    """Write the page.

    Args:
        folders: runs, or folders with runs below them.
        tables: folders with table<n>.csv, or with mini/table<n>.csv.
        clips: worst clips to draw for a run; 0 reads no video.
        limit: bytes.

    Raises:
        UserError: no run there, or the page cannot be written.
    """
    entries = sorted((read_entry(run, name) for run, name in _runs(folders)), key=lambda e: e.order)
    found = [table for folder in tables for table in read_tables(folder)]
    data = drawn_data(entries)
    made = {entry.run.folder.absolute(): number for number, entry in enumerate(entries)}
    parts = {
        "summary": _summary(entries, found),
        "tables": join(table_html(t, made) for t in found),
        "runs": runs_table(entries),
        "made": join(how_made(number, entry) for number, entry in enumerate(entries)),
        "nav_tables": "" if found else Html(" hidden"),
    }
    room = limit - len(_render(parts, data).encode("utf-8", "backslashreplace"))
    if room < 0:  # class by class is what grows with classes x runs
        data["left_out"] = "Confusion matrices are left out to keep the page small: name fewer folders."
        for one in data["runs"]:
            one["confusion"] = None
        room = limit - len(_render(parts, data).encode("utf-8", "backslashreplace"))
    if room < 0:
        raise UserError(
            f"{len(entries)} runs do not fit into a page of {limit / 1e6:.0f} MB; name fewer folders"
        )
    pictures = draw_worst(
        entries, data["runs"], clips=clips, room=room - 200 * len(entries), progress=progress
    )
    text = _render(parts, data).encode("utf-8", "backslashreplace")
    try:
        with replacing(out) as temporary:
            temporary.write_bytes(text)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); choose another with --out") from None
    finished = sum(not entry.problem for entry in entries)
    return Written(out, len(entries), finished, len(found), pictures, len(text))


def _runs(folders: Sequence[Path]) -> Iterator[tuple[Run, str]]:
    seen = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
        empty = True
        for run in find_runs(folder):
            empty = False
            if run.folder.resolve() not in seen:
                seen.add(run.folder.resolve())
                yield run, run.folder.as_posix()
        if empty:
            raise UserError(f"{folder}: no run there (no config.yaml below it); python train.py makes one")


def _render(parts: dict[str, str], data: dict[str, Any]) -> str:
    files = {
        "style": (PAGE / "style.css").read_text(encoding="utf-8"),
        "script": (PAGE / "script.js").read_text(encoding="utf-8"),
        "data": as_json(data),
    }
    fill = {**parts, **files}
    # one pass over the template: what was put in is not looked at again
    return re.sub(
        r"\{\{(\w+)\}\}", lambda m: str(fill[m[1]]), (PAGE / "page.html").read_text(encoding="utf-8")
    )


def _summary(entries: Sequence[Entry], tables: Sequence[Table]) -> Html:
    finished = sum(not entry.problem for entry in entries)
    embedded = sum(entry.kind == "motions" for entry in entries)
    lacking = sum(bool(entry.incomplete) for entry in entries)
    said = [
        tag("strong", f"{len(entries)} run{'s' * (len(entries) != 1)}"),
        f", {finished} finished",
        f", on {', '.join(sorted({entry.dataset for entry in entries}))}. ",
    ]
    notes = []
    if embedded == len(entries):
        notes.append("All of them are miniatures: small embedded videos, not the paper's datasets.")
    elif embedded:
        notes.append(f"{embedded} of them are miniatures: small embedded videos, not the paper's datasets.")
    if lacking:
        notes.append(f"{lacking} run{'s' * (lacking != 1)} lacked clips, and each is marked.")
    if any(t.mini for t in tables):
        notes.append(
            "In tables marked miniature, ours and the paper's are of other videos and models: compare directions, "
            "not sizes."
        )
    return tag("p", *said, " ".join(notes), class_="lead")
