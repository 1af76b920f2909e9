"""Annotation formats read slowly and strictly, character by character: what a parser that accepts a file must find.

Each takes a file's bytes and returns what is in it, or raises No. They share no code with the package.
"""

import json
import math
import posixpath
import re
from fractions import Fraction


class No(Exception):
    """Not a file of this format."""


def need(condition: object) -> None:
    if not condition:
        raise No


def text_of(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise No from None
    text = text[1:] if text.startswith("\ufeff") else text
    need("\0" not in text)
    return text


def lines_of(text: str) -> list[str]:
    lines = re.split("\r\n|[\n\r]", text)
    return lines[:-1] if lines[-1] == "" else lines


def table(data: bytes, separator: str = ",", *, tolerant: bool = False) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV (RFC 4180), cells without blanks around them; `tolerant`: without the empty cells that
    Excel leaves at the ends of lines."""
    text = text_of(data)
    rows: list[list[str]] = []
    row: list[str] = []
    cell, state = "", "start"  # start: of a cell; plain; quoted; closed: behind the closing quote
    i = 0
    while i <= len(text):
        char = text[i] if i < len(text) else "end"
        end = char in ("end", "\n", "\r")
        if state == "quoted":
            need(char != "end")
            if char == '"':
                state = "closed"
            else:
                cell += char
        elif state == "closed" and char == '"':
            cell, state = cell + '"', "quoted"
        elif char == separator or end:
            row.append(cell.strip())
            cell, state = "", "start"
            if end:
                rows.append(row)
                row = []
                i += text[i : i + 2] == "\r\n"
        else:
            need(state != "closed")
            if state == "start" and char == '"':
                state = "quoted"
            elif state == "plain" or char != " " or separator == " ":  # a quote may follow blanks
                cell, state = cell + char, "plain"
        i += 1
    rows = [row for row in rows if any(row)]
    need(rows)
    header, *rest = rows
    while tolerant and not header[-1]:
        header.pop()
    if tolerant:
        rest = [row if any(row[len(header) :]) else row[: len(header)] for row in rest]
    need(len(set(header)) == len(header) and "" not in header)
    need(all(len(row) == len(header) for row in rest))
    return header, rest


def whole(text: str) -> int:
    need(re.fullmatch("[0-9]{1,18}", text))
    return int(text)


def number(text: str) -> Fraction:
    need(len(text) < 40 and re.fullmatch(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?|\.[0-9]+", text))
    return Fraction(text)


def relative(path: str) -> str:
    need(path and path[0] not in "/~\\" and not re.match("[A-Za-z]:", path) and not path.startswith("//"))
    need(not any(ord(c) < 32 for c in path) and ".." not in path.split("/"))
    return path


READERS = {"opencv", "pyav", "pyav_seek", "decord", "torchcodec", "torchcodec_cuda"}
PAIR, MEASURED = {"start", "end"}, {"fps", "width", "height", "status", "readers"}


def manifest(data: bytes, classes: int) -> list[tuple]:
    header, rows = table(data)
    need({"id", "path", "label"} <= set(header))
    need(len(PAIR & set(header)) in (0, 2) and len(MEASURED & set(header)) in (0, len(MEASURED)))
    clips, seen = [], set()
    for cells in rows:
        row = dict(zip(header, cells, strict=True))
        need(row["id"] and row["id"] not in seen)
        seen.add(row["id"])
        label = whole(row["label"])
        need(label < classes)
        start = whole(row.get("start") or "0")
        end = whole(row["end"]) if row.get("end") else None
        frames = whole(row.get("frames") or "0")
        status = row.get("status") or "ok"
        need(status in ("ok", "missing", "unreadable", "partial"))
        fps = float(number(row.get("fps") or "0"))
        need(fps <= 1e6 and (end is None or end > start))
        need(status != "ok" or (frames > start and (end is None or end <= frames)))
        readers = tuple((row.get("readers") or "").split())
        need(set(readers) <= READERS)
        size = whole(row.get("width") or "0"), whole(row.get("height") or "0")
        clips.append(
            (row["id"], relative(row["path"]), label, start, end, frames, fps, *size, status, readers)
        )
    need(clips)
    return clips


def classes(data: bytes) -> list[str]:
    names = [line.strip() for line in lines_of(text_of(data))]
    while names and not names[-1]:
        names.pop()
    need(len(names) >= 2 and len(set(names)) == len(names) and "" not in names)
    need(not any(ord(c) < 32 or c == "\x7f" for name in names for c in name))
    return names


VIDEOS = {
    *("avi", "mp4", "mkv", "webm", "mov", "m4v", "mpg", "mpeg"),
    *("wmv", "ts", "mts", "flv", "ogg", "ogv", "3gp", "gif", "vob"),
}


def in_root(path: str) -> str:
    """As a list may have it: a backslash is a slash, where there is no such file."""
    need("://" not in path)
    return relative(path.replace("\\", "/"))


def is_video(path: str) -> bool:
    return "." in path[1:] and path.rpartition(".")[2].lower() in VIDEOS


def split_number(text: str) -> tuple[str, str] | None:
    """What is before and what is a number (perhaps quoted) at the end of a line."""
    match = re.search("""(?s)[ \t,;](?:"([0-9]{1,18})"|([0-9]{1,18}))$""", text)
    if not match:
        return None
    before = text[: match.start()].rstrip(" \t,;")
    return (before, match[1] or match[2]) if before else None


def unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


def list_rows(data: bytes) -> list[tuple]:
    """(path, label, start, end, whether in frames, frames as told); start and end as Fraction or None."""
    text = text_of(data)
    lines = [line.strip() for line in lines_of(text) if line.strip()]
    need(lines and lines[0][0] not in "{[")
    rows = []
    names = {s: {c.strip().strip('"').strip().lower() for c in lines[0].split(s)} for s in ",;\t "}
    by = [s for s in names if {"path", "label"} <= names[s]]
    if by:
        header, cells = table(data, by[0], tolerant=True)
        header = [name.lower() for name in header]
        need(set(header) <= {"path", "label", "start", "end", "start_frame", "end_frame"})
        need({"path", "label"} <= set(header))
        frames = bool({"start_frame", "end_frame"} & set(header))
        need(not (frames and PAIR & set(header)))
        for row in (dict(zip(header, c, strict=True)) for c in cells):
            a, b = (row.get(name + "_frame" * frames, "") for name in ("start", "end"))
            start, end = number(a) if a else None, number(b) if b else None
            need(not frames or all(x is None or x.denominator == 1 for x in (start, end)))
            need(all(x is None or x < 10**9 for x in (start, end)))
            need(end is None or end > (start or 0))
            need(row["label"] and not any(ord(c) < 32 or c == "\x7f" for c in row["label"]))
            rows.append((in_root(row["path"]), row["label"], start, end, frames, None))
    else:
        pairs = [split_number(line) for line in lines]
        need(all(pairs))
        inner = [split_number(path) for path, _ in pairs]
        told = [bool(pair) and is_video(unquoted(pair[0])) for pair in inner]
        told = (
            [True] * len(lines)
            if all(pair and not is_video(p) for pair, (p, _) in zip(inner, pairs, strict=True))
            else told
        )
        need(all(told) or not any(told))
        for pair, (path, label) in zip(inner, pairs, strict=True):
            path, count = (pair[0], int(pair[1])) if told[0] else (path, None)
            rows.append((in_root(unquoted(path)), label, None, None, False, count))
    need(rows)
    spans = [(posixpath.normpath(row[0]), row[2] or 0, row[3]) for row in rows]
    need(len(set(spans)) == len(spans))
    return rows


def lists(train: bytes, val: bytes, *, frames: int, fps: int) -> tuple[list[str], list[tuple], list[tuple]]:
    """Classes and (path, label, start, end) of two lists whose videos all have so many frames at such a rate."""
    parts = [list_rows(train), list_rows(val)]
    labels = {row[1] for part in parts for row in part}
    numeric = {bool(re.fullmatch("[0-9]{1,18}", label)) for label in labels}
    need(len(numeric) == 1)
    if numeric == {True}:
        ids = {int(label) for label in labels}
        need(ids == set(range(len(ids))))
        need(ids == {int(row[1]) for row in parts[0]})
        names = [str(i) for i in range(len(ids))]
        of = {label: int(label) for label in labels}
    else:
        names = sorted({row[1] for row in parts[0]})
        of = {name: i for i, name in enumerate(names)}
        need(labels <= set(names))
    need(len(names) >= 2)
    out = []
    for part in parts:
        out.append([])
        told = [count for *_, count in part if count is not None]
        need(2 * sum(abs(count - frames) > max(3, 0.05 * frames) for count in told) <= len(told))
        for path, label, start, end, in_frames, _ in part:
            if start is None and end is None:
                out[-1].append((path, of[label], 0, None))
                continue
            rate = 1 if in_frames else fps
            first = math.ceil((start or 0) * rate - Fraction(1, 10**6))
            last = frames if end is None else max(first + 1, math.ceil(end * rate - Fraction(1, 10**6)))
            beyond = (
                first >= frames or last > frames + fps
            )  # more than a second: partial, kept as it was asked for
            asked = None if end is None else last
            out[-1].append((path, of[label], first, asked if beyond else min(last, frames)))
    return names, *out


def hmdb51(data: bytes) -> dict[str, str]:
    """File -> use of one split file."""
    uses: dict[str, str] = {}
    for line in lines_of(text_of(data)):
        if line.strip():
            name, _, use = line.strip().rpartition(" ")
            need(use in ("0", "1", "2") and re.fullmatch(r"[^/\\\x00-\x1f]+\.avi", name.strip()))
            name, use = name.strip(), ("unused", "train", "test")[int(use)]
            need(uses.setdefault(name, use) == use)
    return uses


ELEMENT = r"[A-Za-z0-9_-]{11}_E_[0-9]{6}_[0-9]{6}_A_[0-9]{4}_[0-9]{4}"


def finegym_elements(data: bytes) -> dict[str, int]:
    labels: dict[str, int] = {}
    for line in lines_of(text_of(data)):
        if line.strip():
            match = re.fullmatch(rf"({ELEMENT})(?:\.(?:mp4|mkv|webm|avi))? +([0-9]{{1,3}})", line.strip())
            need(match and int(match[2]) < 99 and match[1] not in labels)
            labels[match[1]] = int(match[2])
    need(labels)
    return labels


def finegym_json(data: bytes, elements: list[str]) -> dict[str, tuple[float, float] | None]:
    """None: no times for it."""

    def once(pairs):
        need(len(dict(pairs)) == len(pairs))
        return dict(pairs)

    try:
        found = json.loads(data.decode("utf-8-sig"), object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise No from None
    need(isinstance(found, dict))
    times = {}
    for element in elements:
        video, event, part = element[:11], element[12:27], element[28:]
        try:
            entry = found[video][event]
            begin = entry["timestamps"][0][0]
            spans = entry["segments"][part]["timestamps"]
            values = [begin, spans[0][0], spans[-1][1]]
            need(all(type(v) in (int, float) and math.isfinite(v) and abs(v) < 1e9 for v in values))
            start, end = begin + values[1], begin + values[2]
            need(0 <= start < end)
            times[element] = (start, end)
        except (No, LookupError, TypeError):
            times[element] = None
    return times


def finegym_times(data: bytes, elements: list[str]) -> dict[str, tuple[float, float] | None]:
    header, rows = table(data)
    need({"id", "start", "end"} <= set(header))
    found = [dict(zip(header, row, strict=True)) for row in rows]
    need(len({row["id"] for row in found}) == len(found))
    times: dict[str, tuple[float, float] | None] = dict.fromkeys(elements)
    for row in found:
        try:
            start, end = number(row["start"]), number(row["end"])
            need(start < end and end < 10**9)
        except No:
            continue
        if row["id"] in times:
            times[row["id"]] = float(start), float(end)
    return times


def mpii_sequences(data: bytes) -> list[str]:
    found = []
    for line in lines_of(text_of(data)):
        words = line.split()
        if words and not words[0].startswith("#"):
            match = re.fullmatch("(s[0-9]+-d[0-9]+)(-cam-[0-9]+)?", words[0])
            need(match)
            found.append(match[1])
    return list(dict.fromkeys(found))


def mpii_mat(path) -> tuple:
    """What h5py finds, cell by cell. Raises whatever h5py raises."""
    import h5py

    with h5py.File(path, "r") as file:
        annos = file["annos"]

        def strings(name):
            said = []
            for row in annos[name]:
                for reference in row:
                    cell = file[reference]
                    units = (
                        [] if cell.attrs.get("MATLAB_empty", 0) else [int(u) & 0xFFFF for u in cell[...].flat]
                    )
                    raw = b"".join(u.to_bytes(2, "little") for u in units)
                    said.append(raw.decode("utf-16-le").strip())
            return tuple(said)

        def numbers(name):
            return tuple(int(v) for v in annos[name][...].flat)

        return (
            strings("fileName"),
            strings("activity"),
            numbers("startFrame"),
            numbers("endFrame"),
            strings("attributeMap"),
        )
