"""HTML from text: what is put in is escaped, unless it is HTML already."""

import json
from collections.abc import Iterable
from html import escape
from typing import Any

from vmp.formats import finite, formatted


class Html(str):
    """Text that is HTML already."""


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element. Children that are not Html are escaped, None leaves out; `data_value` is written data-value."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{said}>{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Html:
    return Html("".join(c if isinstance(c, Html) else escape(str(c)) for c in children if c is not None))


def badge(text: str, kind: str, title: str | None = None) -> Html:
    return tag("span", text, class_=f"badge {kind}", title=title)


def number_cell(value: Any, form: str) -> Html:
    number = finite(value)
    return tag("td", formatted(number, form), class_="n", data_value="" if number is None else repr(number))


def as_json(value: Any) -> str:
    """JSON that can stand in a <script>: no "<" ends it or begins a comment, no U+2028 ends a line."""
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"), default=str
    )
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text
