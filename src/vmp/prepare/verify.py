"""Decode every clip's file and compare it with the manifest.

Notes:
- files are decoded in child processes, one at a time each, which may crash or hang without harm;
- nothing is deleted or moved: rows that cannot be used get another status in the manifest, the old manifest stays as
  `<name>.before-verify`, and `quarantine.csv` beside it lists the rows with their problems;
- a reader that is listed for a file, and is not exact for it, is removed from the row;
- further readers can be named, and are listed in the rows for whose files they are exact. Those that need a GPU are
  tried last, so that a fault of the GPU is not held against a file.
"""

import csv
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from vmp.data.columns import STATUSES, Clip
from vmp.data.decode import ON_GPU, check_reader
from vmp.data.frames import FRAMES
from vmp.data.manifest import Manifest, inside, read_manifest, write_manifest
from vmp.errors import ManifestError
from vmp.files import write_csv
from vmp.prepare.children import TIMEOUT
from vmp.prepare.measure import Measured, installed_seeking_readers, measure_all
from vmp.progress import bar

QUARANTINE = "quarantine.csv"
GPU_WORKERS = 4  # each holds a CUDA context
BEFORE = ".before-verify"


class Problem(NamedTuple):
    id: str
    path: str
    problem: str


@dataclass(frozen=True, slots=True)
class Verified:
    counts: dict[str, int]  # status -> clips, in the manifest as it is now
    problems: tuple[Problem, ...]  # where files and the old manifest disagree
    exact: dict[str, int]  # reader that was named -> usable clips for which it is exact
    untried: dict[str, str]  # file -> why the GPU could not try it

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(
    manifest: Path,
    *,
    root: Path | None = None,
    readers: Sequence[str] = (),
    workers: int | None = None,
    timeout: float = TIMEOUT,
    progress: bool = True,
) -> Verified:
    """Decode the files of a manifest, and record problems in the manifest and in quarantine.csv.

    ManifestError: the manifest cannot be read, or all of its files are missing; nothing is changed.

    Args:
        root: folder of the videos; None: as recorded beside the manifest.
        readers: to measure besides the readers that are always tried, and to list where they are exact.
    """
    for name in readers:
        check_reader(name)
    old = read_manifest(manifest, root=root)
    _check_root(old)
    every = tuple(dict.fromkeys((*installed_seeking_readers(), *readers)))
    on_cpu, on_gpu = ([r for r in every if (r in ON_GPU) == wanted] for wanted in (False, True))
    paths = dict.fromkeys(clip.path for clip in old.clips)
    options: dict[str, Any] = {"timeout": timeout, "progress": progress}
    found = dict(_measure(old, paths, "verify videos", readers=on_cpu, workers=workers, **options))
    on_gpu_workers = GPU_WORKERS if workers is None else workers
    untried = _add_readers(old, found, on_gpu, workers=on_gpu_workers, **options)
    clips: list[Clip] = []
    problems: list[Problem] = []
    for clip in old.clips:
        tried = on_cpu if clip.path in untried else every
        clip, problem = _compare(clip, found[clip.path], tried, readers)
        clips.append(clip)
        if problem:
            problems.append(Problem(clip.id, clip.path, problem))
    listed = {problem.id for problem in problems}
    bad = [Problem(c.id, c.path, c.tags.get("problem", c.status)) for c in clips if c.status != "ok"]
    rows = problems + [problem for problem in bad if problem.id not in listed]
    quarantine = old.path.with_name(QUARANTINE)
    others = _rows_of_other_manifests(quarantine, {(clip.id, clip.path) for clip in clips})
    if rows or others or quarantine.exists():
        write_csv(quarantine, [Problem._fields, *others, *rows])
    if tuple(clips) != old.clips:
        _keep_copy(old.path)
        write_manifest(old.path, clips)
    counts = Counter(clip.status for clip in clips)
    usable = [clip for clip in clips if clip.status == "ok"]
    exact = {name: sum(name in clip.readers for clip in usable) for name in readers}
    return Verified({status: counts[status] for status in STATUSES}, tuple(problems), exact, untried)


def _check_root(manifest: Manifest) -> None:
    """Raise ManifestError if all files are missing: then the folder is wrong, and the rows are right."""
    paths = {clip.path for clip in manifest.clips if clip.status == "ok"}
    if paths and not any(os.path.lexists(manifest.root / path) for path in paths):
        raise ManifestError(
            f"{manifest.path}: none of its {len(paths)} file(s) is in {manifest.root}, for instance {min(paths)}. "
            "Nothing was changed; name the folder of the videos with --root, or make the manifest again if they have "
            "moved"
        )


def _measure(
    manifest: Manifest, paths: Iterable[str], title: str, *, progress: bool, **options: Any
) -> Iterator[tuple[str, Measured]]:
    """What the file of each path in the manifest holds; options are those of measure_all."""
    files: dict[Path, list[str]] = {}
    for path in paths:
        try:
            files.setdefault(inside(manifest.root, path), []).append(path)
        except ValueError as error:
            yield path, Measured("unreadable", str(error))
    with bar(title, len(files), shown=progress and bool(files)) as shown:
        for file, measured in measure_all(files, **options):
            yield from ((path, measured) for path in files[file])
            shown.advance()


def _add_readers(
    manifest: Manifest, found: dict[str, Measured], readers: Sequence[str], **options: Any
) -> dict[str, str]:
    """Add readers on the GPU to what was found of sound files; returns path -> why the GPU could not try it."""
    sound = [path for path, measured in found.items() if measured.status == "ok"] if readers else []
    untried: dict[str, str] = {}
    for path, m in _measure(manifest, sound, "verify on the GPU", readers=readers, **options):
        if m.status == "ok" and not m.reason:
            exact = [name for name in m.readers if name in readers]
            found[path] = replace(found[path], readers=(*found[path].readers, *exact))
        else:
            untried[path] = m.reason
    return untried


def _compare(clip: Clip, found: Measured, tried: Sequence[str], wanted: Sequence[str]) -> tuple[Clip, str]:
    """The row as it should be, and what was wrong with it, or nothing.

    Readers that were tried and are not exact are removed from it; exact ones that are wanted are added.
    """
    if clip.status != "ok":
        exists = found.status == "ok" and clip.status == "missing"
        return clip, "exists now; make the manifest again to use it" if exists else ""
    status, problem = found.status, found.reason
    if status == "ok" and found.frames < clip.frames:
        status, problem = "partial", f"has {found.frames} frames, the manifest says {clip.frames}"
    elif status == "ok":
        pairs = {"frames": (found.frames, clip.frames), "width": (found.width, clip.width)}
        pairs["height"] = (found.height, clip.height)
        wrong = [f"{name} {is_} instead of {was}" for name, (is_, was) in pairs.items() if was and is_ != was]
        if clip.fps and FRAMES not in found.readers and abs(found.fps - clip.fps) > 1e-4 * clip.fps:
            wrong.append(f"fps {found.fps:.6g} instead of {clip.fps:.6g}")
        if wrong:
            status, problem = "unreadable", f"is not the file in the manifest: {', '.join(wrong)}"
    if status != "ok":
        return replace(clip, status=status, tags=clip.tags | {"problem": problem}), f"{status}: {problem}"
    wrong = [name for name in clip.readers if name in tried and name not in found.readers]
    kept = tuple(name for name in clip.readers if name not in wrong)
    new = [name for name in found.readers if name in wanted and name not in kept]
    problem = (
        f"{', '.join(wrong)} was listed as exact and {found.reason or 'is not'}: removed from the row"
        if wrong
        else ""
    )
    return (replace(clip, readers=(*(kept or ("pyav",)), *new)) if wrong or new else clip), problem


def _rows_of_other_manifests(quarantine: Path, own: set[tuple[str, str]]) -> list[Problem]:
    """Rows of an earlier quarantine about clips of other manifests in the folder."""
    if not quarantine.exists():
        return []
    with open(quarantine, newline="", encoding="utf-8") as file:
        rows = [Problem(*(row.get(name, "") for name in Problem._fields)) for row in csv.DictReader(file)]
    return [row for row in rows if (row.id, row.path) not in own]


def _keep_copy(path: Path) -> None:
    """Copy a manifest to the first free name of <name>.before-verify, <name>.before-verify-2, ..."""
    for number in itertools.count(1):
        kept = path.with_name(path.name + BEFORE + (f"-{number}" if number > 1 else ""))
        with suppress(FileExistsError), open(path, "rb") as source, open(kept, "xb") as target:
            shutil.copyfileobj(source, target)
            return
