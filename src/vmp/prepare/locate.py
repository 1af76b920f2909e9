"""Finds the files that a list means by its paths and ids.

Notes:
- a path that exists as written is taken. Else backslashes are read as slashes, absolute paths are taken if they lie in
  the root, and relative ones may count from the list's folder, the working folder or the folder above the root;
- a name that differs only in upper and lower case, or in how accents are coded (macOS writes them as characters of
  their own), means the one file of that name in the whole root;
- names without a suffix and ids are looked for in the whole root: `name.mp4`, `Title [id].mp4` and `Title-id.mp4` as
  downloaders write them, and `id_000010_000020.mp4`, a clip that was cut out already, from Kinetics;
- nothing outside the root is used, and where several files fit none is taken.
"""

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from vmp.data.manifest import check_relative
from vmp.prepare.list_format import Row
from vmp.prepare.videos import VIDEO, find_videos, is_frame_folder

_YOUTUBE = re.compile(r"[A-Za-z0-9_-]{11}")
_BRACKETED = re.compile(r"\[([^\[\]]+)\]$")


class Locator:
    """Finds the files that rows of lists mean under a root, which it walks at most once."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self._roots = (self.root, Path(os.path.realpath(root)))

    def locate(self, row: Row, file: Path) -> Row:
        """The row of the list `file` with a path relative to the root; where no file fits, the path where it should be.

        Raises ValueError where the path leaves the root, cannot be a path, or fits several files.
        """
        if row.id and not VIDEO.fullmatch(row.path):
            return self._by_id(row)
        path = self._relative(row.path, file)
        if not VIDEO.fullmatch(path) and not _is_clip(self.root / path):
            path = self._by_stem(path)
        return replace(row, path=path, id=False)

    def locate_all(self, rows: Iterable[Row], file: Path, faults: list[str]) -> list[Row]:
        """The rows of the list `file` with paths relative to the root. Faults are added for those whose path cannot be
        used, which are left out, and for those that repeat a video and its span."""
        located: list[Row] = []
        seen: dict[object, Row] = {}
        for row in rows:
            try:
                row = self.locate(row, file)
            except ValueError as error:
                faults.append(f"{row.where}: {error}")
                continue
            other = seen.setdefault((posixpath.normpath(row.path), row.start or 0, row.end), row)
            if other is not row:
                line, labels = other.where.rpartition(":")[2], ""
                if row.label != other.label:
                    labels = f", there as {other.label!r} and here as {row.label!r}"
                faults.append(
                    f"{row.where}: {row.path} is on line {line}, too{labels}; list each clip once, that is a video and "
                    "its span"
                )
            located.append(row)
        return located

    def _relative(self, text: str, file: Path) -> str:
        if "://" in text:
            raise ValueError(f"path {text[:80]!r} is a URL; a list names files under the dataset root")
        if "\\" in text and not self._is_there(text):
            text = text.replace("\\", "/")
        if text.startswith("/"):
            return self._inside(text)
        check_relative(text)
        if self._is_there(text):
            return text
        for base in (Path(os.path.abspath(file)).parent, Path.cwd(), self.root.parent):
            if _is_clip(base / text):
                with suppress(ValueError):
                    return self._inside(str(base / text))
        return _only(self._folded.get(_fold(text), []), text) or text

    def _is_there(self, text: str) -> bool:
        try:
            return _is_clip(self.root / check_relative(text))
        except ValueError:
            return False

    def _inside(self, absolute: str) -> str:
        """An absolute path made relative to the root. Links are not followed here; where they lead is checked later."""
        if ".." in PurePosixPath(absolute).parts:
            raise ValueError(f"path {absolute!r} climbs out of the dataset root with '..'")
        plain = os.path.normpath(absolute)
        for root in self._roots:
            if plain.startswith(f"{root}{os.sep}"):
                return check_relative(os.path.relpath(plain, root))
        raise ValueError(
            f"path {absolute[:200]!r} is not in the dataset root {self.root}; name a folder above it"
        )

    @cached_property
    def _stems(self) -> dict[str, list[str]]:
        return find_videos(self.root)

    @cached_property
    def _below(self) -> dict[tuple[str, str], list[str]]:
        """(Name of its folder, stem) -> paths: where every folder holds a `clip.mp4`, a stem alone has too many."""
        found: dict[tuple[str, str], list[str]] = {}
        for stem, paths in self._stems.items():
            for path in paths:
                found.setdefault((posixpath.basename(posixpath.dirname(path)), stem), []).append(path)
        return found

    @cached_property
    def _folded(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in (path for paths in self._stems.values() for path in paths):
            found.setdefault(_fold(path), []).append(path)
        return found

    @cached_property
    def _ids(self) -> dict[str, list[str]]:
        """Id -> videos whose names mark it as one."""
        found: dict[str, list[str]] = {}
        for stem, paths in self._stems.items():
            ids = {match[1] for match in [_BRACKETED.search(stem)] if match}
            if len(stem) > 12 and stem[-12] in "-_" and _YOUTUBE.fullmatch(stem[-11:]):
                ids.add(stem[-11:])  # youtube-dl: Title-ID; ActivityNet: v_ID
            for id in ids:
                found.setdefault(id, []).extend(paths)
        return found

    def _by_stem(self, path: str) -> str:
        """The video at a path without suffix, or else the one video or frame folder of that name below the root."""
        folder, _, stem = posixpath.normpath(path).rpartition("/")
        home = posixpath.basename(folder)
        paths = self._below.get((home, stem), []) if home else self._stems.get(stem, [])
        fits = [p for p in paths if not folder or f"/{p}".rpartition("/")[0].endswith(f"/{folder}")]
        here = [p for p in fits if posixpath.splitext(p)[0] == posixpath.normpath(path)]
        return _only(here or fits, path) or path

    def find_namesake(self, path: str) -> str:
        """A file of the same name in another place, preferably in a folder of the same name too, or ''."""
        folder, name = posixpath.split(posixpath.normpath(path))
        stem = posixpath.splitext(name)[0]
        near = self._below.get((posixpath.basename(folder), stem), []) if folder else []
        named = (
            p for p in (*near, *self._stems.get(stem, [])[:1]) if _fold(posixpath.basename(p)) == _fold(name)
        )
        return next(named, "")

    def _by_id(self, row: Row) -> Row:
        id = check_relative(row.path)
        if row.start is not None and row.end is not None and not row.frames:
            cut = _only(self._stems.get(f"{id}_{int(row.start):06}_{int(row.end):06}", []), id)
            if cut:
                return replace(row, path=cut, start=None, end=None, id=False)
        found = _only(self._stems.get(id, []), id) or _only(self._ids.get(id, []), id)
        return replace(row, path=found or id, id=False)


def _is_clip(path: Path) -> bool:
    try:
        return path.is_file() or is_frame_folder(path)
    except (OSError, ValueError):  # a name that is too long
        return False


def _fold(path: str) -> str:
    """A path in the form in which case and the coding of accents make no difference."""
    return unicodedata.normalize("NFC", posixpath.normpath(path)).casefold()


def _only(fits: Sequence[str], text: str) -> str:
    """The one file that fits, or ''; ValueError where several do."""
    if len(fits) > 1:
        some = ", ".join(sorted(fits)[:3])[:300]
        raise ValueError(f"{text[:80]!r} may be any of {len(fits)} files: {some}; write the path of one")
    return fits[0] if fits else ""
