"""Finds the videos and frame folders in a folder, at any depth, by stem."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from vmp.data.frames import FRAME
from vmp.errors import ConfigError
from vmp.invocation import command_line

SUFFIXES = (  # preferred first
    *(".avi", ".mp4", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv"),
    *(".ts", ".mts", ".m2ts", ".flv", ".ogv", ".ogg", ".3gp", ".vob", ".asf", ".divx", ".mxf", ".gif"),
)
VIDEO = re.compile(f".*({'|'.join(map(re.escape, SUFFIXES))})", re.IGNORECASE)
JOURNAL = ".cuts.jsonl"  # in folders of clips that were made from other videos (journal.py)


def is_frame_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder with numbered pictures (`img_00001.jpg`), and neither videos nor folders, in it.

    Whether these pictures are one clip, without gaps, is found where it is measured.
    """
    try:
        with os.scandir(path) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    except OSError:  # among others, it is a file or is not there
        return False
    return not any(folder for _, folder in found) and _holds_frames([name for name, _ in found])


def _holds_frames(names: Iterable[str]) -> bool:
    return any(map(FRAME.fullmatch, names)) and not any(map(VIDEO.fullmatch, names))


def find_videos(root: Path) -> dict[str, list[str]]:
    """Stem -> paths relative to root of the video files under it, in the order of SUFFIXES, then of frame folders.

    Clips that were made here from other videos come last: --videos may be a folder that --out is in.
    """
    if not root.is_dir():
        raise ConfigError(f"--videos {root}: no such folder; it should hold the videos, at any depth")
    found: dict[str, list[tuple[bool, int, str]]] = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner, ours = os.path.relpath(folder, root), JOURNAL in names
        names = [name for name in names if not name.startswith(".")]  # ._a.mp4: macOS's notes on a.mp4
        if inner != "." and not folders and _holds_frames(names):
            path = inner.replace(os.sep, "/")
            found.setdefault(os.path.basename(folder), []).append((ours, len(SUFFIXES), path))
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES:
                path = (name if inner == "." else f"{inner}/{name}").replace(os.sep, "/")
                found.setdefault(stem, []).append((ours, SUFFIXES.index(suffix.lower()), path))
    return {stem: [path for _, _, path in sorted(entries)] for stem, entries in found.items()}


def find_path(found: dict[str, list[str]], stem: str, otherwise: str, *, folder: str = "") -> str:
    """Path of the video of that stem, preferably below a folder of that name; `otherwise` if there is no such video."""
    paths = found.get(stem, [])
    inside = [path for path in paths if folder and folder in path.split("/")[:-1]]
    return next(iter(inside + paths), otherwise)


def why_not_found(root: Path) -> str:
    """What may keep videos from being found under a folder, and what to do, on lines of its own; or nothing."""
    links = [entry.name for entry in os.scandir(root) if entry.is_symlink() and entry.is_dir()]
    if links:
        named = ", ".join(sorted(links)[:5])
        return f"\n  links to folders are not followed: {named}; name where they lead with --videos"
    if find_videos(root):
        return ""
    why = f"\n  it holds no file that ends in {', '.join(SUFFIXES)}, and no folder of frames such as img_00001.jpg"
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            if name.endswith((".h5", ".hdf5")):
                return (
                    f"{why}. {Path(folder, name)} is HDF5, which is not read. Name the folder of the original videos. "
                    "Clips as the authors' script makes them (files and train.csv, unpacked from it) are read by "
                    f"`{command_line('train')} dataset=list`, see docs/data.md."
                )
    return why
