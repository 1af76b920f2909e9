"""The fonts of pictures: Matplotlib's own, and installed ones for the scripts that it lacks, such as Chinese."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

OWN = "DejaVu Sans"  # comes with Matplotlib, so text looks the same everywhere; Latin, Greek, Cyrillic, Arabic letters
OTHERS = (  # of Linux distributions, Windows and macOS
    *(f"Noto Sans CJK {region}" for region in ("SC", "TC", "JP", "KR")),
    *(f"Noto Sans {region}" for region in ("SC", "TC", "JP", "KR", "Devanagari", "Bengali", "Tamil", "Thai")),
    *("Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback"),
    *("Microsoft YaHei", "SimHei", "Yu Gothic", "Malgun Gothic", "Nirmala UI", "Leelawadee UI"),
    *("PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS"),
)


@cache
def files() -> dict[str, Path]:
    """Family -> font file: Matplotlib's own, then those of OTHERS that are installed. A letter is taken from the first
    that has it."""
    import matplotlib
    from matplotlib.font_manager import fontManager

    installed = {entry.name: Path(entry.fname) for entry in reversed(fontManager.ttflist)}
    own = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    return {OWN: own} | {name: installed[name] for name in OTHERS if name in installed}


def font_for(text: str, size: int) -> Any:
    """Pillow's font for a text: the first that has all of its letters, else Matplotlib's own."""
    having = (path for path in files().values() if all(_has(path, letter) for letter in text))
    return _font(next(having, files()[OWN]), size)


@cache
def _font(path: Path, size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(str(path), size)


def _has(path: Path, letter: str) -> bool:
    from matplotlib.font_manager import get_font

    return bool(get_font(str(path)).get_char_index(ord(letter)))


@contextmanager
def saying_what_lacks(picture: Path) -> Iterator[None]:
    """One warning for all letters of a picture that no font has, in place of Matplotlib's for each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    lacking = dict.fromkeys(
        chr(int(words[1])) for w in caught if (words := str(w.message).split())[:1] == ["Glyph"]
    )
    for warning in caught:
        if not str(warning.message).startswith("Glyph"):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if lacking:
        shown = " ".join(list(lacking)[:10])
        print(
            f"warning: {picture}: boxes stand for {shown}, which no font here has; install one, such as Noto Sans CJK",
            file=sys.stderr,
        )
