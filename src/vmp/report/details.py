"""How each number was made: the facts about a run that the page lists below its label."""

from dataclasses import dataclass
from typing import Any

from vmp.errors import RunError, first_line
from vmp.formats import finite, format_duration, format_number
from vmp.report.entries import Entry

UNREADABLE = 20  # clips listed at most
DATASETS = {
    "motions": ", small generated videos: a miniature",
    "prepared": ", the real videos",
    "list": ", your own videos",
    "manifest": ", your own videos",
}


@dataclass(frozen=True)
class Details:
    """facts: name and value, in the order shown; the value of "sessions" is a list of lines.
    evaluations: name, result and, where the result cannot be read, why."""

    facts: list[tuple[str, Any]]
    clips: dict[str, dict[str, int]]
    unreadable: list[str]
    evaluations: list[tuple[str, dict[str, Any], str]]
    config: str


def read_details(entry: Entry) -> Details:
    result = entry.result
    clips = {k: v for k, v in (result.get("clips") or {}).items() if isinstance(v, dict)}
    lost = result.get("unreadable_in_training") or {}
    unreadable = [f"{clip}: {why}" for clip, why in list(lost.items())[:UNREADABLE]]
    if len(lost) > UNREADABLE:
        unreadable.append(f"… and {len(lost) - UNREADABLE} more")
    config = entry.run.config_text if entry.config else ""
    facts = [("folder", entry.name), ("dataset", f"{entry.dataset}{DATASETS.get(entry.kind, '')}")]
    if entry.problem:
        facts.append(("state", entry.problem))
    if result:
        facts += _facts_of_result(result)
    shown = [(name, value) for name, value in facts if value not in (None, "", [])]
    evaluations: list[tuple[str, dict[str, Any], str]] = []
    for evaluation in entry.run.evaluations():
        try:
            evaluations.append((evaluation.folder.name, evaluation.result, ""))
        except RunError as error:
            evaluations.append((evaluation.folder.name, {}, first_line(error)))
    return Details(shown, clips, unreadable, evaluations, config)


def _facts_of_result(result: dict[str, Any]) -> list[tuple[str, Any]]:
    get = result.get
    views = "×".join(str(v) for v in get("views", ()))
    tested = f"{get('split')}, weights of epoch {get('epoch')}, {views} views per clip"
    if get("degrade") not in (None, "none"):
        tested += f", frames degraded ({get('degrade')})"
    trained = f"{get('steps')} updates of {(get('batch') or {}).get('clips', '?')} clips"
    if isinstance(get("parameters"), int):
        trained += f", {get('parameters'):,} parameters"
    commit = get("commit") or "unknown: not run from a checkout"
    if commit.endswith("-dirty"):
        commit = f"{commit.removesuffix('-dirty')}, with uncommitted changes"
    versions, bound = get("versions") or {}, format_number(get("top1_lower_bound"), ".2f")
    return [
        ("command", get("command", "–")),
        ("commit", commit),
        ("finished", get("finished")),
        ("seed", get("seed")),
        ("tested on", tested),
        ("top-1, missing and unreadable clips counted as wrong", bound),
        ("initial weights", (get("weights") or {}).get("source")),
        ("training", trained),
        ("device", get("device")),
        ("sessions", [_describe_session(one) for one in get("sessions") or ()]),
        ("time", format_duration(finite(get("seconds")))),
        ("clips per second", get("clips_per_second")),
        ("peak memory", f"{get('peak_memory_gb')} GB" if get("peak_memory_gb") else None),
        ("readers", ", ".join(get("readers", ()))),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]


def _describe_session(session: dict[str, Any]) -> str:
    """Where a session began and on what."""
    rest = [f"{key} {value}" for key, value in session.items() if key not in ("step", "processes", "device")]
    devices = f"{session.get('processes', '?')} × {session.get('device', '?')}"
    return f"from update {session.get('step', '?')}: {', '.join([devices, *rest])}"
