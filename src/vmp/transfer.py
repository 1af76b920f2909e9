"""Download one file over HTTP, completely, into <file>.part; resume an earlier attempt only of the same version; know
it again by its SHA-256.

Notes:
- a dropped connection is resumed (HTTP Range) with If-Range, and the answer's ETag, Last-Modified and length are
  compared with those of the first part as well, because some servers ignore If-Range; any change starts it again;
- without a strong ETag or Last-Modified there is nothing to compare, so the download starts again;
- a body that ends when the connection closes may be cut short: the caller learns that the length was never known;
- a connection slower than SPEED for WINDOW seconds is dropped, and a server that stays slow is abandoned;
- network faults become `Failed` or `Dropped`; any OSError that leaves this module comes from the disk.
"""

import hashlib
import http.client
import json
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from vmp.errors import UserError
from vmp.files import write_text
from vmp.progress import bar

TIMEOUT = 30.0  # seconds without a byte
SPEED, WINDOW = 1024.0, 30.0  # at least so many bytes per second, measured over so many seconds
WAITS = (1.0, 3.0, 9.0)  # seconds before another try; starts again after bytes have come at SPEED
_CHUNK = 1 << 20
_RETRY = {408, 425, 429, 500, 502, 503, 504}  # HTTP status codes worth another try


class Failed(Exception):
    """The file cannot be fetched from this URL."""


class Dropped(Exception):
    """The connection broke or the server is busy: worth another try."""


def download(url: str, part: Path, *, progress: bool) -> bool:
    """Fill `part` with the whole file behind `url`, in as many requests as it takes.

    Returns:
        Whether the server said how long the file is. False: it may have been cut short without a trace.

    Raises:
        Failed: the file cannot be fetched from the URL, or the connection broke too often.
        OSError: `part` cannot be written.
    """
    waits, most, began = list(WAITS), _size(part), time.monotonic()
    while True:
        try:
            return _request(url, part, progress)
        except Dropped as error:
            gained, most = _size(part) - most, max(most, _size(part))
            if gained > 0 and gained >= SPEED * (time.monotonic() - began):
                waits = list(WAITS)
            if not waits:
                raise Failed(f"{error}, {len(WAITS) + 1} tries in a row") from None
            began, wait = time.monotonic(), waits.pop(0)
            print(f"{part.stem}: {error}, trying again in {wait:g} s", flush=True)
            time.sleep(wait)


def begun(url: str, part: Path) -> bool:
    """Whether `part` is the beginning of what the URL gave, and can be continued from it."""
    return _size(part) > 0 and _recorded_version(part, url) is not None


def name_of(url: str) -> str:
    """The last part of a URL."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def check_digest(path: Path, error: type[UserError]) -> None:
    """Compare with the SHA-256 recorded in <file>.sha256; record it where there is none. Raises `error`."""
    record, found = digest_file(path), sha256_of(path)
    if not record.is_file():
        write_text(record, f"{found}  {path.name}\n")
        return
    expected = record.read_bytes()[:64].decode("ascii", errors="replace")
    if not re.fullmatch("[0-9a-f]{64}", expected):
        raise error(
            f"{record}: holds no SHA-256. Remove it to record that of {path.name} as it is now, or remove both "
            "files to fetch it again."
        )
    if found != expected:
        raise error(
            f"{path}: not the file it should be:\n  SHA-256 {expected} (recorded in {record.name} at the first use)\n"
            f"  SHA-256 {found} (found)\nRemove {path.name} and {record.name} to fetch it again."
        )


def keep_part(part: Path, path: Path) -> None:
    """Give a partial file that is whole its name."""
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    remove_part(part)


def remove_part(part: Path) -> None:
    """Remove a partial file and the record of its version."""
    _version_file(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Version:
    """What a server says about a file: enough to recognise that a later answer is about the same one."""

    url: str
    etag: str = ""  # strong only
    modified: str = ""
    length: int | None = None

    @property
    def validator(self) -> str:
        return self.etag or self.modified

    def continued_by(self, other: "_Version") -> bool:
        if self.etag != other.etag or (other.modified and self.modified and other.modified != self.modified):
            return False
        if not self.etag and (not self.modified or other.modified != self.modified):
            return False
        return None in (self.length, other.length) or self.length == other.length


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects from https to http: at the first use nothing else vouches for a file."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise Failed(f"the server redirects from https to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _request(url: str, part: Path, progress: bool) -> bool:
    """One request: append to `part`, or start it again. Returns whether its length is known, once the file is whole."""
    kept = _recorded_version(part, url)
    have = _size(part) if kept else 0  # what another URL gave stays until this one gives something
    # an earlier process stopped between the last byte and the rename
    if kept and have and have == kept.length:
        return True
    headers = {"User-Agent": "video-motion-prompts", "Accept-Encoding": "identity"}
    if kept and have:
        headers |= {"Range": f"bytes={have}-", "If-Range": kept.validator}
    with _connect(url, headers, part) as answer:
        kind = answer.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            raise Failed(f"a web page came ({kind}), not the file")
        found, first = _version(url, answer)
        if answer.status == 206:
            if first != have or (kept and have and not kept.continued_by(found)):
                remove_part(part)
                raise Dropped("the server has another version of the file")
        elif answer.status != 200:
            raise Failed(f"HTTP {answer.status} {answer.reason}")
        else:
            have = 0
        total = found.length if found.length is not None else kept.length if kept and have else None
        free = shutil.disk_usage(part.parent).free + (0 if have else _size(part))
        if total is not None and free < total - have:
            raise Failed(
                f"{(total - have) / 1e6:,.0f} MB are still to come and {part.parent} has {free / 1e6:,.0f} MB free"
            )
        if not have:  # in this order, so that a kill in between cannot leave old bytes under the new version
            remove_part(part)
            part.touch()
            if found.validator:
                write_text(_version_file(part), json.dumps(asdict(found)))
        _append(answer, part, have, total, progress)
        if total is not None and _size(part) != total:
            raise Dropped(f"the connection ended after {_size(part):,} of {total:,} bytes")
        return total is not None or answer.chunked


def _connect(url: str, headers: dict[str, str], part: Path) -> Any:
    begun = "Range" in headers
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and begun:
            remove_part(part)
            raise Dropped("the server has another version of the file") from None
        what = f"HTTP {error.code} {' '.join(str(error.reason).split())}"
        raise (Dropped(what) if error.code in _RETRY else Failed(what)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise Failed(
                f"its certificate is not trusted ({cause.verify_message}). Behind a proxy that opens TLS, set "
                "SSL_CERT_FILE to the proxy's certificate; also check this machine's clock"
            ) from None
        if isinstance(cause, TimeoutError):
            raise Dropped("no answer") from None
        if isinstance(cause, ValueError | http.client.InvalidURL):
            raise Failed(f"the server redirects to something that is no address ({cause})") from None
        if isinstance(cause, http.client.HTTPException | ConnectionResetError):
            raise Dropped(f"the connection broke ({_describe_error(cause)})") from None
        raise (Dropped if begun else Failed)(f"no connection ({_describe_error(cause)})") from None


def _append(answer: Any, part: Path, have: int, total: int | None, progress: bool) -> None:
    mib = 1 << 20
    with (
        open(part, "ab") as file,
        bar(
            f"{part.stem} (MiB)", (total or 0) // mib, done=have // mib, shown=progress and bool(total)
        ) as shown,
    ):
        since, arrived = time.monotonic(), 0
        while True:
            try:
                chunk = answer.read1(_CHUNK)
            except TimeoutError:
                raise Dropped(f"no byte came for {TIMEOUT:g} s") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise Dropped(f"the connection broke ({_describe_error(error)})") from None
            if not chunk:
                return
            file.write(chunk)
            have, arrived = have + len(chunk), arrived + len(chunk)
            shown.advance(have // mib - shown.done)
            if (elapsed := time.monotonic() - since) >= WINDOW:
                if arrived < SPEED * elapsed:
                    raise Dropped(f"the server is too slow ({arrived / elapsed:,.0f} bytes per second)")
                since, arrived = time.monotonic(), 0


def _version(url: str, answer: Any) -> tuple[_Version, int | None]:
    """What an answer says about its file, and the position of its first byte (None if unknown).

    Raises:
        Failed: the headers contradict each other or are not numbers.
    """
    headers: Message = answer.headers
    lengths = {text.strip() for value in headers.get_all("Content-Length") or [] for text in value.split(",")}
    if len(lengths) > 1 or not all(re.fullmatch(r"[0-9]{1,18}", text) for text in lengths):
        raise Failed(f"the server gives no usable length (Content-Length: {', '.join(sorted(lengths))[:80]})")
    body = int(lengths.pop()) if lengths and not answer.chunked else None
    etag = (headers.get("ETag") or "").strip()
    etag = "" if etag.startswith("W/") else etag
    modified, length, first = (headers.get("Last-Modified") or "").strip(), body, 0
    if answer.status == 206:
        span = re.fullmatch(
            r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)",
            (headers.get("Content-Range") or "").strip(),
        )
        if not span:
            return _Version(url, etag, modified), None
        first, last = int(span[1]), int(span[2])
        length = None if span[3] == "*" else int(span[3])
        if body is not None and body != last - first + 1:
            raise Failed(f"the server contradicts itself (Content-Range: {span[0]}, Content-Length: {body})")
    return _Version(url, etag, modified, length), first


def _recorded_version(part: Path, url: str) -> _Version | None:
    """The version of the file that `part` is the beginning of; None if unknown."""
    try:
        kept = _Version(**json.loads(_version_file(part).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return kept if kept.url == url and kept.validator else None


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _describe_error(error: object) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
