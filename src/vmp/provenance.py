"""The provenance that results record."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "video-motion-prompts",
    "torch",
    "numpy",
    "opencv-python-headless",
    "av",
    "decord",
    "torchcodec",
    "pytorchvideo",
    "hydra-core",
)


def provenance() -> dict[str, Any]:
    """Versions and the code's commit; `-dirty` where files differ from it, None outside a checkout."""
    return {"versions": versions(), "commit": commit()}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    here = Path(__file__).resolve().parent
    if (here / "conf").is_dir():  # installed, perhaps inside another repository
        return None
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() or None
