"""The list of runs, and how each was made."""

from collections.abc import Sequence
from typing import Any

from vmp.errors import RunError, first_line
from vmp.formats import duration, finite, formatted
from vmp.report.entries import Entry
from vmp.report.html import Html, badge, join, number_cell, tag
from vmp.runs.records import CONFIG_FILE
from vmp.runs.run import Run

KINDS = {
    "motions": ", small embedded videos: a miniature",
    "prepared": ", the real videos",
    "list": ", videos of one's own",
    "manifest": ", videos of one's own",
}


COLUMNS = (  # head, whether numbers
    *(("Dataset", False), ("Backbone", False), ("Placement", False), ("Method", False), ("λ", True)),
    *(("Seed", True), ("Top-1", True), ("Top-5", True), ("Mean class", True), ("Slope a", True)),
    *(("Shift b", True), ("Clips", True), ("Time", True)),
)


def runs_table(entries: Sequence[Entry]) -> Html:
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
    mini = badge("miniature", "mini") if e.kind == "motions" else None
    name = tag("a", e.dataset, href=f"#run-{number}", title=e.name)
    cells = [
        tag("th", name, " " if mini else None, mini, scope="row", data_value=e.dataset),
        tag("td", e.backbone, data_value=e.backbone),
        tag("td", e.placement or "–", data_value=e.placement),
        tag("td", e.method, data_value=e.method),
        number_cell(e.weight, "g"),
        tag("td", tag("span", e.seed, class_="seed"), class_="n", data_value=e.seed),
    ]
    if e.problem:
        cells.append(tag("td", badge(e.short_problem, "open", e.problem), colspan=7, data_value=""))
        return tag("tr", *cells, data_open="1")
    r, c = e.result, e.counts
    cells += [number_cell(r.get(key), ".1f") for key in ("top1", "top5", "mean_class")]
    for key, form in (("slope", ".2f"), ("shift", "+.3f")):
        values = e.scalars(key)
        text = ", ".join((f"{p} " if len(values) > 1 else "") + formatted(v, form) for p, v in values.items())
        first = next(iter(values.values()), "")
        cells.append(tag("td", text or "–", class_="n", data_value=first))
    text = f"{c.get('present', '?')} of {c.get('expected', '?')}" if c else "–"
    flag = badge("clips missing", "open", "; ".join(e.incomplete)) if e.incomplete else None
    cells.append(tag("td", flag, " " if flag else None, text, class_="n", data_value=c.get("present", "")))
    seconds = finite(r.get("seconds"))
    cells.append(tag("td", duration(seconds), class_="n", data_value="" if seconds is None else seconds))
    return tag("tr", *cells)


def how_made(number: int, e: Entry) -> Html:
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
            ("top-1, counting lost clips as wrong", formatted(r.get("top1_lower_bound"), ".2f")),
            ("start weights", weights.get("source")),
            (
                "training",
                f"{r.get('steps')} updates of {batch.get('clips', '?')} clips"
                + (f", {r['parameters']:,} parameters" if isinstance(r.get("parameters"), int) else ""),
            ),
            ("device", r.get("device")),
            ("sittings", _sittings(r.get("sittings"))),
            ("time", duration(finite(r.get("seconds")))),
            ("clips a second", r.get("clips_per_second")),
            ("peak memory", f"{r['peak_memory_gb']} GB" if r.get("peak_memory_gb") else None),
            ("readers", ", ".join(map(str, r.get("readers", ())))),
            ("versions", ", ".join(f"{key} {value}" for key, value in versions.items())),
        ]
    listed = tag("dl", *(join((tag("dt", k), tag("dd", v))) for k, v in facts if v not in (None, "")))
    badges = [badge("miniature", "mini")] if e.kind == "motions" else []
    badges += [badge("clips missing", "open")] if e.incomplete else []
    badges += [badge("no result", "open")] if e.problem else []
    badges += [badge("damaged", "open", "; ".join(e.damaged))] if e.damaged else []
    parts = [listed, _counts(r), _lost(r), _again(e.run)]
    if e.damaged:
        parts.append(tag("ul", *(tag("li", line) for line in e.damaged)))
    if e.config:
        text = tag("pre", e.run.config_text, tabindex=0)
        parts.append(tag("details", tag("summary", CONFIG_FILE), text))
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


def _again(run: Run) -> Html | None:
    """Later tests of the run, with evaluate.py."""
    rows = []
    for evaluation in run.evaluations():
        name = evaluation.folder.name
        try:
            r = evaluation.result
            counts = r["clips"]
            numbers = [
                tag("td", formatted(r.get(k), ".1f"), class_="n") for k in ("top1", "top5", "mean_class")
            ]
            clips = f"{counts.get('present', '?')} of {counts.get('expected', '?')}"
            rows.append(tag("tr", tag("th", name, scope="row"), *numbers, tag("td", clips, class_="n")))
        except RunError as error:
            why = tag("td", f"cannot be read ({first_line(error)})", colspan=4)
            rows.append(tag("tr", tag("th", name, scope="row"), why))
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
