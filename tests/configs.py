"""Configs for tests, composed from overrides as tables and studies compose theirs."""

from pathlib import Path
from typing import Any

from vmp.compose import composer
from vmp.config import Config, check

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"


def raw(*overrides: str) -> dict[str, Any]:
    return composer(CONF)(overrides)


def composed(*overrides: str) -> Config:
    """The checked config."""
    return check(raw(*overrides))
