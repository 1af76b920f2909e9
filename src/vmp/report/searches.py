"""Searches (`hydra/sweeper=optuna`): their trials, the best first, from the search.json of each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SearchTable:
    """The trials of a search; each has number, value (None: it failed or is not over), values and folder."""

    name: str
    metric: str
    keys: tuple[str, ...]
    trials: tuple[dict[str, Any], ...]

    @property
    def finished(self) -> int:
        return sum(trial["value"] is not None for trial in self.trials)


def read_searches(folders: Sequence[Path]) -> list[SearchTable]:
    """Those below these folders, by name; files that are no search are passed over."""
    found: dict[Path, SearchTable] = {}
    for path in sorted(path for folder in folders for path in folder.rglob("sweeps/*/search.json")):
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            trials = tuple(
                {"number": int(t["number"]), "value": t["value"], "state": str(t["state"])}
                | {"values": dict(t["values"]), "folder": str(t["folder"])}
                for t in kept["trials"]
            )
            found[path.resolve()] = SearchTable(
                path.parent.name, str(kept["metric"]), tuple(kept["space"]), trials
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return list(found.values())
