"""make demo: train with and without motion prompts, on generated videos with a static and a moving camera, two seeds.

    seeds=3             more seeds
    launch=single       one run at a time; default: warm, one per core
    output=DIR          default: outputs
    trainer.epochs=...  and the like: overrides for every run, as for train.py

The runs are ordinary ones (python train.py dataset.camera=moving vmp=none seed=1 tag=demo). The same command again
continues them or shows their results: a table, outputs/demo.png, and what they say and do not say.
"""

import time
from functools import partial
from pathlib import Path

from vmp.cli import friendly  # first: it sets how Hydra reports errors

with friendly():
    from vmp.paper.arguments import read_request, run_script
    from vmp.paper.demo import DemoRequest, draw_demo, real_footage, run_demo, sentences, table_rows

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ("camera", "", "top-1 by seed", "mean", "spread or interval", "slope", "shift", "seconds")


def run(request: DemoRequest) -> int:
    began = time.monotonic()
    cameras = run_demo(request)
    (picture,) = draw_demo(cameras, Path(request.output) / "demo")
    show(table_rows(cameras))
    print("\n".join(sentences(cameras)))
    print(f"{time.monotonic() - began:.0f} s in all -> {picture}; every run is below {request.output}")
    if command := real_footage():
        print(f"next: {command}")
    return 0


def show(rows: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(title="top-1 in % without and with motion prompts", box=SIMPLE_HEAD, padding=0)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("camera", "") else "right")
    for row in rows:
        table.add_row(*row, end_section=row[1] == "difference")
    Console().print(table)


if __name__ == "__main__":
    run_script(__doc__, partial(read_request, DemoRequest), run, ROOT)
