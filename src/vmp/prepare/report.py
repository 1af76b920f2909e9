"""What was found, as a table to read and as a record to keep."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vmp.data.manifest import Clip
from vmp.prepare.plan import Check, Plan


def counts(clips: Iterable[Clip]) -> dict[str, int]:
    clips = list(clips)
    by = Counter(clip.status for clip in clips)
    return {
        "expected": len(clips),
        "found": len(clips) - by["missing"],
        "usable": by["ok"],
        "missing": by["missing"],
        "unreadable": by["unreadable"],
        "partial": by["partial"],
        "short": sum("short" in clip.tags for clip in clips),
    }


def count_table(clips: Mapping[str, Sequence[Clip]], *, looked: bool = True) -> str:
    """One line per split. looked: False if no file was opened, so that only missing ones are known."""
    names = ("expected", "found", "missing", "unreadable", "partial", "short")
    lines = [f"{'split':14}" + "".join(f"{name:>12}" for name in names)]
    for split, part in clips.items():
        found = counts(part)
        cells = [
            f"{found[name]:,}" if looked or name in ("expected", "found", "missing") else "-"
            for name in names
        ]
        lines.append(f"{split:14}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def report(
    plan: Plan,
    clips: dict[str, list[Clip]],
    checks: Sequence[Check],
    notes: Sequence[str],
    *,
    looked: bool,
    histogram: bool,
) -> str:
    """The table of counts, the clips a class, the checks and the notes."""
    lines = [f"{plan.name}: {len(plan.classes)} classes, videos in {plan.videos}"]
    lines.append(count_table(clips, looked=looked))
    lines += ["", "clips a class that are " + ("usable" if looked else "found") + " (expected):"]
    tables = {
        split: (_per_class(plan, part, True), _per_class(plan, part, False)) for split, part in clips.items()
    }
    if histogram:
        lines.append("".join(f"{split:>16}" for split in tables))
        for label, name in enumerate(plan.classes):
            cells = [f"{usable[label]:,} ({total[label]:,})" for usable, total in tables.values()]
            lines.append("".join(f"{cell:>16}" for cell in cells) + f"  {label} {name}")
    else:
        for split, pair in tables.items():
            usable, total = (f"{min(c)} / {sorted(c)[len(c) // 2]} / {max(c)}" for c in pair)
            none = sum(count == 0 for count in pair[0])
            lines.append(
                f"{split:14}min / median / max {usable} ({total})"
                + (f", {none} classes without any" if none else "")
            )
    for split, part in clips.items():
        lengths = sorted(clip.length for clip in part if clip.status == "ok" and clip.frames)
        if lengths:
            at = [lengths[round(q * (len(lengths) - 1))] for q in (0, 0.05, 0.5, 0.95, 1)]
            lines.append(
                f"{split:14}frames of a clip, min / 5 % / median / 95 % / max " + " / ".join(map(str, at))
            )
    lines += ["", *map(str, checks), *(f"note    {note}" for note in notes)]
    return "\n".join(lines)


def _per_class(plan: Plan, clips: Iterable[Clip], usable: bool) -> list[int]:
    counts = Counter(clip.label for clip in clips if clip.status == "ok" or not usable)
    return [counts[label] for label in range(len(plan.classes))]


def record(
    plan: Plan,
    clips: dict[str, list[Clip]],
    checks: Sequence[Check],
    notes: Sequence[str],
    lost: Sequence[str],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """prepare.json: all that was printed and what it was made with."""
    import av

    return {
        "dataset": plan.name,
        "videos": str(plan.videos.resolve()),
        "options": plan.options | settings,
        "counts": {split: counts(part) for split, part in clips.items()},
        "usable_per_class": {split: _per_class(plan, part, True) for split, part in clips.items()},
        "expected_per_class": {split: _per_class(plan, part, False) for split, part in clips.items()},
        "checks": [check._asdict() for check in checks],
        "notes": list(notes),
        "missing_files": list(lost),
        "pyav": av.__version__,
    }
