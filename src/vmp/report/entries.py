"""A run's folder, read for the page. Damaged files are noted and shown, not raised."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmp.errors import RunError, first_line
from vmp.formats import finite, natural_key
from vmp.pathways import split_scalar_name
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
    config: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
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


def read_entry(run: Run, name: str) -> Entry:
    """Read a run's files. One that cannot be read sets `problem` or is listed in `damaged`; nothing is raised."""
    entry = Entry(run, name)
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
        entry.seed = str(config.get("seed", "?")) + (f" {config['tag']}" if config.get("tag") else "")
    except (RunError, KeyError, TypeError, AttributeError) as error:
        entry.config = {}
        entry.problem = f"config.yaml cannot be read ({first_line(error)})"
        return entry
    older = not run.lists_classes  # early runs kept no list of classes
    names = _read_or_note(entry, lambda: [row["name"] for row in run.per_class] if older else run.classes)
    entry.classes, entry.rows = names or [], _read_or_note(entry, lambda: run.curve) or []
    if not run.finished:
        entry.problem = _describe_progress(entry)
        return entry
    try:
        entry.result = run.result
    except RunError as error:
        entry.problem = f"result.json cannot be read ({first_line(error)})"
        return entry
    _read_or_note(entry, lambda: run.predictions)
    if not older:
        _read_or_note(entry, lambda: run.per_class)
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


def _describe_progress(entry: Entry) -> str:
    epochs = (entry.config.get("trainer") or {}).get("epochs", "?")
    reached = max((r["epoch"] for r in entry.rows if finite(r.get("epoch")) is not None), default=0)
    return f"unfinished: epoch {reached:.3g} of {epochs}" if reached else "unfinished: nothing logged yet"
