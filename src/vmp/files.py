"""Writes files whole or not at all, and reads files within bounds.

Notes:
- a file that is written is there completely or not at all, also after a kill or a power cut;
- a file that is read must be a regular file of a bounded size in UTF-8, not a pipe or an endless device;
- YAML is read as plain values: without tags, without aliases (ten lines of which can expand to a billion values), and
  without interpolations, so `${oc.env:SECRET}` remains text;
- JSON and YAML are bounded in depth and in the size of numbers.
"""

import csv
import hashlib
import io
import json
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from gzip import BadGzipFile, GzipFile
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml  # type: ignore[import-untyped]

from vmp.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

MB = 10**6
# bytes of a config, a JSON file, a file of rows
CONFIG_LIMIT, JSON_LIMIT, ROWS_LIMIT = (MB // 4, 64 * MB, 512 * MB)
DEPTH = 32  # levels of nested values
NODES = 50_000  # values in a YAML file
DIGITS = 40  # digits of a number
CELL = 100_000  # characters in a cell of a CSV


# --- writing -------------------------------------------------------------------------------------------------------


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context that yields a temporary path, which becomes `path` at the end; an exception leaves the old file alone.

    The temporary file is hidden, named after this process, and has the suffix of `path`, by which some writers choose.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.stem if len(os.fsencode(path.name)) < 200 else f"{zlib.crc32(os.fsencode(path.name)):08x}"
    temporary = path.with_name(f".{stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def wait_for_lock(file: Path, waiting: str, *, patience: float = 0.0) -> Any:
    """A lock on a file, to be released by `with`; prints `waiting`, if it is not empty, where another process holds it
    longer than `patience` seconds."""
    from filelock import FileLock, Timeout

    lock = FileLock(file)
    try:
        return lock.acquire(timeout=patience)
    except Timeout:
        if waiting:
            print(waiting, flush=True)
        return lock.acquire()


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(
    path: Path, tensors: "Mapping[str, Tensor]", metadata: dict[str, str] | None = None
) -> None:
    """A safetensors file with the permissions of every new file: safetensors itself lets only its owner read it."""
    from safetensors.torch import save_file

    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    first: dict[int, str] = {}  # of the tensors in one memory, which safetensors refuses
    for name, tensor in plain.items():
        if first.setdefault(tensor.untyped_storage().data_ptr(), name) != name:
            plain[name] = tensor.clone()
    save_file(plain, path, metadata)
    with suppress(OSError):  # a file system without permissions
        path.chmod(mode)


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Rows, the header first; compressed if the name ends in .gz, the same rows to the same bytes.

    A name of a file that is not UTF-8 is written with its odd bytes as `\\udce9`.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        packed = GzipFile("", "wb", fileobj=file, mtime=0) if path.suffix == ".gz" else file
        with packed, io.TextIOWrapper(packed, "utf-8", "backslashreplace", newline="") as text:
            csv.writer(text, lineterminator="\n").writerows(rows)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """What write_csv writes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


# --- reading -------------------------------------------------------------------------------------------------------


@contextmanager
def open_regular(path: Path, *, limit: int) -> Iterator[BinaryIO]:
    """Open a regular file of at most `limit` bytes for reading.

    Raises:
        RunError: the file is of another kind or too large, or cannot be opened or read.
    """
    try:
        # a pipe would block until someone writes to it
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise RunError(f"{path}: not a regular file")
            if found.st_size > limit:
                size = f"{limit // MB} MB" if limit >= MB else f"{limit // 1000} kB"
                raise RunError(f"{path}: larger than {size}, the most that such a file may have")
            yield file
    except ValueError as error:  # an impossible path
        raise RunError(f"{path}: cannot be opened ({error})") from None
    except OSError as error:
        why = "not found" if isinstance(error, FileNotFoundError) else error.strerror
        raise RunError(f"{path}: {why}") from None


def read_text(path: Path, *, limit: int = JSON_LIMIT) -> str:
    """The text of a regular file of at most `limit` bytes in UTF-8, unpacked if its name ends in .gz.

    Raises:
        RunError: the file is of another kind, or cannot be read.
    """
    with open_regular(path, limit=limit) as file:
        try:
            data = (GzipFile(fileobj=file) if path.suffix == ".gz" else file).read(limit + 1)
        except (EOFError, BadGzipFile, zlib.error) as error:
            raise RunError(f"{path}: damaged ({error})") from None
    if len(data) > limit:
        raise RunError(f"{path}: unpacks to more than the {limit:,} bytes that are read")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None


def read_json(path: Path) -> Any:
    """Raises:
    RunError: the file is not JSON, is nested deeper than DEPTH, or has a number with more than DIGITS digits.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """Parse JSON; error messages call the text `where`."""

    def whole(digits: str) -> int:
        if len(digits) > DIGITS:
            raise ValueError(f"a number of {len(digits)} digits")
        return int(digits)

    try:
        value = json.loads(text, parse_int=whole)
    except RecursionError:
        raise RunError(f"{where}: nested deeper than {DEPTH} levels") from None
    except ValueError as error:
        raise RunError(f"{where}: not JSON ({error})") from None
    _check_values(value, where)
    return value


def _check_values(value: Any, where: str) -> None:
    """Raise RunError for values nested too deeply, numbers that are too large, and text that is not Unicode."""
    level = [value]
    for _ in range(DEPTH + 1):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below += [*one.keys(), *one.values()]
            elif isinstance(one, list | tuple | set):
                below += one
            elif isinstance(one, int) and abs(one) >= 2**63:
                raise RunError(f"{where}: a number of more than 64 bits")
            elif isinstance(one, str) and not one.isascii():
                try:
                    one.encode()
                except UnicodeEncodeError:
                    raise RunError(f"{where}: text that is not Unicode ({one[:40]!a})") from None
        if not below:
            return
        level = below
    raise RunError(f"{where}: nested deeper than {DEPTH} levels")


def read_csv(path: Path, *, required: Sequence[str]) -> list[dict[str, str]]:
    """Rows as column -> cell, with "" for missing cells.

    Raises:
        RunError: the file is not CSV, lacks a required column, or has a row that is longer than the header.
    """
    try:
        lines = csv.reader(io.StringIO(read_text(path, limit=ROWS_LIMIT), newline=""))
        header = next(lines, [])
        found = [cells for cells in lines if cells]
    except csv.Error as error:  # for example a cell longer than csv.field_size_limit()
        raise RunError(f"{path}: not CSV ({error})") from None
    if absent := [name for name in required if name not in header]:
        raise RunError(f"{path}: has no column {', '.join(absent)}")
    rows = []
    for line, cells in enumerate(found, 2):
        if len(cells) > len(header):
            raise RunError(f"{path}, row {line}: more cells than the header has")
        if max(map(len, cells)) > CELL:
            raise RunError(f"{path}, row {line}: a cell of more than {CELL} characters")
        rows.append(dict(zip_longest(header, cells, fillvalue="")))
    return rows


# --- YAML ----------------------------------------------------------------------------------------------------------


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML as OmegaConf writes and reads it: 1e-3 is a number, there are no dates, and no key occurs twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith((":timestamp", ":float"))]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        found = super().construct_mapping(node, deep=deep)
        if isinstance(node, yaml.MappingNode) and len(found) < len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key that occurs twice", node.start_mark)
        return found


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.\d+(?:[eE][-+]?\d+)?|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN))$",
        re.ASCII,
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML to plain values; error messages call the text `where`.

    Raises:
        RunError: the text is not YAML, or has aliases, tags, repeated keys, too many values or too many levels.
    """
    depth = nodes = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise RunError(f"{where}: has anchors and aliases (&, *), which no run's config has")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            nodes += 1
            if depth > DEPTH or nodes > NODES:
                raise RunError(f"{where}: more than {DEPTH} levels or {NODES} values")
        value = yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{where}: not YAML ({' '.join(str(error).split())[:300]})") from None
    _check_values(value, where)
    return value


# --- telling whether a file has changed --------------------------------------------------------------------------


def stamp(file: Path) -> tuple[int, int]:
    """Size and modification time of a file; -1, -1 if it is missing.

    Of a folder, the sum of the sizes in it and a digest of all names, sizes and times: its own time does not change
    when a picture is overwritten.
    """
    if not file.is_dir():
        return _own_stamp(file)
    inner = [(name, *_own_stamp(os.path.join(file, name))) for name in sorted(os.listdir(file))]
    digest = hashlib.sha256(repr(inner).encode()).digest()
    return sum(size for _, size, _ in inner), int.from_bytes(digest[:7])


def _own_stamp(path: str | Path) -> tuple[int, int]:
    try:
        info = os.stat(path)
    except OSError:
        return -1, -1
    return info.st_size, info.st_mtime_ns
