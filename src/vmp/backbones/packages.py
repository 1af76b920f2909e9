"""Weights in a Python package: found where it is installed or was downloaded to, and read without importing it."""

import hashlib
import importlib.util
import tarfile
import zlib
from pathlib import Path

from vmp.backbones.download import cache_folder
from vmp.backbones.zoo import Package
from vmp.errors import WeightsError
from vmp.files import replacing
from vmp.transfer import sha256_of


def find_in_package(package: Package) -> Path | None:
    """The file of the installed package, or out of its source distribution in the working folder or the cache folder
    ($VMP_CACHE), where the file is then kept; None if there is neither.

    Raises:
        WeightsError: the file is not the one that this version of the package has, or cannot be kept.
    """
    kept = cache_folder() / package.name / Path(package.file).name
    distribution = f"{package.name.replace('-', '_')}-{package.version}.tar.gz"
    spec = importlib.util.find_spec(package.module)
    installed = [
        Path(folder).parent / package.file for folder in (spec and spec.submodule_search_locations) or ()
    ]
    for path in (*installed, kept):
        if path.is_file():
            _check(sha256_of(path), path, package)
            return path
    for archive in (folder / distribution for folder in (Path(), cache_folder())):
        if archive.is_file():
            content = _member(archive, package)
            _check(hashlib.sha256(content).hexdigest(), archive, package)
            try:
                with replacing(kept) as temporary:
                    temporary.write_bytes(content)
            except OSError as error:
                raise WeightsError(
                    f"{kept}: cannot be written ({error}). Set VMP_CACHE to a folder that can be written to."
                ) from None
            return kept
    return None


def _member(archive: Path, package: Package) -> bytes:
    name = f"{archive.name.removesuffix('.tar.gz')}/{package.file}"
    try:
        with tarfile.open(archive) as opened:
            file = opened.extractfile(name)
            if file is None:
                raise KeyError(name)
            return file.read()
    except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
        raise WeightsError(
            f"{archive}: damaged, or without {name} ({error}). Fetch it again: {package.command}"
        ) from None


def _check(found: str, path: Path, package: Package) -> None:
    if found != package.sha256:
        raise WeightsError(
            f"{path}: not the file of {package.name} {package.version}:\n  SHA-256 {package.sha256} (expected)\n"
            f"  SHA-256 {found} (found)\nRemove it and fetch the package again: {package.command}"
        )
