"""A run's folder, read for the page. Damaged files are noted and shown, not raised.

Notes:
- what a page shows of a run is taken from its files at once, and the files' text is not kept: a page may be about
  hundreds of runs, each with thousands of clips and rows.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmp.errors import RunError, first_line
from vmp.formats import finite, natural_key, round_digits
from vmp.pathways import split_scalar_name
from vmp.report.tested import Tested, read_tested
from vmp.runs.records import has_top5
from vmp.runs.rows import Row, evenly
from vmp.runs.run import Run


@dataclass
class Entry:
    """A run as the page shows it. problem: why there is no result, shown in place of the numbers. damaged: the other
    files that cannot be read, and why."""

    run: Run
    name: str  # its folder, as the user gave it
    dataset: str = "?"
    kind: str = "?"  # dataset.kind of the config: motions, prepared, list or manifest
    backbone: str = "?"
    placement: str = ""
    method: str = "?"
    weight: float | None = None  # lambda; None without prompts
    seed: str = "?"
    tag: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)  # see curves_of
    # clips and correctly classified ones of each class
    per_class: list[list[int]] = field(default_factory=list)
    tested: Tested | None = None
    problem: str = ""
    damaged: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        weight = "" if self.weight is None else f" λ {self.weight:g}"
        parts = (self.dataset, self.backbone, self.placement, f"{self.method}{weight}", f"seed {self.seed}")
        return " · ".join(part for part in parts if part)

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key of the list: baselines before runs with prompts, then by lambda and seed."""
        prompted = self.weight is not None
        what = (self.dataset, self.backbone, prompted, self.placement, self.method, self.weight or 0.0)
        return (*what, natural_key(self.seed), self.name)

    @property
    def has_top5(self) -> bool:
        return has_top5(len(self.classes) or None)

    @property
    def short_problem(self) -> str:
        return self.problem if self.problem.startswith("unfinished") else "cannot be read"

    @property
    def miniature(self) -> bool:
        return self.kind == "motions"

    @property
    def counts(self) -> dict[str, int]:
        """Clips of the tested split: expected, present, missing, unreadable."""
        found = self.result.get("clips", {}).get(self.result.get("split"))
        return found if isinstance(found, dict) else {}

    @property
    def incomplete(self) -> list[str]:
        """Which clips were lacking, one line per split."""
        out = []
        for split, c in self.result.get("clips", {}).items():
            if isinstance(c, dict) and c.get("present") != c.get("expected"):
                out.append(
                    f"{split}: {c.get('present')} of {c.get('expected')} clips "
                    f"({c.get('missing')} missing, {c.get('unreadable')} unreadable)"
                )
        return out

    def scalars(self, name: str) -> dict[str, float]:
        """The learned slope or shift of each pathway, by its name; "video" where there is one stream only."""
        found = {}
        for key, value in self.result.get("scalars", {}).items():
            pathway, last = split_scalar_name(key)
            if last == name and (number := finite(value)) is not None:
                found[pathway] = number
        return found


def read_entry(folder: Path, name: str, *, points: int, worst: int) -> Entry:
    """Read a run's files. One that cannot be read sets `problem` or is listed in `damaged`; nothing is raised.

    Args:
        points: of a curve, at most.
        worst: wrongly predicted clips to keep.
    """
    run = Run(folder)  # with everything that it reads, only while it is read
    entry = Entry(Run(folder), name)
    try:
        config = run.config
        dataset, backbone, v = config["dataset"], config["backbone"], config["vmp"]
        entry.dataset = str(config.get("name") or dataset.get("name"))
        entry.kind = str(dataset.get("kind"))
        entry.backbone = _describe_backbone(config)
        entry.method = str(v.get("name") or v["kind"])
        if v["kind"] != "none":
            entry.weight = finite(v.get("lambda"))
            if backbone["name"] == "slowfast":
                chosen = v.get("placement", "default")
                entry.placement = "both" if chosen == "default" else str(chosen)
            if v.get("split", "plus_one") != "plus_one":
                entry.placement = f"{entry.placement} {v['split']}".strip()
        frozen = (config.get("train") or {}).get("freeze", "none")
        if frozen != "none":
            entry.method += f", frozen {frozen}"
        entry.config = config
        entry.tag = str(config.get("tag") or "")
        entry.seed = f"{config.get('seed', '?')} {entry.tag}".rstrip()
    except (RunError, KeyError, TypeError, AttributeError) as error:
        entry.config = {}
        entry.problem = f"config.yaml cannot be read ({first_line(error)})"
        return entry
    older = not run.lists_classes  # early runs kept no list of classes
    names = _read_or_note(entry, lambda: [row["name"] for row in run.per_class] if older else run.classes)
    entry.classes = names or []
    rows: list[Row] = _read_or_note(entry, lambda: run.rows.thinned(points)) or []
    entry.curves = curves_of(rows, points, ("top1", "top5") if entry.has_top5 else ("top1",))
    if not run.finished:
        entry.problem = _describe_progress(entry, rows)
        return entry
    try:
        entry.result = run.result
    except RunError as error:
        entry.problem = f"result.json cannot be read ({first_line(error)})"
        return entry
    entry.tested = _read_or_note(entry, lambda: read_tested(run, entry.result, worst=worst))
    if names or not older:
        by_class = _read_or_note(entry, lambda: run.per_class) or []
        entry.per_class = [[int(row["clips"]), int(row["right"])] for row in by_class]
    return entry


def _read_or_note(entry: Entry, read: Callable[[], Any]) -> Any:
    """What `read` returns, or None and a line in entry.damaged."""
    try:
        return read()
    except RunError as error:
        entry.damaged.append(first_line(error))
        return None


def _describe_backbone(config: dict[str, Any]) -> str:
    """Its name, size and initial weights."""
    backbone = config["backbone"]
    size, weights = backbone.get("size"), backbone.get("weights")
    key = backbone["name"] + (f"_{size}" if size and size != "base" else "")
    if config.get("init_from"):
        return f"{key}, from a run"
    return f"{key}, {Path(str(weights)).name}" if weights and weights != "none" else str(key)


def _describe_progress(entry: Entry, rows: Sequence[Row]) -> str:
    epochs = (entry.config.get("trainer") or {}).get("epochs", "?")
    reached = max((r["epoch"] for r in rows if finite(r.get("epoch")) is not None), default=0)
    return f"unfinished: epoch {reached:.3g} of {epochs}" if reached else "unfinished: nothing logged yet"


def curves_of(rows: Sequence[Row], points: int, accuracies: Collection[str]) -> list[dict[str, Any]]:
    """Lines over epochs: what (loss, one of the accuracies, slope, shift), pathway, points (epoch, value)."""
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rows:
        epoch = finite(row.get("epoch"))
        if epoch is None:
            continue
        for key, number in row.items():
            if key == "kind":
                continue
            path = key.split("/")
            if key == "train/cross_entropy":  # without λV, so that runs of different λ compare
                lines.setdefault(("loss", ""), []).append((epoch, number))
            elif path[0] == "val" and path[-1] in accuracies:
                lines.setdefault((path[1], ""), []).append((epoch, number))
            elif path[0] == "vmp" and path[-1] in ("slope", "shift"):
                lines.setdefault((path[-1], "/".join(path[1:-1])), []).append((epoch, number))
    return [
        {
            "what": what,
            "pathway": pathway,
            "points": [[round_digits(x), round_digits(y)] for x, y in evenly(line, points)],
        }
        for (what, pathway), line in sorted(lines.items())
    ]
