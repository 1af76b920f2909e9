"""Clips cut from numbered videos (sources in conftest.py), what they hold, and Python in a process of its own."""

import subprocess
import sys
from pathlib import Path

import av
import videos

from vmp.prepare.cut import cut_all
from vmp.prepare.journal import CutClip

FRAMES = 90


def cut_to(folder, source, spans, **options):
    """Clips by name, in any order of spans."""
    cuts = [
        CutClip(source=source, start=start, end=end, target=folder / f"{start}-{end}.mp4")
        for start, end in spans
    ]
    options = {"short_side": None, "workers": 1, "progress": False} | options
    found = {cut.target.stem: m for cut, m in cut_all(cuts, **options)}
    assert set(found) == {cut.target.stem for cut in cuts}
    return found


def numbers(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [videos.number_of(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*.cutting.mp4")]


def run_code(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)
