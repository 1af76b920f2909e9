"""make scale: what grows with the work, at the size that is asked for: manifests, curves, accuracies, gathered scores,
the report about many runs.

    python -m benchmarks.scale [--clips 1000000] [--rows 1000000] [--classes 400] [--runs 300] [--folder DIR]

Each part runs in a process of its own, which prints seconds, and the memory that it took beyond its imports (peak) and
that it keeps (what other processes can share is counted, too). Results also go to outputs/scale.json. The files are
made up below a temporary folder: empty videos, which nothing here opens.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import ROOT, process_memory
from vmp.cli import friendly, parser_of

FOLDERS = 400  # that the videos lie in
RUN_CLIPS, RUN_CLASSES = 3000, 99
Found = dict[str, Any]  # what was measured -> seconds, MB


@contextmanager
def measured(found: Found, what: str) -> Iterator[None]:
    before, began = process_memory(), time.perf_counter()
    yield
    found[what] = {"seconds": time.perf_counter() - began, "kept_mb": process_memory() - before}


def make_set(folder: Path, clips: int) -> None:
    videos = folder / "videos"
    for number in range(FOLDERS):
        (videos / f"c{number:03d}").mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("".join(f"class {number}\n" for number in range(FOLDERS)))
    with open(folder / "train.csv", "w", encoding="utf-8") as file:
        file.write("id,path,label,start,end,frames,fps,width,height,status,readers\n")
        for number in range(clips):
            path = f"videos/c{number % FOLDERS:03d}/{number:07d}.mp4"
            (folder / path).touch()
            measured = "300,30,340,256,ok,pyav_seek opencv pyav"
            file.write(f"train/{number:07d},{path},{number % FOLDERS},,,{measured}\n")


def manifest(found: Found, folder: Path, _: Any) -> None:
    from vmp.data.manifest import read_manifest
    from vmp.data.present import digest, find_clips

    with measured(found, "read"):
        read = read_manifest(folder / "train.csv")
    with measured(found, "find clips"):
        present = find_clips(read, max_bad_fraction=0.001)
    with measured(found, "digest"):
        digest(read, present)


def make_rows(folder: Path, rows: int) -> None:
    with open(folder / "metrics.jsonl", "w", encoding="utf-8") as file:
        for number in range(rows):
            row = {"kind": "train", "epoch": number / 10_000, "step": 10 * number, "train/loss": 2.6563601493}
            row |= {"train/cross_entropy": 2.6563601493, "train/top1": 6.25, "train/lr": 0.0075664619361}
            file.write(json.dumps(row | {"vmp/slope": 9.81234567, "vmp/shift": -0.2134123}) + "\n")


def curves(found: Found, folder: Path, options: Any) -> None:
    import matplotlib.backends.backend_agg
    import matplotlib.lines  # noqa: F401

    import vmp.figures.curves as drawing
    from vmp.engine.loggers import Metrics
    from vmp.runs.records import read_metrics

    with measured(found, "continue after the last row but one"):
        Metrics(folder / "metrics.jsonl", rows=options.rows - 1).close()
    with measured(found, "the last ten rows"):
        _ = read_metrics(folder)[-10:]
    with measured(found, "draw curves"):
        drawing.draw_curves(folder, folder / "curves.png")


def accuracies(found: Found, _: Path, options: Any) -> None:
    import numpy as np

    from vmp.engine.evaluator import Scores, accuracies, best_classes

    rng = np.random.default_rng(0)
    values = rng.standard_normal((options.clips, options.classes), dtype=np.float32)
    labels = rng.integers(0, options.classes, options.clips).tolist()
    scores = Scores(np.arange(options.clips), values, np.zeros(options.clips), {}, None)
    with measured(found, f"accuracies of {options.clips:,} x {options.classes}"):
        accuracies(scores, labels, expected=options.clips)
    with measured(found, "the five best classes of each clip"):
        best_classes(values, 5)


def gathering(found: Found, folder: Path, options: Any) -> None:
    """Two processes with every other clip each; this one is the first."""
    import multiprocessing

    other = multiprocessing.get_context("spawn").Process(target=gather, args=({}, 1, folder, options))
    other.start()
    gather(found, 0, folder, options)
    other.join()


def gather(found: Found, rank: int, folder: Path, options: Any) -> None:
    import torch
    import torch.distributed as dist

    from vmp.engine.dist import Processes
    from vmp.engine.evaluator import gather_sorted

    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    here, indices = Processes(rank, 2, torch.device("cpu")), torch.arange(rank, options.clips, 2)
    own = torch.randn(len(indices), options.classes)
    here.maximum([0])  # waits for the other
    with measured(found, f"scores of two processes, {options.clips:,} x {options.classes}"):
        scores = gather_sorted(own, here.collect(indices), here)
    assert rank or torch.equal(scores[::2], own)
    dist.destroy_process_group()


def report(found: Found, folder: Path, _: Any) -> None:
    from vmp.report.page import write_report

    with measured(found, "write the page"):
        written = write_report([folder / "runs"], out=folder / "report.html")
    found["write the page"]["page_mb"] = written.bytes / 1e6


PARTS: dict[str, tuple[Callable[[Found, Path, Any], None], str]] = {
    "manifest, first time": (manifest, "clips"),
    "manifest": (manifest, "clips"),
    "metrics.jsonl": (curves, "rows"),
    "scores": (accuracies, "clips"),
    "gathering": (gathering, "clips"),
    "report": (report, "runs"),
}


def main() -> None:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--clips", type=int, default=1_000_000)
    add("--rows", type=int, default=1_000_000, help="of metrics.jsonl")
    add("--classes", type=int, default=400, help="of the scores")
    add("--runs", type=int, default=300, help=f"of the report, with {RUN_CLIPS} tested clips each")
    add("--folder", type=Path, help="where to make the files; default: a temporary folder")
    add("--out", type=Path, default=ROOT / "outputs" / "scale.json")
    add("--part", help="for the processes that this starts")
    options = parser.parse_args()
    if options.part:
        found: Found = {}
        PARTS[options.part][0](found, options.folder, options)
        print(json.dumps(found | {"whole process": {"peak_mb": process_memory("VmHWM")}}))
        return

    from benchmarks.measure import Row, describe_machine, print_rows
    from benchmarks.runs import make_runs
    from vmp.files import write_json

    results: dict[str, Any] = {"machine": describe_machine()}
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as home:
        folder = Path(home)
        print(
            f"making {options.clips:,} empty videos and {options.rows:,} rows and {options.runs} runs in {folder}",
            flush=True,
        )
        make_set(folder, options.clips)
        make_rows(folder, options.rows)
        make_runs(folder / "runs", options.runs, clips=RUN_CLIPS, classes=RUN_CLASSES)
        sizes = [f"--{name}={getattr(options, name)}" for name in ("clips", "rows", "classes", "runs")]
        rows: list[Row] = []
        for part, (_, size) in PARTS.items():
            command = [sys.executable, "-m", "benchmarks.scale", "--part", part, "--folder", home, *sizes]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            if done.returncode:
                sys.exit(done.stderr)
            results[part] = json.loads(done.stdout.splitlines()[-1]) | {size: getattr(options, size)}
            rows += [
                {"what": f"{part}: {what}", **values}
                for what, values in results[part].items()
                if isinstance(values, dict)
            ]
            print_rows(f"{part}, {getattr(options, size):,} {size}", rows[-len(results[part]) + 1 :])
    write_json(options.out, results)


if __name__ == "__main__":
    with friendly():
        main()
