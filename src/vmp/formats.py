"""Numbers as text, for tables and messages."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any


def finite(value: Any) -> float | None:
    """The value, or the number in a text, as a float; None unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def round_digits(value: float) -> float:
    """The value to five significant digits."""
    return float(f"{value:.5g}")


def natural_key(name: str) -> tuple[int, str]:
    """Sorting key that puts table2 before table10."""
    number = re.search(r"\d+", name)
    return (int(number[0]) if number else 0), name


def format_number(value: Any, form: str) -> str:
    number = finite(value)
    return "–" if number is None else format(number, form).replace("-", "−")


def format_signed(value: float, digits: int = 1) -> str:
    """With a sign unless it rounds to zero."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        return f"{0:.{digits}f}"
    return f"+{text}" if value > 0 else f"−{text[1:]}"


def markdown_table(head: Sequence[Any], rows: Iterable[Sequence[Any]], *, labels: int = 1) -> list[str]:
    """Lines of a Markdown table whose columns after the first `labels` are aligned to the right."""
    rule = ["---"] * labels + ["---:"] * (len(head) - labels)
    return [
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in row)} |"
        for row in (head, rule, *rows)
    ]


def format_duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"
