"""Runs and tables as one HTML page that opens from disk: no server, no network, nothing beside it.

Notable here:
- tables, the list of runs and how each was made are plain HTML; what is drawn comes from JSON in the page
  (page/script.js), which holds what the runs' files say and nothing else;
- names of classes, paths and tags are data: whatever is put into HTML or JSON goes through `tag` or `_json`;
- the same inputs give the same bytes: no clock, no host, everything in a fixed order;
- a page has a size that it does not exceed: curves are thinned, pictures are left out, and the page says so.
"""

import base64
import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from vmp.errors import UserError
from vmp.files import replacing
from vmp.results.collect import Run, find_runs

PAGE = Path(__file__).parent / "page"
LIMIT = 14_000_000  # bytes of a page, at most
CLIPS = 4  # worst clips drawn for a run
KINDS = {
    "motions": ", small embedded videos: a miniature",
    "prepared": ", the real videos",
    "list": ", videos of one's own",
    "manifest": ", videos of one's own",
}
SHAPES: dict[str, type] = {  # of what a result holds, where it holds it
    **dict.fromkeys(("clips", "scalars", "versions", "batch", "weights", "unreadable_in_training"), dict),
    **dict.fromkeys(("views", "readers"), list),
    "split": str,
}


class Html(str):
    """Text that is HTML already."""


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element. Children that are not Html are escaped, None leaves out; `data_value` is written data-value."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{said}>{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Html:
    return Html("".join(c if isinstance(c, Html) else escape(str(c)) for c in children if c is not None))


# --- a run ---------------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """A run as the page shows it. problem: why there is no result; it is shown in its place."""

    run: Run
    name: str  # its folder, as it was given
    dataset: str = "?"
    kind: str = "?"  # of the dataset: motions, prepared, list, manifest
    backbone: str = "?"
    placement: str = ""
    method: str = "?"
    weight: float | None = None  # lambda; None: there are no prompts
    seed: str = "?"
    config: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    problem: str = ""

    @property
    def label(self) -> str:
        weight = "" if self.weight is None else f" λ {self.weight:g}"
        parts = (self.dataset, self.backbone, self.placement, f"{self.method}{weight}", f"seed {self.seed}")
        return " · ".join(part for part in parts if part)

    @property
    def order(self) -> tuple[Any, ...]:
        """In the list: what goes without prompts before what has them, then by lambda and seed."""
        prompted = self.weight is not None
        what = (self.dataset, self.backbone, prompted, self.placement, self.method, self.weight or 0.0)
        return (*what, _natural(self.seed), self.name)

    @property
    def short_problem(self) -> str:
        return self.problem if self.problem.startswith("unfinished") else "cannot be read"

    @property
    def counts(self) -> dict[str, int]:
        """Of the tested split: expected, present, missing, unreadable."""
        found = self.result.get("clips", {}).get(self.result.get("split"), {})
        return {key: value for key, value in found.items() if isinstance(value, int)}

    @property
    def incomplete(self) -> list[str]:
        """What clips were lacking, a sentence a split."""
        out = []
        for split, c in self.result.get("clips", {}).items():
            if isinstance(c, dict) and c.get("present") != c.get("expected"):
                out.append(
                    f"{split}: {c.get('present')} of {c.get('expected')} clips "
                    f"({c.get('missing')} missing, {c.get('unreadable')} unreadable)"
                )
        return out

    def scalars(self, name: str) -> dict[str, float]:
        """slope or shift: pathway -> value, as the result has it."""
        found = {}
        for key, value in self.result.get("scalars", {}).items():
            pathway, _, last = key.rpartition("/")
            if last == name and (number := _number(value)) is not None:
                found[pathway or "video"] = number
        return found


def read_entry(run: Run, name: str) -> Entry:
    """What there is of a run; what cannot be read is told in the page, not raised."""
    entry = Entry(run, name)
    try:
        config = run.config
        dataset, backbone, v = config["dataset"], config["backbone"], config["vmp"]
        entry.dataset = str(config.get("name") or dataset.get("name"))
        entry.kind = str(dataset.get("kind"))
        entry.backbone = _backbone(config)
        entry.method = str(v.get("name") or v["kind"])
        if v["kind"] != "none":
            entry.weight = _number(v.get("lambda"))
            if backbone["name"] == "slowfast":
                chosen = v.get("placement", "default")
                entry.placement = "both" if chosen == "default" else str(chosen)
            if v.get("split", "plus_one") != "plus_one":
                entry.placement = f"{entry.placement} {v['split']}".strip()
        frozen = (config.get("train") or {}).get("freeze", "none")
        if frozen != "none":
            entry.method += f", frozen {frozen}"
        entry.config = config
        entry.seed = str(config.get("seed", "?")) + (f" {config['tag']}" if config.get("tag") else "")
    except Exception as error:
        entry.problem = f"config.yaml cannot be read ({type(error).__name__}: {_first(error)})"
        return entry
    with suppress(OSError, ValueError, KeyError, csv.Error):
        older = not (run.folder / "classes.txt").is_file()  # runs once kept no list of classes
        entry.classes = [row["name"] for row in run.per_class] if older else run.classes
    with suppress(OSError, ValueError):
        entry.rows = [row for row in run.rows if isinstance(row, dict)]
    if not run.finished:
        entry.problem = _progress(entry)
        return entry
    try:
        result = run.result
        if not isinstance(result, dict) or _number(result.get("top1")) is None:
            raise ValueError("no top1 in it")
        for key, kind in SHAPES.items():
            if not isinstance(result.get(key, kind()), kind):
                raise ValueError(f"{key} = {result[key]!r}")
        entry.result = result
    except (OSError, ValueError) as error:
        entry.problem = f"result.json cannot be read ({_first(error)})"
    return entry


def _backbone(config: dict[str, Any]) -> str:
    b = config["backbone"]
    size = b.get("size")
    key = b["name"] + (f"_{size}" if size and size != "base" else "")
    weights = b.get("weights")
    if config.get("init_from"):
        return f"{key}, from a run"
    return f"{key}, {Path(str(weights)).name}" if weights and weights != "none" else str(key)


def _progress(entry: Entry) -> str:
    epochs = (entry.config.get("trainer") or {}).get("epochs", "?")
    reached = max((r["epoch"] for r in entry.rows if _number(r.get("epoch")) is not None), default=0)
    return f"unfinished: epoch {reached:.3g} of {epochs}" if reached else "unfinished: nothing logged yet"


# --- the page ------------------------------------------------------------------------------------------------------


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
    say: Callable[[str], None] = lambda text: None,
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
    data = _data(entries)
    made = {entry.run.folder.absolute(): number for number, entry in enumerate(entries)}
    parts = {
        "summary": _summary(entries, found),
        "tables": join(_table(t, made) for t in found) or tag("p", NO_TABLES, class_="note"),
        "runs": _runs_table(entries),
        "made": join(_made(number, entry) for number, entry in enumerate(entries)),
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
    pictures = _draw_worst(entries, data["runs"], clips=clips, room=room - 200 * len(entries), say=say)
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
        "data": _json(data),
    }
    fill = {**parts, **files}
    # one pass over the template: what was put in is not looked at again
    return re.sub(
        r"\{\{(\w+)\}\}", lambda m: str(fill[m[1]]), (PAGE / "page.html").read_text(encoding="utf-8")
    )


def _json(value: Any) -> str:
    """JSON that can stand in a <script>: no "<" ends it or begins a comment, no U+2028 ends a line."""
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"), default=str
    )
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _summary(entries: Sequence[Entry], tables: Sequence["Table"]) -> Html:
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


# --- tables --------------------------------------------------------------------------------------------------------

NO_TABLES = (
    "No tables yet. make table1 … make table8 write them to docs/results; --tables FOLDER takes others."
)


@dataclass
class Table:
    """A table as its CSV has it: cells by (row, column), in the file's order."""

    title: str
    mini: bool
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], dict[str, str]]
    path: str
    note: str = ""
    digits: int = 1
    problem: str = ""


def read_tables(folder: Path) -> list[Table]:
    """Of table<n>.csv there and in mini/; a file that cannot be read is one with a problem."""
    paths = [*folder.glob("table*.csv"), *folder.glob("mini/table*.csv")]
    return [
        _read_table(path) for path in sorted(paths, key=lambda p: (_natural(p.stem), p.parent.as_posix()))
    ]


def _read_table(path: Path) -> Table:
    number = re.sub(r"^table[-_ ]*", "", path.stem)
    table = Table(f"Table {number}", path.parent.name == "mini", [], [], {}, path.as_posix())
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                at = row["row"], row["column"]
                table.rows += [at[0]] * (at[0] not in table.rows)
                table.columns += [at[1]] * (at[1] not in table.columns)
                table.cells[at] = {key: (value or "").strip() for key, value in row.items() if key}
    except (OSError, ValueError, KeyError, AttributeError, csv.Error) as error:
        table.problem = (
            f"{path.as_posix()} cannot be read as a table ({type(error).__name__}: {_first(error)})"
        )
    if any(cell.get("spread") for cell in table.cells.values()):
        table.digits = 4  # seconds
    with suppress(OSError, ValueError):  # the same table for reading has its title and a note
        title, *rest = path.with_suffix(".md").read_text(encoding="utf-8").split("\n\n")
        table.title = title.removeprefix("#").strip() or table.title
        if rest and rest[0][:1] not in "#|-":
            table.note = rest[0].strip()
    return table


def _table(table: Table, made: dict[Path, int]) -> Html:
    """made: folder of a run in the page -> its number."""
    title = tag("h3", table.title, " ", _badge("miniature", "mini") if table.mini else None)
    if table.problem:
        return tag("article", title, tag("p", table.problem, class_="note"))
    head = tag("tr", tag("td", ""), *(tag("th", c, scope="col") for c in table.columns))
    body = [
        tag(
            "tr",
            tag("th", row, scope="row"),
            *(_cell(table.cells.get((row, column)), table.digits, made) for column in table.columns),
        )
        for row in table.rows
    ]
    commits = sorted({c for cell in table.cells.values() for c in cell.get("commit", "").split()})
    below = tag(
        "p",
        "Ours above: mean over seeds, their range in brackets. Under it the paper's number, and ours less the ",
        "paper's where that means something. Arrows: the gain over the baseline. ",
        f"From {table.path}" + (f", commit {', '.join(commits)}." if commits else "."),
        class_="note",
    )
    box = tag(
        "div",
        tag("table", tag("thead", head), tag("tbody", *body), class_="paper"),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label=table.title,
    )
    note = tag("p", table.note, class_="note") if table.note else None
    return tag("article", title, note, box, below)


def _cell(cell: dict[str, str] | None, digits: int, made: dict[Path, int]) -> Html:
    """Ours, its range and gain over the paper's, its gain and the difference; a number leads to the run behind it."""
    if cell is None:
        return tag("td", tag("span", "–", class_="quiet"))

    def said(key: str) -> str:
        number = _number(cell.get(key, ""))
        return cell.get(key, "") if number is None else f"{number:.{digits}f}".replace("-", "−")

    def gain(key: str) -> Html | None:
        number = _number(cell.get(key, ""))
        if number is None:
            return None
        arrow = "" if not float(f"{number:.{digits}f}") else "↑" if number > 0 else "↓"
        return tag("span", f" {arrow}{abs(number):.{digits}f}", class_="gain")

    known = _number(cell.get("ours", "")) is not None
    low, high = (said(key) or said(f"{key}est") for key in ("low", "high"))
    spread = (
        tag("span", f" [{low}–{high}]", class_="range") if known and low and high and low != high else None
    )
    if cell.get("spread"):
        spread = tag("span", f" ±{said('spread')}", class_="range")
    paper = join((f"paper {said('paper') or '–'}", gain("paper_gain")))
    difference = _number(cell.get("difference", "")) if known else None
    signed = None
    if difference is not None:
        rounded = round(difference, digits)
        signed = f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"
    folders = [Path(text) for text in cell.get("runs", "").split()]
    numbers = [made[home] for f in folders for home in (f.absolute(), *f.absolute().parents) if home in made]
    ours: Html | str = said("ours") if known else "not run"
    if numbers:
        ours = tag("a", ours, href=f"#run-{numbers[0]}")
    clips, expected = cell.get("clips", ""), cell.get("clips_expected", "")
    lacking = known and expected and clips != expected
    return tag(
        "td",
        _badge(f"{clips} of {expected} clips", "open") if lacking else None,
        " " if lacking else None,
        tag("span", ours, class_="ours" if known else "quiet"),
        gain("gain") if known else None,
        spread,
        Html("<br>"),
        tag("span", paper, class_="theirs"),
        tag("span", " ", signed, class_="diff") if signed else None,
        title=f"{clips}{f' of {expected}' if expected else ''} clips" if clips and known else None,
    )


# --- the list of runs, and how each was made -----------------------------------------------------------------------

COLUMNS = (  # head, whether numbers
    *(("Dataset", False), ("Backbone", False), ("Placement", False), ("Method", False), ("λ", True)),
    *(("Seed", True), ("Top-1", True), ("Top-5", True), ("Mean class", True), ("Slope a", True)),
    *(("Shift b", True), ("Clips", True), ("Time", True)),
)


def _runs_table(entries: Sequence[Entry]) -> Html:
    head = [
        tag(
            "th",
            tag("button", name, type="button"),
            scope="col",
            aria_sort="none",
            class_="n" if numbers else None,
        )
        for name, numbers in COLUMNS
    ]
    body = [_run_row(number, entry) for number, entry in enumerate(entries)]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), id="runs-table")
    return tag("div", table, class_="scroll tall full", tabindex=0, role="region", aria_label="Runs")


def _run_row(number: int, e: Entry) -> Html:
    badge = _badge("miniature", "mini") if e.kind == "motions" else None
    name = tag("a", e.dataset, href=f"#run-{number}", title=e.name)
    cells = [
        tag("th", name, " " if badge else None, badge, scope="row", data_value=e.dataset),
        tag("td", e.backbone, data_value=e.backbone),
        tag("td", e.placement or "–", data_value=e.placement),
        tag("td", e.method, data_value=e.method),
        _n(e.weight, "g"),
        tag("td", tag("span", e.seed, class_="seed"), class_="n", data_value=e.seed),
    ]
    if e.problem:
        cells.append(tag("td", _badge(e.short_problem, "open", e.problem), colspan=7, data_value=""))
        return tag("tr", *cells, data_open="1")
    r, c = e.result, e.counts
    cells += [_n(r.get(key), ".1f") for key in ("top1", "top5", "mean_class")]
    for key, form in (("slope", ".2f"), ("shift", "+.3f")):
        values = e.scalars(key)
        text = ", ".join((f"{p} " if len(values) > 1 else "") + _format(v, form) for p, v in values.items())
        first = next(iter(values.values()), "")
        cells.append(tag("td", text or "–", class_="n", data_value=first))
    text = f"{c.get('present', '?')} of {c.get('expected', '?')}" if c else "–"
    flag = _badge("clips missing", "open", "; ".join(e.incomplete)) if e.incomplete else None
    cells.append(tag("td", flag, " " if flag else None, text, class_="n", data_value=c.get("present", "")))
    seconds = _number(r.get("seconds"))
    cells.append(tag("td", _time(seconds), class_="n", data_value="" if seconds is None else seconds))
    return tag("tr", *cells)


def _made(number: int, e: Entry) -> Html:
    r = e.result
    facts: list[tuple[str, Any]] = [("folder", tag("code", e.name))]
    facts.append(("dataset", f"{e.dataset}{KINDS.get(e.kind, '')}"))
    if e.problem:
        facts.append(("state", e.problem))
    commit = r.get("commit")
    views = "×".join(str(v) for v in r.get("views", ()))
    batch = r.get("batch") or {}
    weights = r.get("weights") or {}
    versions = r.get("versions") or {}
    if r:
        tested = f"{r.get('split')}, weights of epoch {r.get('epoch')}, {views} views a clip"
        if r.get("degrade") not in (None, "none"):
            tested += f", frames degraded ({r['degrade']})"
        facts += [
            ("command", tag("code", r.get("command", "–"))),
            (
                "commit",
                f"{commit.removesuffix('-dirty')}, with changes not committed"
                if isinstance(commit, str) and commit.endswith("-dirty")
                else commit or "not known: made outside a checkout",
            ),
            ("finished", r.get("finished")),
            ("seed", r.get("seed")),
            ("tested on", tested),
            ("top-1, counting lost clips as wrong", _format(r.get("top1_lower_bound"), ".2f")),
            ("start weights", weights.get("source")),
            (
                "training",
                f"{r.get('steps')} updates of {batch.get('clips', '?')} clips"
                + (f", {r['parameters']:,} parameters" if isinstance(r.get("parameters"), int) else ""),
            ),
            ("device", r.get("device")),
            ("sittings", _sittings(r.get("sittings"))),
            ("time", _time(_number(r.get("seconds")))),
            ("clips a second", r.get("clips_per_second")),
            ("peak memory", f"{r['peak_memory_gb']} GB" if r.get("peak_memory_gb") else None),
            ("readers", ", ".join(map(str, r.get("readers", ())))),
            ("versions", ", ".join(f"{key} {value}" for key, value in versions.items())),
        ]
    listed = tag("dl", *(join((tag("dt", k), tag("dd", v))) for k, v in facts if v not in (None, "")))
    badges = [_badge("miniature", "mini")] if e.kind == "motions" else []
    badges += [_badge("clips missing", "open")] if e.incomplete else []
    badges += [_badge("no result", "open")] if e.problem else []
    parts = [listed, _counts(r), _lost(r), _again(e.run.folder)]
    config = _text(e.run.folder / "config.yaml")
    parts.append(tag("details", tag("summary", "config.yaml"), tag("pre", config, tabindex=0)))
    return tag(
        "details",
        tag("summary", e.label, *(x for badge in badges for x in (" ", badge))),
        tag("div", *parts, class_="inside"),
        id=f"run-{number}",
        class_="made",
    )


def _sittings(value: Any) -> Html | Any:
    """A line a sitting: where it began and on what."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        return value
    lines = []
    for one in value:
        rest = [f"{key} {v}" for key, v in one.items() if key not in ("step", "processes", "device")]
        on = f"{one.get('processes', '?')} × {one.get('device', '?')}"
        lines.append(tag("div", f"from update {one.get('step', '?')}: {', '.join([on, *rest])}"))
    return join(lines) if lines else None


def _counts(result: dict[str, Any]) -> Html | None:
    keys = ("expected", "present", "missing", "unreadable")
    splits = {k: v for k, v in (result.get("clips") or {}).items() if isinstance(v, dict)}
    if not splits:
        return None
    head = tag("tr", *(tag("th", k, scope="col", class_="n") for k in keys))
    head = Html(str(head).replace("<tr>", '<tr><th scope="col">clips</th>', 1))
    body = [
        tag("tr", tag("th", s, scope="row"), *(tag("td", c.get(k, "–"), class_="n") for k in keys))
        for s, c in splits.items()
    ]
    table = tag("table", tag("thead", head), tag("tbody", *body), class_="small")
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="clips")


def _lost(result: dict[str, Any]) -> Html | None:
    lost = result.get("unreadable_in_training") or {}
    if not lost:
        return None
    items = [tag("li", f"{clip}: {why}") for clip, why in list(lost.items())[:20]]
    if len(lost) > 20:
        items.append(tag("li", f"… and {len(lost) - 20} more"))
    return join((tag("p", "Unreadable in training:"), tag("ul", *items)))


def _again(folder: Path) -> Html | None:
    """Later tests of the run, with evaluate.py."""
    rows = []
    for path in sorted(folder.glob("evaluations/*/result.json")):
        try:
            r = json.loads(path.read_text(encoding="utf-8"))
            counts = r.get("clips", {})
            numbers = [
                tag("td", _format(r.get(k), ".1f"), class_="n") for k in ("top1", "top5", "mean_class")
            ]
            clips = f"{counts.get('present', '?')} of {counts.get('expected', '?')}"
            rows.append(
                tag("tr", tag("th", path.parent.name, scope="row"), *numbers, tag("td", clips, class_="n"))
            )
        except (OSError, ValueError, AttributeError):
            rows.append(
                tag("tr", tag("th", path.parent.name, scope="row"), tag("td", "unreadable", colspan=4))
            )
    if not rows:
        return None
    names = ("Top-1", "Top-5", "Mean class", "Clips")
    head = tag(
        "tr",
        tag("th", "tested again", scope="col"),
        *(tag("th", k, scope="col", class_="n") for k in names),
    )
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="small")
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="tested again")


def _badge(text: str, kind: str, title: str | None = None) -> Html:
    return tag("span", text, class_=f"badge {kind}", title=title)


def _n(value: Any, form: str) -> Html:
    number = _number(value)
    return tag("td", _format(number, form), class_="n", data_value="" if number is None else repr(number))


def _format(value: Any, form: str) -> str:
    number = _number(value)
    return "–" if number is None else format(number, form).replace("-", "−")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"


# --- what is drawn -------------------------------------------------------------------------------------------------


def _data(entries: Sequence[Entry]) -> dict[str, Any]:
    """What page/script.js draws. Runs are in the order of the list; classes are kept once for runs that share them."""
    points = max(24, min(240, 60_000 // max(1, len(entries))))
    lists: list[list[str]] = []
    runs = []
    for number, e in enumerate(entries):
        if e.classes not in lists:
            lists.append(e.classes)
        runs.append(
            {
                "number": number,
                "label": e.label,
                "dataset": e.dataset,
                "backbone": e.backbone,
                "placement": e.placement,
                "method": e.method,
                "lambda": e.weight,
                "seed": e.seed,
                "mini": e.kind == "motions",
                "problem": e.problem,
                "top1": _number(e.result.get("top1")),
                "split": e.result.get("split"),
                "classes": lists.index(e.classes),
                "curves": _curves(e, points),
                "ranges": _ranges(e.config.get("vmp")),
                "pairs": [
                    [pathway, slope, e.scalars("shift")[pathway]]
                    for pathway, slope in e.scalars("slope").items()
                    if pathway in e.scalars("shift")
                ],
                **_by_class(e),
                "worst": None,
                "worst_note": "",
            }
        )
    return {"runs": runs, "classes": lists, "left_out": ""}


def _curves(e: Entry, points: int) -> list[dict[str, Any]]:
    """Lines against epochs: what (loss, top1, top5, slope, shift), pathway, points (epoch, value)."""
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in e.rows:
        epoch = _number(row.get("epoch"))
        if epoch is None:
            continue
        for key, value in row.items():
            number, path = _number(value), str(key).split("/")
            if number is None:
                continue
            if key == "train/loss":
                lines.setdefault(("loss", ""), []).append((epoch, number))
            elif key in ("val/top1", "val/top5"):
                lines.setdefault((path[1], ""), []).append((epoch, number))
            elif path[0] == "vmp" and path[-1] in ("slope", "shift"):
                lines.setdefault((path[-1], "/".join(path[1:-1])), []).append((epoch, number))
    return [
        {"what": what, "pathway": pathway, "points": [[_short(x), _short(y)] for x, y in _thin(line, points)]}
        for (what, pathway), line in sorted(lines.items())
    ]


def _thin(line: list[tuple[float, float]], points: int) -> list[tuple[float, float]]:
    """At most so many of them, evenly, the first and the last among them."""
    if len(line) <= points:
        return line
    step = (len(line) - 1) / (points - 1)
    return [line[round(i * step)] for i in range(points)]


def _ranges(v: Any) -> dict[str, list[float]] | None:
    """Admissible slopes and shifts (Eq. 2): [alpha / (beta + epsilon), alpha / epsilon] and (-gamma, gamma)."""
    if not isinstance(v, dict) or v.get("kind") != "learned":
        return None
    alpha, beta, gamma, epsilon = (_number(v.get(key)) for key in ("alpha", "beta", "gamma", "epsilon"))
    if alpha is None or beta is None or gamma is None or not epsilon:
        return None
    return {"slope": [alpha / (beta + epsilon), alpha / epsilon], "shift": [-gamma, gamma]}


def _by_class(e: Entry) -> dict[str, Any]:
    """confusion: (true, predicted, clips) of what occurs; per_class: (clips, right) a class; None: not there."""
    counts: dict[tuple[int, int], int] = {}
    per_class: list[list[int]] | None = None
    if not e.result or not e.classes:
        return {"confusion": None, "per_class": None}
    try:
        for row in e.run.predictions:
            if row["label"] and row["predicted"]:
                at = int(row["label"]), int(row["predicted"])
                if not all(0 <= i < len(e.classes) for i in at):
                    raise ValueError(f"class {max(at)} of {len(e.classes)}")
                counts[at] = counts.get(at, 0) + 1
        rows = e.run.per_class
        if len(rows) == len(e.classes):
            per_class = [[int(row["clips"]), int(row["right"])] for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {"confusion": None, "per_class": None}
    return {"confusion": [[*at, n] for at, n in sorted(counts.items())] or None, "per_class": per_class}


def _draw_worst(
    entries: Sequence[Entry],
    runs: list[dict[str, Any]],
    *,
    clips: int,
    room: int,
    say: Callable[[str], None],
) -> int:
    """The clips that each run got wrong with the highest score, with pictures while there is room; how many pictures.

    All runs get their worst before any gets its second worst.
    """
    from vmp.results.worst import Drawer, worst_clips

    drawers: dict[int, Drawer] = {}
    drawn = 0
    for e, one in zip(entries, runs, strict=True):
        if not e.result:
            one["worst_note"] = "There is no result yet."
            continue
        try:
            one["worst"] = worst_clips(e.run, e.result, count=clips)
        except (OSError, ValueError, KeyError, TypeError, csv.Error):
            one["worst_note"] = "predictions.csv is not there, or damaged."
            continue
        room -= len(_json(one["worst"]).encode("utf-8", "backslashreplace"))
        if not clips:
            one["worst_note"] = "Clips were not asked for (--clips 0)."
        elif not one["worst"]:
            one["worst_note"] = "No clip was wrong."
    for rank in range(clips):
        for number, (e, one) in enumerate(zip(entries, runs, strict=True)):
            if rank >= len(one["worst"] or ()) or one["worst_note"]:
                continue
            if rank == 0:
                say(f"drawing clips of {e.name}")
            clip = one["worst"][rank]
            try:
                if number not in drawers:
                    drawers[number] = Drawer(e.run, e.config, e.result)
                strips = drawers[number].draw(clip["id"])
            except UserError as error:
                one["worst_note"] = f"No pictures: {_first(error)}"
                continue
            pictures = [
                {**about, "src": "data:image/webp;base64," + base64.b64encode(picture).decode("ascii")}
                for about, picture in strips
            ]
            size = len(_json(pictures))
            if size > room:
                one["worst_note"] = "Some pictures are left out to keep the page small."
                continue
            room -= size
            clip["pictures"] = pictures
            drawn += len(pictures)
    return drawn


# --- small things --------------------------------------------------------------------------------------------------


def _number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _natural(name: str) -> tuple[int, str]:
    number = re.search(r"\d+", name)
    return (int(number[0]) if number else 0), name


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"({error.strerror})"
