"""Numbers and texts as the page shows them."""

import math
import re
from typing import Any


def finite(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # of a whole number
        return None
    return number if math.isfinite(number) else None


def short(value: float) -> float:
    return float(f"{value:.5g}")


def natural(name: str) -> tuple[int, str]:
    number = re.search(r"\d+", name)
    return (int(number[0]) if number else 0), name


def formatted(value: Any, form: str) -> str:
    number = finite(value)
    return "–" if number is None else format(number, form).replace("-", "−")


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"
