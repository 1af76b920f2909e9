"""How this process was started, and how a person starts another command: vmp NAME, or a script of the checkout."""

import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_AT_THE_TOP = ("train", "evaluate")  # of a checkout; the others are in scripts/


def typed_command() -> list[str]:
    """The words that started this process: python train.py KEY=VALUE, or vmp train KEY=VALUE."""
    script, *rest = sys.argv
    if _started_as_vmp():
        return ["vmp", Path(script).stem, *rest]
    return ["python", script, *rest]


def command_line(name: str) -> str:
    """What to type for a command such as prepare: a script only for who works in a checkout with its scripts."""
    script = f"{name}.py" if name in _AT_THE_TOP else f"scripts/{name}.py"
    ours = _PACKAGE.parent.parent / script
    in_checkout = Path(script).is_file() and ours.is_file() and ours.samefile(script)
    return f"python {script}" if in_checkout and not _started_as_vmp() else f"vmp {name}"


def _started_as_vmp() -> bool:
    return Path(sys.argv[0]).resolve().parent == _PACKAGE / "commands"
