"""Fetch a file of weights once, whole, and know it again.

Notable here:
- a file appears under its name when it is whole; a dropped connection is resumed where the server can (HTTP Range
  with If-Range, so that halves of two versions are never joined), otherwise started over;
- no sums are published for these files: the SHA-256 is recorded at the first use and checked at every later one;
- an error page in place of a file is found out by its first bytes, whatever the server calls it;
- processes of one machine (torchrun) wait for the one that fetches.
"""

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from vmp.errors import WeightsError
from vmp.files import write_text
from vmp.progress import bar

TIMEOUT = 30.0  # seconds without a byte
WAITS = (1.0, 3.0, 9.0)  # seconds before another try; the count starts anew when bytes have come
_CHUNK = 1 << 20
_LATER = {408, 425, 429, 500, 502, 503, 504}  # HTTP answers worth another try


def cache_folder() -> Path:
    """$VMP_CACHE, or ~/.cache/vmp/weights."""
    return Path(os.environ.get("VMP_CACHE") or "~/.cache/vmp/weights").expanduser()


def fetch(
    urls: Sequence[str],
    folder: Path | None = None,
    *,
    sha256: str | None = None,
    licence: str = "",
    progress: bool = True,
) -> Path:
    """The file in `folder` (default: the cache folder), fetched from the first URL that gives it if it is not there.

    Args:
        urls: places of the same weights; the file keeps the last part of the URL as its name.
        sha256: what the file must have; None records what it has at first use, in <file>.sha256.
        licence: printed when something is fetched.

    Raises:
        WeightsError: no URL gave it, it is not what it was, or the folder cannot be written.
    """
    folder = cache_folder() if folder is None else folder
    try:
        for path in (folder / _name(url) for url in urls):
            if path.is_file() and (sha256 or _record(path).is_file()):  # nothing to write: no lock
                _check(path, sha256)
                return path
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            for path in (folder / _name(url) for url in urls):
                if path.is_file():
                    _check(path, sha256)
                    return path
            if licence:
                limits = ": for non-commercial use only" if "NC" in licence.upper().split("-") else ""
                print(f"weights: licence {licence}{limits}", flush=True)
            failed: list[str] = []
            for url in urls:
                try:
                    path = _download(url, folder / _name(url), sha256, progress)
                except _Failed as error:
                    failed.append(f"  {url}\n    {error}")
                else:
                    _check(path, sha256)
                    return path
    except OSError as error:
        raise WeightsError(
            f"{folder}: cannot be written ({error}). Free some space or set VMP_CACHE to another folder."
        ) from error
    places = "\n".join(f"  {folder / _name(url)}" for url in urls)
    raise WeightsError(
        "the weights could not be fetched:\n" + "\n".join(failed) + "\n"
        "Fetch one of these where there is a network, then pass the file: backbone.weights=/path/to/file\n"
        f"or put it where it will be found:\n{places}"
    )


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def container(head: bytes) -> str | None:
    """What a file with these first bytes (16 or more) is: zip, safetensors, torch, pickle; None for anything else."""
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"):  # the magic number of torch before 1.6
        return "torch"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= 100_000_000:
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "pickle"
    return None


class _Failed(Exception):
    """This URL does not give the file."""


class _locked:
    """One process at a time; says so when it has to wait."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock = folder, FileLock(folder / ".lock")

    def __enter__(self) -> None:
        try:
            self.lock.acquire(timeout=5)
        except Timeout:
            print(f"waiting for another process that fetches weights into {self.folder}", flush=True)
            self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def _name(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _check(path: Path, sha256: str | None) -> None:
    """Compare with the sum that is known or recorded; record it where there is none."""
    record = _record(path)
    found = sha256_of(path)
    expected = sha256 or (record.read_text().partition(" ")[0] if record.is_file() else "")
    if not expected:
        write_text(record, f"{found}  {path.name}\n")
    elif found != expected:
        origin = "published" if sha256 else f"recorded in {record.name} at the first use"
        raise WeightsError(
            f"{path}: not the file it should be:\n  SHA-256 {expected} ({origin})\n  SHA-256 {found} (found)\n"
            f"Remove {path.name}{'' if sha256 else f' and {record.name}'} to fetch it again."
        )


def _download(url: str, path: Path, sha256: str | None, progress: bool) -> Path:
    part, validator = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.version")
    if not validator.is_file():  # of an earlier process, and nothing says of which version
        part.unlink(missing_ok=True)
    waits = list(WAITS)
    while True:
        before = _size(part)
        try:
            _get(url, part, validator, progress)
            break
        except _Dropped as error:
            if _size(part) > before:
                waits = list(WAITS)
            if not waits:
                raise _Failed(f"{error}, {len(WAITS) + 1} tries in a row") from None
            wait = waits.pop(0)
            print(f"{path.name}: {error}, trying again in {wait:g} s", flush=True)
            time.sleep(wait)
    with open(part, "rb") as file:
        head = file.read(64)
    if container(head) is None:
        _remove(part, validator)
        page = "a web page" if head.lstrip().startswith(b"<") else f"a file that begins with {head[:16]!r}"
        raise _Failed(f"{page} came, not weights")
    if sha256 and (found := sha256_of(part)) != sha256:
        _remove(part, validator)
        raise _Failed(f"the file that came has SHA-256 {found}, published is {sha256}")
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    validator.unlink(missing_ok=True)
    return path


class _Dropped(Exception):
    """The connection broke or the server is busy: worth another try."""


def _get(url: str, part: Path, validator: Path, progress: bool) -> None:
    """One request; adds to `part` what the server gives beyond it, and returns when the file is whole."""
    have, version = _size(part), validator.read_text() if validator.is_file() else ""
    headers = {"User-Agent": "video-motion-prompts", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if version:
            headers["If-Range"] = version
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
            kind = answer.headers.get_content_type()
            if kind in ("text/html", "application/xhtml+xml"):
                raise _Failed(f"a web page came ({kind}), not weights")
            resumed = answer.status == 206 and _first_byte(answer.headers.get("Content-Range")) == have
            if answer.status != 200 and not resumed:
                _remove(part, validator)
                raise _Dropped(f"the server answered {answer.status} with another part of the file")
            have = have if resumed else 0
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else None
            etag = answer.headers.get("ETag") or ""
            if etag and not etag.startswith("W/"):
                validator.write_text(etag)
            elif not resumed:
                validator.unlink(missing_ok=True)
            _copy(answer, part, have, total, progress)
            if total is not None and _size(part) != total:
                raise _Dropped(f"the connection ended after {_size(part):,} of {total:,} bytes")
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send, or the file there is another one
            if re.fullmatch(rf"bytes \*/{have}", error.headers.get("Content-Range") or "") and version:
                return
            _remove(part, validator)
            raise _Dropped("the server has another version of the file") from None
        what = f"HTTP {error.code} {error.reason}"
        raise (_Dropped(what) if error.code in _LATER else _Failed(what)) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _Dropped("no answer") from None
        raise _Failed(f"no connection ({error.reason})") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Dropped(f"the connection broke ({type(error).__name__})") from None


def _copy(answer: http.client.HTTPResponse, part: Path, have: int, total: int | None, progress: bool) -> None:
    mib = 1 << 20
    with (
        open(part, "ab" if have else "wb") as file,
        bar(
            f"{part.stem} (MiB)",
            (total or 0) // mib,
            done=have // mib,
            shown=progress and bool(total),
        ) as shown,
    ):
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            have += len(chunk)
            shown.advance(have // mib - shown.done)


def _first_byte(content_range: str | None) -> int | None:
    found = re.match(r"bytes (\d+)-", content_range or "")
    return int(found[1]) if found else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
