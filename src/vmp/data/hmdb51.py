"""HMDB-51 (Kuehne et al. 2011): 6,766 whole files, 51 classes, three splits given by 153 files.

Notable here:
- ids come from the shipped class list: sorting the split files puts climb_stairs before climb, a directory listing
  shifts with every stray folder, and a third order is in circulation;
- file names start with `-` or `#`, hold `[`, `;`, `&`, `!`: they are matched as plain text, and nothing is a comment;
- lines end in a blank; 1 is training, 2 is test, 0 is not used in this split;
- files are found by name in any layout, and as .mp4 or .mkv where somebody has encoded them anew;
- archives may name members outside their folder: members are looked at before and after they are unpacked.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from vmp.data.manifest import check_relative
from vmp.data.prepare import Check, Item, Plan, equal, find_videos, pick, shipped_classes
from vmp.errors import ConfigError, DataError, ManifestError, shortlist

FOLDS = (1, 2, 3)
CLIPS, USED, PER_CLASS = 6766, 6371, (70, 30)  # mmaction2 lists only those that a split uses
DIGEST = "e9bf6ee4467e004367f33f09e09e26ea4567e3899bebb11c8ff4dd05c8fff142"  # of the 153 files, see digest()
PAGE = "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/"
PLACES = ("testTrainMulti_7030_splits", "splits", "annotations", "hmdb51_splits", "test_train_splits")
_USES = {"0": "unused", "1": "train", "2": "test"}
_TAGS = re.compile(
    r"_(?P<vis>[hulf])_(?P<cam>cm|nm)_np(?P<people>\d+)_(?P<view>fr|le|ri|ba)_(?P<quality>goo|med|bad)_\d+$"
)
Fold = dict[str, tuple[str, str]]  # file name -> class, "train" | "test" | "unused"


def plan_hmdb51(videos: Path, splits: Path | None = None) -> Plan:
    """Three folds from the official split files, or from mmaction2's lists.

    Args:
        videos: folder that holds the videos in any depth.
        splits: folder with the split files; None looks beside and under the videos.

    Raises:
        ConfigError: a folder or all split files are not there.
        ManifestError: lines that cannot be used, with file:line.
    """
    classes = shipped_classes("hmdb51")
    found = find_videos(videos)
    folds, checks = read_splits(_splits_folder(videos, splits), classes)
    listed = {name: entry[0] for fold in folds.values() for name, entry in fold.items()}
    plans: dict[str, tuple[Item, ...]] = {}
    per_class = 0
    for number, fold in folds.items():
        for split in ("train", "test"):
            names = sorted(name for name, (_, use) in fold.items() if use == split)
            plans[f"split{number}/{split}"] = tuple(
                _item(found, name, fold[name][0], classes) for name in names
            )
        pairs = Counter(fold.values())
        per_class += sum((pairs[c, "train"], pairs[c, "test"]) == PER_CLASS for c in classes)
    full = any(use == "unused" for fold in folds.values() for _, use in fold.values())
    total = CLIPS if full else USED
    checks += [
        equal("classes", len(classes), len(set(listed.values()))),
        equal("clips in the lists", total, len(listed)),
        equal("classes with 70 / 30 clips, over three splits", len(classes) * len(FOLDS), per_class),
    ]
    for number, fold in folds.items():
        uses = Counter(use for _, use in fold.values())
        text = "{:,} / {:,} / {:,}"
        expected = text.format(3570, 1530, total - 5100)
        count = text.format(uses["train"], uses["test"], len(listed) - uses["train"] - uses["test"])
        checks.append(equal(f"split {number}, train / test / unused", expected, count))
    used = {item.id for items in plans.values() for item in items}
    notes = [f"{len(listed) - len(used):,} clips of the lists are in no split and not looked for"]
    return Plan(
        name="hmdb51", classes=classes, splits=plans, videos=videos, checks=tuple(checks), notes=tuple(notes)
    )


def read_splits(folder: Path, classes: tuple[str, ...]) -> tuple[dict[int, Fold], list[Check]]:
    """What each of the three splits does with each file.

    Raises:
        ConfigError: no split files there.
        ManifestError: lines that cannot be used, with file:line.
    """
    official = {
        (match[1], int(match[2])): file
        for file in sorted(folder.iterdir())
        if (match := re.fullmatch(r"(.+)_test_split_?([123])\.txt", file.name))
    }
    lists = {
        (int(match[2]), "train" if match[1] == "train" else "test"): file
        for file in sorted(folder.iterdir())
        if (match := re.fullmatch(r"hmdb51_(train|val|test)_split_([123])_videos\.txt", file.name))
    }
    faults: list[str] = []
    folds: dict[int, Fold] = {number: {} for number in FOLDS}

    def add(where: str, number: int, name: str, category: str, use: str) -> None:
        before = folds[number].setdefault(name, (category, use))
        if category not in classes:
            faults.append(f"{where}: {category!r} is not one of the {len(classes)} classes")
        elif before != (category, use):
            faults.append(f"{where}: {name} was {before[1]} of {before[0]} before, in split {number}")

    for (category, number), file in official.items():
        for line, text in enumerate(_lines(file), 1):
            name, _, use = text.rpartition(" ")
            if not name.strip() or use not in _USES:
                faults.append(f"{file}:{line}: {text[:80]!r} is not `file 0`, `file 1` or `file 2`")
            else:
                add(f"{file}:{line}", number, name.strip(), category, _USES[use])
    if not official:
        for (number, use), file in lists.items():
            for line, text in enumerate(_lines(file), 1):
                match = re.fullmatch(
                    r"(?:.*/)?([^/]+)/([^/]+) +\d+", text
                )  # the number is of an order we do not use
                if match:
                    add(f"{file}:{line}", number, match[2], match[1], use)
                else:
                    faults.append(f"{file}:{line}: {text[:80]!r} is not `class/file label`")
    if faults:
        raise ManifestError(f"{len(faults)} line(s) cannot be used:\n{shortlist(faults, 20)}")
    if not official and not lists:
        raise ConfigError(f"--splits {folder}: holds no split files; {_FETCH_SPLITS}")
    if not official:
        return folds, [equal("list files", 2 * len(FOLDS), len(lists))]
    checks = [equal("split files", len(classes) * len(FOLDS), len(official))]
    same = digest(list(official.values())) == DIGEST
    checks.append(
        Check("contents of the split files", "the official", "the official" if same else "others", same)
    )
    return folds, checks


def digest(split_files: list[Path]) -> str:
    """SHA-256 over names, in order, and lines without blanks around them."""
    h = hashlib.sha256()
    for file in sorted(split_files, key=lambda file: file.name):
        h.update(f"{file.name}\0{chr(10).join(_lines(file))}\n".encode())
    return h.hexdigest()


def _item(found: dict[str, list[str]], name: str, category: str, classes: tuple[str, ...]) -> Item:
    stem = Path(name).stem
    match = _TAGS.search(stem)
    return Item(
        id=f"{category}/{stem}",
        path=pick(found, stem, f"{category}/{name}", folder=category),
        label=classes.index(category),
        tags=match.groupdict() if match else {},
    )


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ManifestError(f"{file}: not UTF-8 ({error.reason} at byte {error.start})") from None


_FETCH_SPLITS = f"unpack test_train_splits.rar from {PAGE} and name its folder of 153 files with --splits"


def _splits_folder(videos: Path, splits: Path | None) -> Path:
    if splits and not splits.is_dir():
        raise ConfigError(f"--splits {splits}: no such folder; {_FETCH_SPLITS}")
    roots = [splits] if splits else [home / place for home in (videos, videos.parent) for place in PLACES]
    for root in roots:
        for folder, _, names in os.walk(root):
            if any(
                re.search(r"_test_split_?[123]\.txt$|^hmdb51_train_split_[123]_videos\.txt$", n)
                for n in names
            ):
                return Path(folder)
    if splits:
        raise ConfigError(f"--splits {splits}: holds no split files; {_FETCH_SPLITS}")
    raise ConfigError(f"no split files in {', '.join(PLACES)} under or beside {videos}; {_FETCH_SPLITS}")


# unpacking: hmdb51_org.rar holds a RAR a class


def unpack(source: Path, target: Path, *, say: Callable[[str], None] = print) -> Path:
    """Unpack an archive, or a folder of archives, and the archives inside; continued where it was left off.

    Raises:
        ConfigError: no tool for RAR is installed.
        DataError: an archive is damaged or names members outside its folder.
    """
    for left in target.glob(".unpacking-*"):
        shutil.rmtree(left)
    target.mkdir(parents=True, exist_ok=True)
    _unpack(source, target, say)
    return target


def _unpack(source: Path, target: Path, say: Callable[[str], None]) -> None:
    archives = [source] if source.is_file() else sorted(p for p in source.iterdir() if is_archive(p))
    for archive in archives:
        done = target / f".{archive.name}.done"
        if done.exists():
            continue
        say(f"unpack {archive}")
        with tempfile.TemporaryDirectory(dir=target, prefix=".unpacking-") as held:
            _unpack_one(archive, Path(held))
            inner = [p for p in sorted(Path(held).rglob("*")) if is_archive(p)]
            for nested in inner:
                _unpack(nested, target, say)
                nested.unlink()
            for entry in sorted(Path(held).iterdir()):
                _merge(entry, target / entry.name)
        done.touch()


def is_archive(path: Path) -> bool:
    return path.suffix.lower() in (".rar", ".zip") and path.is_file() and not path.is_symlink()


def _merge(source: Path, target: Path) -> None:
    """Move what is in source into target, file by file where target is there."""
    if source.is_dir() and target.is_dir():
        for entry in source.iterdir():
            _merge(entry, target / entry.name)
    elif source.is_dir() and not any(p.is_file() for p in source.rglob("*")):
        return
    else:
        os.replace(source, target)


def _unpack_one(archive: Path, target: Path) -> None:
    """All members below target, or DataError."""
    if archive.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(archive) as opened:
                _check_members(archive, opened.namelist())
                opened.extractall(target)
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError) as error:
            raise DataError(f"{archive}: cannot be unpacked ({error}); is it whole?") from None
    else:
        _unpack_rar(archive, target)
    root = os.path.realpath(target)
    for path in target.rglob("*"):
        if path.is_symlink() or not os.path.realpath(path).startswith(root + os.sep):
            raise DataError(
                f"{archive}: its member {path.relative_to(target)} is a link; nothing of it was kept"
            )


def _check_members(archive: Path, names: list[str]) -> None:
    for name in names:
        try:
            check_relative(name.replace("\\", "/"))
        except ValueError as error:
            raise DataError(
                f"{archive}: a member would leave its folder ({error}); nothing was unpacked"
            ) from None


def _unpack_rar(archive: Path, target: Path) -> None:
    """With the first tool that can: some builds read only some kinds of RAR, or none."""
    file, to = str(archive.resolve()), str(target.resolve())
    tools = [  # how to list the names, one a line, and how to unpack
        (["unrar", "lb", "-p-", "--", file], ["unrar", "x", "-o+", "-p-", "-inul", "--", file, f"{to}/"]),
        (["bsdtar", "-tf", file], ["bsdtar", "-xf", file, "-C", to]),
        (["7zz", "l", "-ba", "-slt", file], ["7zz", "x", "-y", "-bd", f"-o{to}", file]),
        (["7z", "l", "-ba", "-slt", file], ["7z", "x", "-y", "-bd", f"-o{to}", file]),
        (["lsar", file], ["unar", "-q", "-f", "-D", "-o", to, file]),
    ]
    usable = [pair for pair in tools if all(shutil.which(command[0]) for command in pair)]
    faults: list[str] = []
    for listing, unpacking in usable:
        try:
            _check_members(archive, _names(_run(listing), listing[0]))
            _run(unpacking)
            if any(path.is_file() for path in target.rglob("*")):
                return
            faults.append(f"{unpacking[0]}: unpacked nothing")
        except _ToolError as error:
            faults.append(str(error))
        for path in list(target.iterdir()):  # what it left half done
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if faults:
        raise DataError(
            f"{archive}: could not be unpacked:\n{shortlist(faults)}\nIt is damaged (fetch it again), or of a kind "
            "that needs another tool (unrar reads every RAR)."
        )
    raise ConfigError(
        f"{archive}: a RAR archive, and none of unrar, bsdtar, 7zz, 7z and unar is installed. Install one "
        "(unrar, or apt install libarchive-tools), or unpack it and the archives inside it elsewhere."
    )


class _ToolError(Exception):
    """A tool that did not do it, and what it said."""


def _run(command: list[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        said = done.stderr.decode(errors="replace") or text
        raise _ToolError(f"{command[0]} ended with {done.returncode}: {' '.join(said.split())[-200:]}")
    return text


def _names(listing: str, tool: str) -> list[str]:
    lines = listing.splitlines()
    if tool in ("7z", "7zz"):
        return [line[7:] for line in lines if line.startswith("Path = ")]
    return lines[1:] if tool == "lsar" else lines
