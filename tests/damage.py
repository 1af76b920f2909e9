"""Ways to damage files, each a function of a generator: the same seed gives the same damage."""

import numpy as np

# --- any bytes -----------------------------------------------------------------------------------------------------


def damaged_bytes(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """What was done, and what is left: a truncation, flipped bits, or blocks zeroed, lost, doubled, moved, added."""
    n = len(data)
    size = int(2 ** rng.uniform(0, np.log2(n / 2)))
    a, b = (int(rng.integers(0, n - size)) for _ in "ab")
    kind = KINDS[rng.integers(len(KINDS))]
    if kind == "truncated":
        return f"{kind} to {a + 1}", data[: a + 1]
    if kind == "bits":
        out = bytearray(data)
        for at in rng.integers(0, n, int(2 ** rng.uniform(0, 7))):
            out[at] ^= 1 << int(rng.integers(8))
        return kind, bytes(out)
    said = f"{kind}, {size} at {a}" + (f" and {b}" if kind == "moved" else "")
    if kind == "zeros":
        return said, data[:a] + bytes(size) + data[a + size :]
    if kind == "noise":
        return said, data[:a] + rng.bytes(size) + data[a + size :]
    if kind == "lost":
        return said, data[:a] + data[a + size :]
    if kind == "doubled":
        return said, data[: a + size] + data[a:]
    if kind == "added":
        return said, data[:a] + rng.bytes(size) + data[a:]
    rest = data[:a] + data[a + size :]
    return said, rest[:b] + data[a : a + size] + rest[b:]


KINDS = ("truncated", "bits", "zeros", "noise", "lost", "doubled", "added", "moved")

# --- tables and lists ----------------------------------------------------------------------------------------------

CELLS = (  # what a cell may become
    *(
        "",
        " ",
        "-1",
        "+1",
        "1.0",
        "1e3",
        "1_0",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "9" * 5000,
        "99999999999999",
        "0x1",
    ),
    *(
        "true",
        "null",
        "?",
        "½",
        "٣",
        "²",
        "\u200b",
        "a b",
        "a,b",
        "a;b",
        "'",
        '"',
        '"a',
        "#",
        "../x.mp4",
        "/etc/passwd",
    ),
    *(
        "~/x.mp4",
        "C:\\x.mp4",
        "a/../../x.mp4",
        "\0",
        "x\0.mp4",
        "\x1b[31m",
        "a\tb",
        "\ud7ff",
        "\ufeff",
        "\u2028",
        "é",
    ),
)


def damaged_text(data: bytes, rng: np.random.Generator, separator: str) -> tuple[str, bytes]:
    """What was done to lines, cells, separators or the encoding, and the bytes of the result."""
    text = data.decode()
    lines = text.splitlines()
    i, j = (int(x) for x in rng.integers(0, len(lines), 2))
    cells = lines[i].split(separator)
    c, d = (int(x) for x in rng.integers(0, len(cells), 2))
    kind = TEXT_KINDS[rng.integers(len(TEXT_KINDS))]
    said = f"{kind}, line {i + 1}"
    if kind == "line lost":
        del lines[i]
    elif kind == "line doubled":
        lines.insert(i, lines[i])
    elif kind == "lines swapped":
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == "lines joined":
        lines[i : i + 2] = ["".join(lines[i : i + 2])]
    elif kind == "line cut":
        lines[i] = lines[i][: int(rng.integers(0, len(lines[i]) + 1))]
    elif kind == "blank line":
        lines.insert(i, " " * int(rng.integers(0, 3)))
    elif kind == "cell lost":
        del cells[c]
    elif kind == "cell doubled":
        cells.insert(c, cells[c])
    elif kind == "cells swapped":
        cells[c], cells[d] = cells[d], cells[c]
    elif kind == "cell changed":
        cells[c] = CELLS[rng.integers(len(CELLS))]
        said += f", cell {c + 1} is {cells[c][:20]!r}"
    elif kind == "cell padded":
        cells[c] = f" {cells[c]}  "
    elif kind == "cell quoted":
        cells[c] = f'"{cells[c]}"'
    elif kind == "character":
        at = int(rng.integers(0, len(lines[i]) + 1))
        lines[i] = lines[i][:at] + CHARACTERS[rng.integers(len(CHARACTERS))] + lines[i][at:]
    elif kind == "other separator":
        other = (",", ";", "\t", " ", "|", ", ", "  ")[rng.integers(7)]
        said += f", {other!r}"
        if rng.integers(2):
            lines = [line.replace(separator, other) for line in lines]
        else:
            lines[i] = lines[i].replace(separator, other)
    if kind.startswith("cell"):
        lines[i] = separator.join(cells)
    text = "".join(f"{line}\n" for line in lines)
    if kind == "CRLF":
        text = text.replace("\n", "\r\n")
    elif kind == "CR":
        text = text.replace("\n", "\r")
    elif kind == "no last line end":
        text = text.rstrip("\n")
    encoding = kind if kind in ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "utf-7") else "utf-8"
    if kind == "latin-1":
        lines[i] += "é"
        text = "\n".join(lines) + "\n"
    data = text.encode(
        encoding, "surrogatepass" if encoding.startswith("utf-") and encoding != "utf-7" else "replace"
    )
    if kind == "empty":
        data = b""
    elif kind == "random bytes":
        data = rng.bytes(int(rng.integers(1, 200)))
    elif kind == "bytes":
        return damaged_bytes(data, rng)
    return said, data


CHARACTERS = (
    "\0",
    "\r",
    "\x0b",
    "\x85",
    "\u2028",
    "\ufeff",
    '"',
    "'",
    ",",
    ";",
    " ",
    "\t",
    "-",
    "9",
    "/",
    "\\",
    "é",
    "\x7f",
)
TEXT_KINDS = (
    *("line lost", "line doubled", "lines swapped", "lines joined", "line cut", "blank line"),
    *("cell lost", "cell doubled", "cells swapped", *("cell changed",) * 8, "cell padded", "cell quoted"),
    *("character",) * 3,
    *(
        "other separator",
        "CRLF",
        "CR",
        "no last line end",
        "utf-16",
        "utf-16-le",
        "utf-32",
        "utf-8-sig",
        "latin-1",
    ),
    *("utf-7", "empty", "random bytes", "bytes", "bytes"),
)
