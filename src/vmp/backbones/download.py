"""Download a weights file completely, and check it at every later use.

Notes:
- a file appears under its name once it is whole (transfer.py resumes dropped connections). If the server never said
  how long it is, a zip or safetensors file proves it by its own table of contents; anything else is refused;
- no checksums are published for these files: the SHA-256 is recorded at the first use and checked at every later one;
- an error page in place of a file is recognised by its first bytes, whatever content type the server gives;
- processes of one machine (torchrun) wait for the one that fetches.
"""

import errno
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

from vmp.errors import WeightsError
from vmp.files import wait_for_lock
from vmp.transfer import Failed, check_digest, digest_file, download, keep_part, name_of, remove_part


def cache_folder() -> Path:
    """$VMP_CACHE, or ~/.cache/vmp/weights."""
    return Path(os.environ.get("VMP_CACHE") or "~/.cache/vmp/weights").expanduser()


def fetch(
    urls: Sequence[str],
    folder: Path | None = None,
    *,
    licence: str = "",
    progress: bool = True,
) -> Path:
    """The file in `folder` (default: the cache folder), fetched from the first URL that gives it.

    Args:
        urls: places of the same weights; the file keeps the last part of the URL as its name.
        licence: printed when something is fetched.

    Raises:
        WeightsError: no URL gave it, it is not what it was, or the folder cannot be written.
    """
    folder = cache_folder() if folder is None else folder
    try:
        for path in (folder / name_of(url) for url in urls):
            if path.is_file() and digest_file(path).is_file():  # nothing to write: no lock
                check_digest(path, WeightsError)
                return path
        folder.mkdir(parents=True, exist_ok=True)
        waiting = f"waiting for another process that fetches weights into {folder}"
        with wait_for_lock(folder / ".lock", waiting, patience=5):
            for path in (folder / name_of(url) for url in urls):
                if path.is_file():
                    check_digest(path, WeightsError)
                    return path
            if licence:
                limits = ": for non-commercial use only" if "NC" in licence.upper().split("-") else ""
                print(f"weights: licence {licence}{limits}", flush=True)
            failed: list[str] = []
            for url in urls:
                try:
                    path = _fetch_from(url, folder / name_of(url), progress)
                except Failed as error:
                    failed.append(f"  {url}\n    {error}")
                else:
                    check_digest(path, WeightsError)
                    return path
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise WeightsError(
            f"{folder}: cannot be used for weights ({error}). "
            + ("Free some space there or set" if full else "Set")
            + " VMP_CACHE to a folder that can be written to."
        ) from error
    places = "\n".join(f"  {folder / name_of(url)}" for url in urls)
    raise WeightsError(
        "the weights could not be fetched:\n" + "\n".join(failed) + "\n"
        "Fetch one of these where there is a network, then pass the file: backbone.weights=/path/to/file\n"
        f"or put it where it will be found:\n{places}"
    )


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


def _fetch_from(url: str, path: Path, progress: bool) -> Path:
    part = path.with_name(f"{path.name}.part")
    length_known = download(url, part, progress=progress)
    with open(part, "rb") as file:
        head = file.read(64)
    if container(head) is None:
        remove_part(part)
        page = "a web page" if head.lstrip().startswith(b"<") else f"a file that begins with {head[:16]!r}"
        raise Failed(f"{page if head else 'an empty file'} came, not weights")
    if not (length_known or _has_its_end(part, head)):
        remove_part(part)
        raise Failed("the server did not say how long the file is, so it may have been cut short on its way")
    keep_part(part, path)
    return path


def _has_its_end(path: Path, head: bytes) -> bool:
    """Whether the file itself proves that its end is not missing."""
    kind = container(head)
    if kind == "zip":
        try:
            with zipfile.ZipFile(path):
                return True
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            return False
    if kind == "safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy"):  # compares the file's length with its header
                return True
        except SafetensorError:
            return False
    return False
