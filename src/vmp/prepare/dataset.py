"""From what a dataset's annotations say (a DatasetPlan) to manifests: find the videos, measure or copy them, write.

Notes:
- whatever can be found wrong without decoding a frame fails before any frame is decoded;
- where a check fails nothing is written, unless the caller allows it; then the counts reach every result;
- the manifests' folder also gets dataset.json, which says where the videos are, and prepare.json with all counts.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

from vmp.data.columns import Clip
from vmp.data.manifest import (
    RECORD,
    inside,
    record_root,
    recorded_root,
    write_classes,
    write_manifest,
)
from vmp.errors import ConfigError, ManifestError, shortlist
from vmp.files import csv_text, wait_for_lock, write_csv, write_json
from vmp.prepare.children import Work
from vmp.prepare.estimate import describe_estimate
from vmp.prepare.measure import measure_cached
from vmp.prepare.plan import Check, DatasetPlan, check_equal
from vmp.prepare.rows import (
    Rows,
    cut_rows,
    describe_pauses,
    describe_short,
    describe_untried,
    in_place_rows,
    remux_rows,
    tag_short,
    unmeasured_rows,
)
from vmp.prepare.source import probe_all
from vmp.prepare.splits import PARTS
from vmp.prepare.videos import why_not_found

PATIENCE = 2.0  # seconds for which another process may hold a folder before that is said
LONG = 1800.0  # seconds: longer sources are cut, or read in place only where the command says --in-place
How = Literal["in place", "cut", "remux"]


@dataclass(frozen=True, slots=True)
class Preparation:
    """What came of a plan. Where something was written although checks failed, the caller had allowed it."""

    text: str
    failed: tuple[Check, ...]
    written: tuple[Path, ...]  # manifests


def prepare(
    plan: DatasetPlan,
    out: Path,
    *,
    how: How = "in place",
    long_in_place: bool = False,
    short_side: int | None = 320,
    allow_missing: bool = False,
    dry_run: bool = False,
    histogram: bool = False,
    **work: Unpack[Work],
) -> Preparation:
    """Write the manifests of a plan, unless a check fails.

    Args:
        how: "in place" uses the videos where they are; "cut" writes every clip as a small file under out/clips; "remux"
            writes whole files there with their packets rearranged, where that makes every reader exact.
        long_in_place: read sources of more than half an hour in place.
        short_side: of the clips that are cut; None: as in the source.
        histogram: list the clips of every class in the text.

    Raises:
        ManifestError: a video is a link that leaves the folder of the videos.
        ConfigError: sources too long to be read in place, or that `how` cannot be applied to.
        DataError: out cannot be written to.
    """
    findings = _Findings(plan, histogram)
    there = findings.there
    if dry_run or (findings.failed and not allow_missing):
        findings.note_problems()
        if dry_run:
            estimate = describe_estimate(plan, there, out, how=how, short_side=short_side, **work)
            findings.notes.append(estimate)
        return findings.conclude(unmeasured_rows(plan, there), measured=False)
    _refuse_to_overwrite(plan, out)
    if how == "in place" and not long_in_place:
        _refuse_long(plan, there, **work)
    _check_writable(out)
    with lock_folder(out, **work):
        if how == "cut":
            clips = cut_rows(plan, there, out, short_side=short_side, **work)
        elif how == "remux":
            clips, note = remux_rows(plan, there, out, **work)
            findings.notes.append(note)
        else:
            present = [path for path in there if there[path]]
            known = measure_cached(out / "measured.jsonl", plan.videos, present, **work)
            clips = in_place_rows(plan, known)
            findings.notes += describe_untried(known)
        clips = {split: [tag_short(clip) for clip in part] for split, part in clips.items()}
        findings.check_clips(clips)
        if findings.failed and not allow_missing:
            return findings.conclude(clips)
        root = plan.videos if how == "in place" else out
        written = write_manifests(clips, plan.classes, out, root, within=out)
        for path, rows in plan.tables.items():
            write_csv(out / path, rows)
        side = short_side if how == "cut" else None
        options = {"how": how, "short_side": side, "allow_missing": allow_missing}
        write_json(out / "prepare.json", findings.record(clips, options))
    return findings.conclude(clips, written=written)


class _Findings:
    """What is found out about a plan while it is carried out: its checks and notes."""

    def __init__(self, plan: DatasetPlan, histogram: bool) -> None:
        """Look which videos are there; histogram: list the clips of every class in the text."""
        self.plan, self.histogram = plan, histogram
        paths = sorted({item.path for item in plan.items})
        self.there = {path: _is_there(plan.videos, path) for path in paths}
        self.lost = [path for path in paths if not self.there[path]]
        found = len(paths) - len(self.lost)
        self.checks = [*plan.checks, check_equal("video files", len(paths), found)]
        self.notes = list(plan.notes)
        if self.lost:
            listed = shortlist(self.lost) + why_not_found(plan.videos)
            self.notes.append(f"{len(self.lost):,} file(s) not found under {plan.videos}:\n{listed}")

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.ok)

    def note_problems(self) -> None:
        """Note the clips that cannot be used, whatever their files hold."""
        problems = [f"{item.id}: {item.problem}" for item in self.plan.items if item.problem]
        if problems:
            self.notes.append(f"{len(problems):,} clip(s) cannot be used:\n{shortlist(problems)}")

    def check_clips(self, clips: Rows) -> None:
        """Add what measuring found: the clips that cannot be read, and the frame rates."""
        found = [clip for part in clips.values() for clip in part if clip.status != "missing"]
        unread = [f"{c.id}: {c.status}, {c.tags.get('problem', '')}" for c in found if c.status != "ok"]
        self.checks.append(check_equal("clips that can be read", len(found), len(found) - len(unread)))
        if unread:
            self.notes.append(f"{len(unread):,} clip(s) cannot be read:\n{shortlist(unread)}")
        if short := [f"{c.id}: {c.length} frame(s)" for c in found if "short" in c.tags]:
            self.notes.append(describe_short(short))
        self.notes += describe_pauses((clip.id, clip) for clip in found)
        if rates := Counter(f"{clip.fps:.4g}" for clip in found if clip.fps):
            listed = ", ".join(f"{count:,} at {rate}" for rate, count in rates.most_common())
            self.notes.append(f"clips by frames per second: {listed}")

    def record(self, clips: Rows, options: dict[str, Any]) -> dict[str, Any]:
        """The content of prepare.json; options: of the command, beside those of the plan."""
        import av

        plan = self.plan
        return {
            "dataset": plan.name,
            "videos": str(plan.videos.resolve()),
            "options": plan.options | options,
            "counts": {split: count_clips(part) for split, part in clips.items()},
            "usable_per_class": {split: _per_class(plan, part, "ok") for split, part in clips.items()},
            "expected_per_class": {split: _per_class(plan, part) for split, part in clips.items()},
            "checks": [check._asdict() for check in self.checks],
            "notes": self.notes,
            "missing_files": self.lost,
            "pyav": av.__version__,
        }

    def conclude(self, clips: Rows, *, measured: bool = True, written: Sequence[Path] = ()) -> Preparation:
        text = report(self.plan, clips, self.checks, self.notes, measured, self.histogram)
        return Preparation(text, self.failed, tuple(written))


def _check_writable(out: Path) -> None:
    """Make the folder; ConfigError if nothing can be written to it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".lock").touch()
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written to ({error.strerror})") from None


def lock_folder(folder: Path, *, progress: bool = True, **_: Any) -> Any:
    """A lock on a folder of manifests and measurements, to be released by `with`; says whom it waits for, if
    `progress` (of Work)."""
    waiting = f"{folder}: another process measures videos or writes manifests there; waiting for it"
    return wait_for_lock(folder / ".lock", waiting if progress else "", patience=PATIENCE)


def _is_there(root: Path, path: str) -> bool:
    try:
        return inside(root, path).exists()
    except ValueError as error:
        raise ManifestError(str(error)) from None


def _refuse_to_overwrite(plan: DatasetPlan, out: Path) -> None:
    """Raise ConfigError where a file that would be replaced or removed was not prepared, as Kinetics' own train.csv."""
    folders = {(out / split).parent for split in plan.splits}
    manifests = [folder / f"{name}.csv" for folder in folders for name in PARTS]
    foreign = [path for path in manifests if path.is_file() and not _is_manifest(path)]
    tables = {out / path: rows for path, rows in plan.tables.items()}
    for path in (*(folder / "classes.txt" for folder in folders), *tables):
        try:
            prepared = recorded_root(path.parent) is not None
        except ManifestError:
            prepared = False
            foreign.append(path.with_name(RECORD))
        if not prepared and path.is_file():
            text = csv_text(tables[path]) if path in tables else "".join(f"{name}\n" for name in plan.classes)
            if path.read_bytes() != text.encode(errors="backslashreplace"):
                foreign.append(path)
    if foreign:
        raise ConfigError(
            f"--out {out}: {', '.join(map(str, sorted(set(foreign))))} would be replaced or removed, and was not "
            "prepared; choose another --out, or move that away"
        )


def _is_manifest(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.readline(1000).startswith(b"id,path,label")


def _refuse_long(plan: DatasetPlan, there: Mapping[str, bool], **work: Unpack[Work]) -> None:
    """Raise ConfigError for broadcasts of which clips are parts."""
    paths = sorted({item.path for item in plan.items if item.unit != "file" and there[item.path]})
    # without those that cannot be probed: measuring says what is wrong with them
    probes = probe_all([plan.videos / path for path in paths], **work)
    long = [
        f"{file.relative_to(plan.videos).as_posix()}: {probed.seconds / 60:.0f} min"
        for file, probed in probes.items()
        if probed.seconds > LONG
    ]
    if long:
        raise ConfigError(
            f"{len(long)} video(s) last more than {LONG / 60:.0f} minutes:\n{shortlist(long)}\n"
            "Counting the frames of such files takes long, and so does every seek in training. "
            "Use --cut to write each clip as a small file once, or --in-place to read them as they are."
        )


def write_manifests(clips: Rows, classes: Sequence[str], out: Path, root: Path, within: Path) -> list[Path]:
    """Write each split's manifest as out/SPLIT.csv, after what they need; root and within as in `record_root`."""
    for folder in {(out / split).parent for split in clips}:
        record_root(folder, root, within=within)
        write_classes(folder / "classes.txt", classes)
        for name in PARTS:  # manifests of another preparation
            if (folder / name).relative_to(out).as_posix() not in clips:
                (folder / f"{name}.csv").unlink(missing_ok=True)
    for split, part in clips.items():
        write_manifest(out / f"{split}.csv", part)
    return [out / f"{split}.csv" for split in clips]


# --- the report ----------------------------------------------------------------------------------------------------


def count_clips(clips: Iterable[Clip]) -> dict[str, int]:
    clips = list(clips)
    by = Counter(clip.status for clip in clips)
    return {
        "expected": len(clips),
        "found": len(clips) - by["missing"],
        "usable": by["ok"],
        **{status: by[status] for status in ("missing", "unreadable", "partial")},
        "short": sum("short" in clip.tags for clip in clips),
    }


def count_table(clips: Mapping[str, Sequence[Clip]], *, measured: bool = True) -> str:
    """One line per split; where no file was measured, columns that need it are empty."""
    names = ("expected", "found", "missing", "unreadable", "partial", "short")
    known = names if measured else names[:3]
    width = max(14, *(len(split) + 1 for split in clips))
    lines = [f"{'split':{width}}" + "".join(f"{name:>12}" for name in names)]
    for split, part in clips.items():
        counts = count_clips(part)
        cells = (f"{counts[name]:,}" if name in known else "-" for name in names)
        lines.append(f"{split:{width}}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def report(
    plan: DatasetPlan, clips: Rows, checks: Sequence[Check], notes: list[str], measured: bool, histogram: bool
) -> str:
    """The table of counts, the clips per class, their lengths, the checks and the notes."""
    lines = [f"{plan.name}: {len(plan.classes)} classes, videos in {plan.videos}"]
    lines.append(count_table(clips, measured=measured))
    lines += ["", f"clips per class that are {'usable' if measured else 'found'} (expected):"]
    tables = {split: (_per_class(plan, part, "ok"), _per_class(plan, part)) for split, part in clips.items()}
    width = max(14, *(len(split) + 1 for split in clips))
    if histogram:
        lines.append("".join(f"{split:>16}" for split in tables))
        for label, name in enumerate(plan.classes):
            cells = [f"{usable[label]:,} ({total[label]:,})" for usable, total in tables.values()]
            lines.append("".join(f"{cell:>16}" for cell in cells) + f"  {label} {name}")
    else:
        for split, pair in tables.items():
            usable, total = (f"{min(c)} / {sorted(c)[len(c) // 2]} / {max(c)}" for c in pair)
            empty = f", {pair[0].count(0)} classes without any" if 0 in pair[0] else ""
            lines.append(f"{split:{width}}min / median / max {usable} ({total}){empty}")
    for split, part in clips.items():
        lengths = sorted(clip.length for clip in part if clip.status == "ok" and clip.frames)
        if lengths:
            at = " / ".join(str(lengths[round(q * (len(lengths) - 1))]) for q in (0, 0.05, 0.5, 0.95, 1))
            lines.append(f"{split:{width}}frames per clip, min / 5 % / median / 95 % / max {at}")
    lines += ["", *map(str, checks), *(f"note    {note}" for note in notes)]
    return "\n".join(lines)


def _per_class(plan: DatasetPlan, clips: Iterable[Clip], status: str | None = None) -> list[int]:
    counts = Counter(clip.label for clip in clips if status in (None, clip.status))
    return [counts[label] for label in range(len(plan.classes))]
