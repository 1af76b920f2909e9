"""Decides the precision of a run: once, when it begins. A run that continues keeps it, on every device."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.engine import precision
from vmp.runs.folder import begun, keep_precision
from vmp.runs.records import read_config

if TYPE_CHECKING:
    import torch

    from vmp.config import Config


def settle_precision(
    folder: Path, raw: dict[Any, Any], config: "Config", device: "torch.device"
) -> tuple[dict[Any, Any], str]:
    """The config without `auto` in its precision, and a line for the log that says what was chosen and why.

    Args:
        raw: the config as it is written to the folder.
        config: the same, checked.
    """
    trainer = raw["trainer"]
    why = f"trainer.amp={trainer['amp']}"
    if any(trainer[key] == precision.AUTO for key in precision.KEYS):
        if begun(folder):
            raw, why = keep_precision(raw, read_config(folder)), f"{why}: as the run began"
        else:
            backbone = config.backbone
            chosen = precision.choose_for(
                device,
                deterministic=config.trainer.deterministic,
                backbone=backbone.name,
                crop=backbone.spec.crop,
            )
            values = {key: getattr(chosen, key) for key in precision.KEYS if trainer[key] == precision.AUTO}
            raw = {**raw, "trainer": {**trainer, **values}}
            why += f": {chosen.why}" if "amp" in values else ""
            why += "; trainer=paper is float32" if values.get("amp", "none") != "none" else ""
    return raw, f"precision: {precision.describe(raw['trainer'], device)} ({why})"
