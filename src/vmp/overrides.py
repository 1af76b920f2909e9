"""What was typed after `train.py` or `evaluate.py`, made into what Hydra's grammar reads.

Hydra takes KEY=VALUE, but its grammar has no letters beyond ASCII, no parentheses, `=`, `~` or `#` in a plain value,
and takes commas for a sweep. A value is put in quotes here where it can only be meant as text; what stays unclear is
refused with the form that works.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from vmp.errors import ConfigError

# of Hydra's options, those with a value
_WITH_VALUE = {
    *("-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name"),
    *("-cd", "--config-dir", "-er", "--experimental-rerun"),
}
_ALONE = {
    *("-h", "--help", "--hydra-help", "--version", "-r", "--resolve", "--run", "-m", "--multirun"),
    *("-sc", "--shell-completion", "-i", "--info"),
}
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_KEY = re.compile(r"(~|\+\+?)?[A-Za-z_][\w./@:$-]*")
_CALL = re.compile(r"\s*(choice|range|interval|glob|sort|shuffle|tag|extend_list)\s*\(.*\)\s*", re.DOTALL)


def quote(text: str) -> str:
    """A value for Hydra's grammar that is this text, whatever is in it."""
    plain = re.fullmatch(r"([A-Za-z_/]|\.\.?/)[\w./+-]*", text, re.ASCII)
    if plain and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    # only backslashes in front of a quotation mark are read as escapes
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


def for_shell(word: str) -> str:
    """A word as a shell takes it, with double quotes around single ones."""
    if "'" in word and not re.search(r'["$`\\!]', word):
        return f'"{word}"'
    return shlex.quote(word)


def typed(arguments: Sequence[str], command: str = "train") -> list[str]:
    """Hydra's arguments for what a person typed: options first, then overrides, with text in quotes.

    Args:
        command: train or evaluate, whose keys are known.

    Raises:
        ConfigError: a word that is neither, or a value that can be read in more than one way.
    """
    options, words = _apart(arguments)
    sweep = any(o in ("-m", "--multirun") for o in options)
    if any(o in ("--cfg", "-c") or o.startswith("--cfg=") for o in options) and not {"-r", "--resolve"} & {
        *options
    }:
        options.append("--resolve")  # values, not where they come from
    return [*options, *(read(word, command, sweep=sweep) for word in words)]


def read(word: str, command: str = "train", *, sweep: bool = False) -> str:
    """An override of Hydra's for KEY=VALUE as a person typed it.

    Args:
        sweep: whether commas stand between the values of a sweep (-m).

    Raises:
        ConfigError: it is no KEY=VALUE, or can be read in more than one way.
    """
    key, sign, value = word.partition("=")
    if key.startswith("~") and not sign:
        return word
    if not sign or not _KEY.fullmatch(key):
        raise ConfigError(_no_override(word, command))
    from vmp.config.keys import is_list, is_number_too, is_path, is_text

    name = key.lstrip("+~")
    if is_text(name, command):
        if is_number_too(name, command) and all(re.fullmatch(r"\d+", part) for part in value.split(",")):
            return word
        return f"{key}={_text(name, value, sweep=sweep, path=is_path(name, command))}"
    if _reads(f"{key}={value}"):
        return word
    if value.lstrip()[:1] in ("[", "{") and is_list(name, command):
        form = for_shell(f"{key}=['a b','c']")
        raise ConfigError(
            f"{key} = {value}: not a list that can be read. Lists are written {key}=[1,2], and text in them stands in "
            f"quotes: {form}"
        )
    return f"{key}={','.join(map(quote, _parts(value))) if sweep else quote(value)}"


def _text(name: str, value: str, *, sweep: bool, path: bool) -> str:
    """The value of a key that holds text."""
    found = _reads(f"{name}={value}")
    quoted = value.strip()[:1] in ("'", '"') and found
    if quoted or value in ("", "null", "???") or "${" in value:
        return value if found else quote(value)
    if _CALL.fullmatch(value) and found:
        return value  # a sweep's
    if "," in value:
        if path and Path(value).expanduser().exists():
            return quote(value)
        parts = _parts(value)
        if sweep:
            return ",".join(part if _is_text(f"{name}={part}") else quote(part) for part in parts)
        raise ConfigError(
            f"{name} = {value}: is this one text or several? Text with a comma stands in quotes: "
            f"{for_shell(f'{name}={_always(value)}')}; several values make a sweep: add -m"
        )
    return value if _is_text(f"{name}={value}") else quote(value)


def _always(text: str) -> str:
    made = quote(text)
    return made if made.startswith("'") else f"'{made}'"


def _parts(value: str) -> list[str]:
    """Split at commas outside of quotes and brackets."""
    parts, depth, mark = [""], 0, ""
    for letter in value:
        if mark:
            mark = "" if letter == mark else mark
        elif letter in "'\"":
            mark = letter
        elif letter in "[{(":
            depth += 1
        elif letter in "]})":
            depth -= 1
        if letter == "," and not mark and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _reads(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override).value()
    except HydraException:
        return False
    return True


def _is_text(override: str) -> bool:
    """Whether Hydra reads it, and as text."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString

    return _reads(override) and isinstance(
        OverridesParser.create().parse_override(override).value(), str | QuotedString
    )


def _apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(options of Hydra with their values, the other words), wherever they stand."""
    options: list[str] = []
    words: list[str] = []
    rest = iter(range(len(arguments)))
    for i in rest:
        word = arguments[i]
        name, sign, _ = word.partition("=")
        if not word.startswith("-"):
            words.append(word)
            continue
        known = [o for o in (*_WITH_VALUE, *_ALONE) if o == name or (name[:2] == "--" and o.startswith(name))]
        if name in known:
            known = [name]
        if not known or name == "--":
            plain = " ".join([word, *arguments[i + 1 : i + 2]][: 1 if sign else 2]).lstrip("-")
            raise ConfigError(
                f"{word}: no such option. Settings are written KEY=VALUE, without dashes and blanks: "
                f"{for_shell(plain.replace(' ', '=', 1))}"
            )
        options.append(word)
        following = arguments[i + 1] if i + 1 < len(arguments) else None
        takes = known[0] in _WITH_VALUE or (known[0] in ("--info", "-i") and following in _INFO)
        if takes and not sign and following is not None:
            options.append(following)
            next(rest)
    return options, words


def _no_override(word: str, command: str) -> str:
    """What to say of a word that is not KEY=VALUE."""
    key, sign, value = word.partition("=")
    if not sign and command == "evaluate" and Path(word).expanduser().is_dir():
        return f"{word}: settings are written KEY=VALUE; a run's folder is {for_shell(f'run={word}')}"
    if sign and _KEY.fullmatch(key.strip()):
        return (
            f"{word!r}: no blank may stand around the =, as in {for_shell(f'{key.strip()}={value.strip()}')}"
        )
    if not sign and _KEY.fullmatch(word.rstrip(":")):
        return f"{word}: settings are written KEY=VALUE, without blanks, as in {word.rstrip(':')}=..."
    if not word.strip("="):
        return f"{word!r}: settings are written KEY=VALUE, without blanks around the ="
    example = "split=val" if command == "evaluate" else "trainer.epochs=3"
    return f"{word!r}: settings are written KEY=VALUE, as in {example}"
