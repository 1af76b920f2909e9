"""Hydra's, OmegaConf's and YAML's errors about a command line, in one or two lines that say what to type."""

import re

from vmp.config import suggest
from vmp.config.keys import GROUPS, is_list, no_such_key
from vmp.overrides import for_shell, quote

LINES = 40  # of a message that is passed on, at most


def explain(error: Exception | str, command: str = "train") -> str:
    """What is wrong with the command line and what to type instead.

    Args:
        command: train or evaluate, whose keys are suggested.
    """
    message = _with_causes(error)
    for pattern, explain_match in _KNOWN:
        if match := re.search(pattern, message, re.DOTALL):
            return explain_match(match, command)
    lines = [line for line in message.partition("Config search path")[0].splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("See https://", "Set the environment variable"))]
    more = len(lines) - LINES
    return "\n".join([*lines[:LINES], *([f"... and {more} more lines"] if more > 0 else [])])


def _with_causes(error: Exception | str) -> str:
    """The message with those of its causes: Hydra wraps OmegaConf's error in one without a message."""
    parts = [str(error)]
    cause = error.__cause__ if isinstance(error, Exception) else None
    while cause is not None:
        parts.append(str(cause))
        cause = cause.__cause__
    return "\n".join(part for part in parts if part.strip())


def _no_file(match: re.Match[str], command: str) -> str:
    group, _, name = match[1].rpartition("/")
    files = match[2].split()
    if not group:
        return f"--config-name={name}: no such file in conf/ or in --config-dir"
    if group not in GROUPS and command == "train" and not group.startswith("hydra"):
        return no_such_key(group, command)
    near = suggest(name, files)
    every = f" There are {', '.join(files)}." if "did you mean" in near else ""
    near = near.replace("did you mean ", f"did you mean {group}=")
    return f"{group}={name}: no such file in conf/{group}{near}{every}"


def _ambiguous(match: re.Match[str], command: str) -> str:
    key, _, value = match[1].partition("=")
    message = f"{match[1]}: several values make a sweep: add -m"
    return (
        f"{message}. A list is written {for_shell(f'{key}=[{value.strip()}]')}"
        if is_list(key, command)
        else message
    )


def _interpolation(match: re.Match[str], command: str) -> str:
    place = re.search(r"full_key: (\S+)", match.string)
    where = f"{place[1]} = " if place else ""
    return f"{where}${{{match[1]}}}: {no_such_key(match[1], command).partition(': ')[2]}"


def _grammar(match: re.Match[str], command: str) -> str:
    """An override that Hydra's parser cannot read: show the word, which the parser's message does not."""
    found = re.search(r"(?:Error parsing override '(.*?)'\n|Exception: (\S+=.*?)\n)", match.string, re.DOTALL)
    word = (found[1] or found[2]) if found else ""
    key, sign, value = word.partition("=")
    problem = f"{word}: cannot be read" if word else "an override cannot be read"
    quoted = for_shell(f"{key}={quote(value)}")
    return (
        f"{problem}; text with such characters must be quoted: {quoted}"
        if sign
        else f"{problem}; it must be KEY=VALUE"
    )


_KNOWN = (
    (
        r"Could not find '([^'\n]+)'\s+Available options in '[^']*':\s*(.*?)(?:\nConfig search path|$)",
        _no_file,
    ),
    (r"Cannot find primary config '([^']*)'()", _no_file),
    (
        r"Could not override '([\w./]+)'",
        lambda match, command: no_such_key(match[1].replace("/", "."), command),
    ),
    (r"Ambiguous value for argument '(.*?)'\n", _ambiguous),
    (
        r"Multiple values for (\S+?)\.",
        lambda match, command: (
            f"{match[1]}: chosen twice; name one of its files (several of them make a sweep: -m {match[1]}=A,B)"
        ),
    ),
    (
        r"Could not append to config\. An item is already at '([^']*)'",
        lambda match, command: f"+{match[1]}: the key exists already; leave the + out: {match[1]}=...",
    ),
    (r"Interpolation key '([^']*)' not found", _interpolation),
    (r"Error parsing override|LexerNoViableAltException|mismatched input|no viable alternative", _grammar),
)
