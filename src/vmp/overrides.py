"""Rewrites what was typed after `train.py` or `evaluate.py` so that Hydra's grammar can read it.

Hydra takes KEY=VALUE, but a plain value of its grammar cannot have letters beyond ASCII, parentheses, `=`, `~` or `#`,
and a comma starts a sweep. Here a value is put in quotes where it can only be meant as text; what remains ambiguous is
refused with the form that works.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vmp.errors import ConfigError
from vmp.targets import take_trust

_WITH_VALUE = {  # Hydra's options that take a value
    *("-c", "--cfg", "-p", "--package", "-cp", "--config-path", "-cn", "--config-name"),
    *("-cd", "--config-dir", "-er", "--experimental-rerun"),
}
_WITHOUT_VALUE = {
    *("-h", "--help", "--hydra-help", "--version", "-r", "--resolve", "--run", "-m", "--multirun"),
    *("-sc", "--shell-completion", "-i", "--info"),
}
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_KEY = re.compile(r"(~|\+\+?)?[A-Za-z_][\w./@:$-]*")
_CALL = re.compile(r"\s*(choice|range|interval|glob|sort|shuffle|tag|extend_list)\s*\(.*\)\s*", re.DOTALL)


def quote(text: str) -> str:
    """The text as a value of Hydra's grammar, whatever is in it."""
    plain = re.fullmatch(r"([A-Za-z_/]|\.\.?/)[\w./+-]*", text, re.ASCII)
    if plain and text.lower() not in ("null", "true", "false", "nan", "inf"):
        return text
    # only backslashes in front of a quotation mark are read as escapes
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


def for_shell(word: str) -> str:
    """A word as one types it in a shell; in double quotes where it has single ones."""
    if "'" in word and not re.search(r'["$`\\!]', word):
        return f'"{word}"'
    return shlex.quote(word)


class Source(NamedTuple):
    """Where a script's model comes from: a run, or published weights by overrides of train.py; neither if none is
    named. rest: the other words."""

    run: Path | None
    overrides: tuple[str, ...]
    rest: list[str]


def model_source(words: Sequence[str], *, vmp: str = "none") -> Source:
    """Sort words of a script into run=FOLDER, or backbone=NAME weights=NAME|FILE backbone.KEY=VALUE vmp=... vmp.KEY=...
    and the rest. trust=PACKAGE is obeyed.

    Args:
        vmp: the prompts of published weights where no word says which.

    Raises:
        ConfigError: both a run and a backbone are named, neither with settings of a backbone, one twice, or a word is
            KEY=VALUE with another key and no file.
    """
    runs, settings, rest = [], [], []
    for word in take_trust(words):
        key, sign, value = word.partition("=")
        if sign and key == "run":
            runs.append(Path(value))
        elif sign and re.fullmatch(r"weights|(backbone|vmp)(\.\w+)?", key):
            settings.append(f"backbone.{word}" if key == "weights" else word)
        elif sign and re.fullmatch(r"[a-z_.]+", key) and not Path(word).exists():
            raise ConfigError(
                f"{word}: no such key, and no such file. A model is named by run=FOLDER or by backbone=NAME "
                "weights=NAME|FILE; more of its settings are backbone.KEY=VALUE"
            )
        else:
            rest.append(word)
    keys = [word.partition("=")[0] for word in settings]
    if len(runs) + keys.count("backbone") > 1:
        raise ConfigError("name one model: run=FOLDER or backbone=NAME, not both and neither twice")
    if settings and "backbone" not in keys:
        known = "has its own backbone, weights and prompts" if runs else "is not named: add backbone=NAME"
        raise ConfigError(f"{settings[0].removeprefix('backbone.')}: the model {known}")
    if settings and "vmp" not in keys:
        settings.append(f"vmp={vmp}")
    return Source(runs[0] if runs else None, tuple(settings), rest)


def hydra_arguments(arguments: Sequence[str], command: str = "train") -> list[str]:
    """What a person typed as arguments for Hydra: options first, then overrides, with text in quotes.

    Args:
        command: train or evaluate; it decides which keys hold text.

    Raises:
        ConfigError: a word is neither an option nor an override, or a value has more than one reading.
    """
    options, words = _split_options(arguments, command)
    sweep = any(o in ("-m", "--multirun") for o in options)
    if any(o in ("--cfg", "-c") or o.startswith("--cfg=") for o in options) and not {"-r", "--resolve"} & {
        *options
    }:
        options.append("--resolve")  # values, not where they come from
    return [*options, *(hydra_override(word, command, sweep=sweep) for word in words)]


def hydra_override(word: str, command: str = "train", *, sweep: bool = False) -> str:
    """KEY=VALUE as a person typed it, as an override for Hydra.

    Args:
        sweep: whether commas separate the values of a sweep (-m).

    Raises:
        ConfigError: it is not KEY=VALUE, or has more than one reading.
    """
    key, sign, value = word.partition("=")
    if key.startswith("~") and not sign:
        return word
    if not sign or not _KEY.fullmatch(key):
        raise ConfigError(_explain_word(word, command))
    from vmp.config.keys import GROUPS, is_list, is_number_too, is_path, is_text

    if command == "train" and key in GROUPS:
        return f"{key}={_file_of_group(key, value, sweep=sweep)}"
    if re.fullmatch(r"(dataset|backbone|vmp)\.options(\.[\w.]+)?", key) and command == "train":
        return f"++{key}={value if _parses(f'{key}={value}') else quote(value)}"  # keys of a user's own
    name = key.lstrip("+~")
    if is_text(name, command):
        if is_number_too(name, command) and all(
            re.fullmatch(r"\d+|\d*\.\d+", part) for part in value.split(",")
        ):
            return word
        return f"{key}={_text_value(name, value, sweep=sweep, path=is_path(name, command))}"
    if re.fullmatch(r"[0-9]+(,[0-9]+)*", value):  # Hydra would take 01 for text
        return f"{key}={re.sub(r'(?<![0-9])0+(?=[0-9])', '', value)}"
    if _parses(f"{key}={value}"):
        return word
    if value.lstrip()[:1] in ("[", "{") and is_list(name, command):
        form = for_shell(f"{key}=['a b','c']")
        raise ConfigError(
            f"{key} = {value}: not a list that can be read. Lists are written {key}=[1,2], and text in them is quoted: "
            f"{form}"
        )
    return f"{key}={','.join(map(quote, _split_at_commas(value))) if sweep else quote(value)}"


def _file_of_group(group: str, value: str, *, sweep: bool) -> str:
    """The value of a group: the name of a file, even if it reads null or 1; several with `sweep`.

    Raises:
        ConfigError: it is a list, of which Hydra would use the last file alone.
    """
    parts = _split_at_commas(value)
    if any(part.strip().startswith("[") for part in parts):
        files = ",".join(re.sub(r"[\s'\"\[\]]", "", part) for part in parts)
        raise ConfigError(
            f"{group}={value}: a list; name one file of conf/{group} (several of them make a sweep: -m {group}={files})"
        )
    if len(parts) > 1 and not sweep:
        return value  # Hydra refuses it, or it is a function of a sweep
    named = (part if part == "" or _parses_as_text(f"{group}={part}") else quote(part) for part in parts)
    return value if _CALL.fullmatch(value) or "${" in value else ",".join(named)


def _text_value(name: str, value: str, *, sweep: bool, path: bool) -> str:
    """The value of a key that holds text."""
    found = _parses(f"{name}={value}")
    quoted = value.strip()[:1] in ("'", '"') and found
    if quoted or value in ("", "null", "???") or "${" in value:
        return value if found else quote(value)
    if _CALL.fullmatch(value) and found:
        return value  # a function of a sweep
    if "," in value:
        if path and Path(value).expanduser().exists():
            return quote(value)
        parts = _split_at_commas(value)
        if sweep:
            return ",".join(part if _parses_as_text(f"{name}={part}") else quote(part) for part in parts)
        quoted_text = for_shell(f"{name}={quote(value)}")  # a comma is never plain
        raise ConfigError(
            f"{name} = {value}: is this one text or several? Text with a comma must be quoted: {quoted_text}; several "
            "values make a sweep: add -m"
        )
    return value if _parses_as_text(f"{name}={value}") else quote(value)


def _split_at_commas(value: str) -> list[str]:
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


def _parses(override: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(override).value()
    except HydraException:
        return False
    return True


def _parses_as_text(override: str) -> bool:
    """Whether Hydra can read it, and reads text."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import QuotedString

    return _parses(override) and isinstance(
        OverridesParser.create().parse_override(override).value(), str | QuotedString
    )


def _split_options(arguments: Sequence[str], command: str) -> tuple[list[str], list[str]]:
    """(Hydra's options with their values, the other words), in any order."""
    options: list[str] = []
    words: list[str] = []
    rest = iter(range(len(arguments)))
    for i in rest:
        word = arguments[i]
        name, sign, _ = word.partition("=")
        if not word.startswith("-"):
            words.append(word)
            continue
        known = [
            o
            for o in (*_WITH_VALUE, *_WITHOUT_VALUE)
            if o == name or (name[:2] == "--" and o.startswith(name))
        ]
        if name in known:
            known = [name]
        if not known or name == "--":
            from vmp.config.keys import full_key

            value = word.partition("=")[2] if sign else next(iter(arguments[i + 1 : i + 2]), "...")
            meant = full_key(name.lstrip("-"), command)
            raise ConfigError(
                f"{word}: no such option. Settings are written KEY=VALUE, without dashes and blanks: "
                f"{for_shell(f'{meant}={value}')}"
            )
        options.append(word)
        following = arguments[i + 1] if i + 1 < len(arguments) else None
        takes = known[0] in _WITH_VALUE or (known[0] in ("--info", "-i") and following in _INFO)
        if takes and not sign and following is not None:
            options.append(following)
            next(rest)
    return options, words


def _explain_word(word: str, command: str) -> str:
    """The message for a word that is not KEY=VALUE."""
    key, sign, value = word.partition("=")
    if not sign and command == "evaluate" and ("/" in word or Path(word).is_dir()):
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
