"""Archives, and the archives inside them, unpacked into a folder; HMDB-51 is a RAR that holds one RAR per class.

Notes:
- an archive may name members outside its folder, or hold links: members are checked before and after unpacking;
- each archive is unpacked into a temporary folder and moved into place when it is whole; a file marks it as done, so
  that a run that was killed can continue. It names the archive's size and time: one that was replaced is unpacked anew;
- Python reads ZIP and tar. RAR needs a program, and some builds read only some kinds of RAR: all are tried, one after
  another.
"""

import filecmp
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vmp.data.manifest import check_relative
from vmp.errors import ConfigError, DataError, shortlist
from vmp.files import stamp, wait_for_lock

TARS = (".tar", ".tar.gz", ".tgz")
SIDE_FILES = ("thumbs.db", "readme", "readme.txt", "readme.md", "license", "license.txt")  # which may differ
DAMAGED = (zlib.error, lzma.LZMAError, EOFError, OSError)  # what decompressing raises
LARGEST = 50  # members may be this many times the size of their archive together


def unpack(source: Path, target: Path, *, say: Callable[[str], None] = print) -> Path:
    """Unpack an archive, or a folder of archives, and the archives inside; continues where it was interrupted.

    Raises:
        ConfigError: no tool for RAR is installed.
        DataError: an archive is damaged or names members outside its folder.
    """
    target.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(target / ".lock", f"{target}: another process unpacks archives there; waiting for it"):
        for left in target.glob(".unpacking-*"):
            shutil.rmtree(left)
        for archive in [source] if source.is_file() else sorted(p for p in source.iterdir() if is_archive(p)):
            _unpack(archive, target, say, home=archive.parent, mark="{} {}".format(*stamp(archive)))
    return target


def _unpack(archive: Path, target: Path, say: Callable[[str], None], *, home: Path, mark: str) -> None:
    """Unpack an archive and those inside it; `mark` is that of the outermost one."""
    inner = archive.relative_to(home)  # train/part_0.zip and val/part_0.zip are two
    done = target / f".{'+'.join(inner.parts)}.done"
    if done.exists() and done.read_text(encoding="utf-8") == mark:
        return
    say(f"unpack {archive}")
    with tempfile.TemporaryDirectory(dir=target, prefix=".unpacking-") as held:
        _unpack_one(archive, Path(held))
        for nested in [path for path in sorted(Path(held).rglob("*")) if is_archive(path)]:
            _unpack(nested, target, say, home=Path(held), mark=mark)
            nested.unlink()
        if not done.exists():  # an archive that was replaced replaces its members, too
            _check_place(archive, Path(held), target)
        for entry in sorted(Path(held).iterdir()):
            _merge(entry, target / entry.name)
    done.write_text(mark, encoding="utf-8")


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith((".rar", ".zip", *TARS)) and path.is_file() and not path.is_symlink()


def _check_place(archive: Path, held: Path, target: Path) -> None:
    """Raise DataError where a member would replace another file, of another archive for instance."""
    for path in sorted(held.rglob("*")):
        there = target / path.relative_to(held)
        known = path.name.startswith(".") or path.name.lower() in SIDE_FILES
        if path.is_file() and there.is_file() and not known and not filecmp.cmp(path, there, shallow=False):
            raise DataError(
                f"{archive}: its member {path.relative_to(held)} would replace another file, {there}, which another "
                "archive may have brought; its own members were not kept. Unpack the archives by hand, each into a "
                "folder of its own, and give the folder that holds these"
            )


def _merge(source: Path, target: Path) -> None:
    """Move source to target; where both are folders, entry by entry."""
    if source.is_dir() and target.is_dir():
        for entry in source.iterdir():
            _merge(entry, target / entry.name)
    elif source.is_dir() and not any(p.is_file() for p in source.rglob("*")):
        return
    else:
        os.replace(source, target)


def _unpack_one(archive: Path, target: Path) -> None:
    """Unpack all members below target, or raise DataError."""
    if archive.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(archive) as opened:
                _check_members(archive, opened.namelist())
                _check_room(archive, sum(member.file_size for member in opened.infolist()), target)
                for member in opened.infolist():
                    member.filename = member.filename.replace("\\", "/")  # of programs for Windows
                    opened.extract(member, target)
        except (zipfile.BadZipFile, RuntimeError, *DAMAGED) as error:
            raise DataError(f"{archive}: cannot be unpacked ({error}); it may be incomplete") from None
    elif archive.name.lower().endswith(TARS):
        _unpack_tar(archive, target)
    else:
        _unpack_rar(archive, target)
    for path in target.rglob("*"):
        info = path.lstat()
        if not (stat.S_ISDIR(info.st_mode) or (stat.S_ISREG(info.st_mode) and info.st_nlink == 1)):
            raise DataError(
                f"{archive}: its member {path.relative_to(target)} is a link, a pipe or a device; nothing was kept"
            )


def _check_members(archive: Path, names: list[str]) -> None:
    for name in names:
        try:
            check_relative(name.replace("\\", "/"))
        except ValueError as error:
            why = f"a member would leave its folder ({error}); nothing was unpacked"
            raise DataError(f"{archive}: {why}") from None


def _check_room(archive: Path, size: int, target: Path, more: int | None = None) -> None:
    """Videos do not shrink when they are packed, so an archive of much larger members is a trap, or damaged.

    `more`: bytes that are still to be written; None: all.
    """
    room = shutil.disk_usage(target).free
    if size > LARGEST * archive.stat().st_size + 1e6 or (size if more is None else more) > room:
        raise DataError(
            f"{archive}: says that it unpacks to {size:,} bytes, from {archive.stat().st_size:,}, with {room:,} free "
            "on the disk; nothing was unpacked"
        )


def _unpack_tar(archive: Path, target: Path) -> None:
    """In one pass, because finding a member in a compressed archive means to unpack what is before it."""
    checked: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    size = 0
    try:
        with tarfile.open(archive) as opened:
            for member in opened:
                _check_members(archive, [member.name])
                if not (member.isfile() or member.isdir()):
                    what = "a link, a pipe or a device"
                    raise DataError(f"{archive}: its member {member.name} is {what}; nothing was kept")
                size += member.size
                _check_room(archive, size, target, more=member.size)
                opened.extract(member, target, **checked)
    except (tarfile.TarError, *DAMAGED) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); it may be incomplete") from None


def _unpack_rar(archive: Path, target: Path) -> None:
    """Unpack with the first tool that can; some builds read only some kinds of RAR, or none."""
    faults: list[str] = []
    for listing, unpacking in _rar_commands(archive, target):
        try:
            _check_members(archive, _names(_run(listing), listing[0]))
            _run(unpacking)
            if any(path.is_file() for path in target.rglob("*")):
                return
            faults.append(f"{unpacking[0]}: unpacked nothing")
        except subprocess.CalledProcessError as error:
            output = " ".join((error.stderr or error.stdout).split())
            faults.append(f"{error.cmd[0]} ended with {error.returncode}: {output[-200:]}")
        for path in list(target.iterdir()):  # what a failed attempt left
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    raise DataError(
        f"{archive}: could not be unpacked:\n{shortlist(faults)}\nIt is damaged (fetch it again), or of a kind "
        "that needs another tool (unrar reads every RAR)."
    )


def _rar_commands(archive: Path, target: Path) -> list[tuple[list[str], list[str]]]:
    """How each installed tool lists the names, one per line, and how it unpacks. ConfigError where none is there."""
    file, to = str(archive.resolve()), str(target.resolve())
    tools = [
        (["unrar", "lb", "-p-", "--", file], ["unrar", "x", "-o+", "-p-", "-inul", "--", file, f"{to}/"]),
        (["bsdtar", "-tf", file], ["bsdtar", "-xf", file, "-C", to]),
        (["7zz", "l", "-ba", "-slt", file], ["7zz", "x", "-y", "-bd", f"-o{to}", file]),
        (["7z", "l", "-ba", "-slt", file], ["7z", "x", "-y", "-bd", f"-o{to}", file]),
        (["lsar", file], ["unar", "-q", "-f", "-D", "-o", to, file]),
    ]
    if usable := [pair for pair in tools if all(shutil.which(command[0]) for command in pair)]:
        return usable
    raise ConfigError(
        f"{archive}: a RAR archive, and none of unrar, bsdtar, 7zz, 7z and unar is installed. Install one "
        "(unrar, or apt install libarchive-tools), or unpack it and the archives inside it elsewhere."
    )


def find_rar_tool(archive: Path) -> str:
    """The program that is tried first on a RAR. Raises ConfigError where none is installed."""
    _, unpacking = _rar_commands(archive, Path())[0]
    return unpacking[0]


def _run(command: list[str]) -> str:
    """What a tool prints. Raises CalledProcessError where it fails."""
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "check": True}
    return subprocess.run(command, encoding="utf-8", errors="replace", **options).stdout


def _names(listing: str, tool: str) -> list[str]:
    lines = listing.splitlines()
    if tool in ("7z", "7zz"):
        return [line[7:] for line in lines if line.startswith("Path = ")]
    return lines[1:] if tool == "lsar" else lines
