"""The data that script.js draws: JSON of what the runs' files say and nothing else."""

import base64
from collections.abc import Sequence
from typing import Any

from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from vmp.errors import UserError, first_line
from vmp.figures.worst import ClipDrawer
from vmp.formats import finite
from vmp.progress import bar
from vmp.report.entries import Entry
from vmp.runs.run import Run

MOST_PICTURED = 40  # runs whose clips are drawn
SHOWN = ("label", "dataset", "backbone", "placement", "method", "seed", "problem", "curves")  # of an entry


def as_json(value: Any) -> Markup:
    """ASCII JSON that can stand in a <script>: nothing in it ends the element or opens a comment."""
    return htmlsafe_json_dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":"), default=str)


def drawn_data(entries: Sequence[Entry]) -> dict[str, Any]:
    """Runs in the order of the list; a list of classes that several runs share is kept once."""
    lists: list[list[str]] = []
    runs = []
    for number, e in enumerate(entries):
        if e.classes not in lists:
            lists.append(e.classes)
        runs.append(
            {
                **{name: getattr(e, name) for name in SHOWN},
                "number": number,
                "lambda": e.weight,
                "top1": finite(e.result.get("top1")),
                "split": e.result.get("split"),
                "classes": lists.index(e.classes),
                "ranges": _ranges(e.config.get("vmp")),
                "pairs": [
                    [pathway, slope, e.scalars("shift")[pathway]]
                    for pathway, slope in e.scalars("slope").items()
                    if pathway in e.scalars("shift")
                ],
                "confusion": e.tested and e.tested.confusion,
                "per_class": e.per_class if e.classes and len(e.per_class) == len(e.classes) else None,
                "worst": None,
                "worst_note": "",
            }
        )
    return {"runs": runs, "classes": lists, "left_out": ""}


def _ranges(v: Any) -> dict[str, list[float]] | None:
    """The range of slope and shift (Eq. 2): [alpha / (beta + epsilon), alpha / epsilon] and (-gamma, gamma)."""
    if not isinstance(v, dict) or v.get("kind") != "learned":
        return None
    alpha, beta, gamma, epsilon = (finite(v.get(key)) for key in ("alpha", "beta", "gamma", "epsilon"))
    if alpha is None or beta is None or gamma is None or not epsilon:
        return None
    return {"slope": [alpha / (beta + epsilon), alpha / epsilon], "shift": [-gamma, gamma]}


def fit_confusions(data: dict[str, Any], first: Sequence[int], room: int) -> None:
    """Leave out as many confusion matrices as it takes for the data to have at most `room` bytes; those of `first`,
    numbers of runs, last."""
    for kept in (set(first), set[int]()):
        if len(as_json(data)) <= room:
            return
        data["left_out"] = (
            "Confusion matrices of other runs are left out to keep the page small: name fewer folders."
        )
        for one in data["runs"]:
            one["confusion"] = one["confusion"] if one["number"] in kept else None


def draw_worst(
    entries: Sequence[Entry],
    runs: list[dict[str, Any]],
    *,
    first: Sequence[int],
    clips: int,
    room: int,
    progress: bool,
) -> int:
    """Add to `runs` the clips that each got wrong with the highest score, with pictures while there is room.

    The runs that are drawn share the room evenly.

    Args:
        first: numbers of the runs to draw before the others.
        room: bytes that clips and pictures may take.

    Returns:
        the number of pictures.
    """
    todo = []
    for number, (e, one) in enumerate(zip(entries, runs, strict=True)):
        if not e.result:
            one["worst_note"] = "There is no result yet."
            continue
        one["worst"] = e.tested.worst if e.tested else []
        room -= len(as_json(one["worst"]))
        if not clips:
            one["worst_note"] = "No clips were drawn (--clips 0)."
        elif not one["worst"]:
            one["worst_note"] = "No clip was wrong." if e.tested else "It has no predictions.csv."
        else:
            todo.append(number)
    todo = list(dict.fromkeys([*(n for n in first if n in set(todo)), *todo]))
    drawn = pictured = 0
    with bar("draw clips", len(todo), shown=progress) as shown:
        for done, number in enumerate(todo):
            shown.advance()
            if pictured == MOST_PICTURED:
                runs[number]["worst_note"] = (
                    f"Pictures of the best runs only, {MOST_PICTURED}: name fewer folders to see others."
                )
                continue
            sharing = min(len(todo) - done, MOST_PICTURED - pictured)
            used, pictures = _draw_run(entries[number], runs[number], room // sharing)
            room -= used
            drawn += pictures
            pictured += bool(pictures)
    return drawn


def _draw_run(e: Entry, one: dict[str, Any], room: int) -> tuple[int, int]:
    """Draw a run's clips; the bytes that it took, and the number of pictures."""

    used = drawn = 0
    try:
        drawer = ClipDrawer(Run(e.run.folder), e.result)  # reads much, and is not kept
        for clip in one["worst"]:
            pictures = [
                {**about, "src": "data:image/webp;base64," + base64.b64encode(picture).decode("ascii")}
                for about, picture in drawer.draw(clip["id"])
            ]
            size = len(as_json(pictures))
            if used + size > room:
                one["worst_note"] = "Some pictures are left out to keep the page small."
                break
            clip["pictures"] = pictures
            used, drawn = used + size, drawn + len(pictures)
    except Exception as error:  # a foreign run's config may hold anything; the page goes without its pictures
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        one["worst_note"] = f"No pictures: {kind}{first_line(error)}"
    return used, drawn
