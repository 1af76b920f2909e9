"""The data that script.js draws: JSON of what the runs' files say and nothing else."""

import base64
from collections.abc import Sequence
from typing import Any

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from vmp.errors import RunError, UserError, first_line
from vmp.formats import finite, round_digits
from vmp.progress import bar
from vmp.report.entries import Entry


def as_json(value: Any) -> Markup:
    """ASCII JSON that can stand in a <script>: nothing in it ends the element or opens a comment."""
    return htmlsafe_json_dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":"), default=str)


def drawn_data(entries: Sequence[Entry]) -> dict[str, Any]:
    """Runs in the order of the list; a list of classes that several runs share is kept once."""
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
                "problem": e.problem,
                "top1": finite(e.result.get("top1")),
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
    """Lines over epochs: what (loss, top1, top5, slope, shift), pathway, points (epoch, value)."""
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in e.rows:
        epoch = finite(row.get("epoch"))
        if epoch is None:
            continue
        for key, value in row.items():
            number, path = finite(value), str(key).split("/")
            if number is None:
                continue
            if key == "train/cross_entropy":  # without λV, so that runs of different λ compare
                lines.setdefault(("loss", ""), []).append((epoch, number))
            elif key in ("val/top1", "val/top5"):
                lines.setdefault((path[1], ""), []).append((epoch, number))
            elif path[0] == "vmp" and path[-1] in ("slope", "shift"):
                lines.setdefault((path[-1], "/".join(path[1:-1])), []).append((epoch, number))
    return [
        {
            "what": what,
            "pathway": pathway,
            "points": [[round_digits(x), round_digits(y)] for x, y in _thin(line, points)],
        }
        for (what, pathway), line in sorted(lines.items())
    ]


def _thin(line: list[tuple[float, float]], points: int) -> list[tuple[float, float]]:
    """At most `points` evenly spaced points, including the first and the last."""
    if len(line) <= points:
        return line
    step = (len(line) - 1) / (points - 1)
    return [line[round(i * step)] for i in range(points)]


def _ranges(v: Any) -> dict[str, list[float]] | None:
    """The range of slope and shift (Eq. 2): [alpha / (beta + epsilon), alpha / epsilon] and (-gamma, gamma)."""
    if not isinstance(v, dict) or v.get("kind") != "learned":
        return None
    alpha, beta, gamma, epsilon = (finite(v.get(key)) for key in ("alpha", "beta", "gamma", "epsilon"))
    if alpha is None or beta is None or gamma is None or not epsilon:
        return None
    return {"slope": [alpha / (beta + epsilon), alpha / epsilon], "shift": [-gamma, gamma]}


def _by_class(e: Entry) -> dict[str, Any]:
    """confusion: (true, predicted, clips) of the pairs that occur; per_class: (clips, right) of each class. None where
    the files do not have them."""
    counts: dict[tuple[int, int], int] = {}
    per_class: list[list[int]] | None = None
    if not e.result or not e.classes:
        return {"confusion": None, "per_class": None}
    try:
        for row in e.run.predictions:
            if row["predicted"]:
                at = int(row["label"]), int(row["predicted"])
                counts[at] = counts.get(at, 0) + 1
        rows = e.run.per_class
        if len(rows) == len(e.classes):
            per_class = [[int(row["clips"]), int(row["right"])] for row in rows]
    except RunError:
        return {"confusion": None, "per_class": None}
    return {"confusion": [[*at, n] for at, n in sorted(counts.items())] or None, "per_class": per_class}


def draw_worst(
    entries: Sequence[Entry], runs: list[dict[str, Any]], *, clips: int, room: int, progress: bool
) -> int:
    """Add to `runs` the clips that each got wrong with the highest score, with pictures while there is room.

    Every run's worst clip is drawn before any run's second worst.

    Args:
        room: bytes that clips and pictures may take.

    Returns:
        the number of pictures.
    """
    from vmp.figures.worst import ClipDrawer, worst_clips

    drawers: dict[int, ClipDrawer] = {}
    drawn = 0
    for e, one in zip(entries, runs, strict=True):
        if not e.result:
            one["worst_note"] = "There is no result yet."
            continue
        try:
            one["worst"] = worst_clips(e.run, e.result, count=clips)
        except RunError as error:
            one["worst_note"] = f"predictions.csv cannot be read ({first_line(error)})."
            continue
        room -= len(as_json(one["worst"]))
        if not clips:
            one["worst_note"] = "No clips were drawn (--clips 0)."
        elif not one["worst"]:
            one["worst_note"] = "No clip was wrong."
    todo = [
        (number, rank)
        for rank in range(clips)
        for number, one in enumerate(runs)
        if rank < len(one["worst"] or ()) and not one["worst_note"]
    ]
    with bar("draw clips", len(todo), shown=progress) as shown:
        for number, rank in todo:
            shown.advance()
            e, one = entries[number], runs[number]
            if one["worst_note"]:  # an earlier clip of this run failed or did not fit
                continue
            clip = one["worst"][rank]
            try:
                if number not in drawers:
                    drawers[number] = ClipDrawer(e.run, e.result)
                strips = drawers[number].draw(clip["id"])
            except (
                Exception
            ) as error:  # a foreign run's config may hold anything; the page goes without its pictures
                kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
                one["worst_note"] = f"No pictures: {kind}{first_line(error)}"
                continue
            pictures = [
                {**about, "src": "data:image/webp;base64," + base64.b64encode(picture).decode("ascii")}
                for about, picture in strips
            ]
            size = len(as_json(pictures))
            if size > room:
                one["worst_note"] = "Some pictures are left out to keep the page small."
                continue
            room -= size
            clip["pictures"] = pictures
            drawn += len(pictures)
    return drawn
