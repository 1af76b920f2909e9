"""How long one waits: for --help, and for the first step of the default run."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.turns import Row, machine, show

PATIENCE = 300.0  # seconds


def bench_start(root: Path) -> list[Row]:
    """Seconds of wall time, processes started anew."""
    rows: list[Row] = []
    for script in ("train.py", "evaluate.py"):
        command = [sys.executable, str(root / script), "--help"]
        each = []
        for _ in range(4):
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, cwd=root)
            each.append(time.perf_counter() - began)
        rows.append({"what": f"{script} --help", "seconds": statistics.median(each[1:]), "first": each[0]})
    for what in ("first step of python train.py, clips made before", "the same again"):
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"what": what, "seconds": _first_step(root, Path(folder))})
    rows = rows[:2] + rows[3:]  # the first may have made the clips
    rows[-1]["what"] = "first step of python train.py"
    show(f"start, {machine()}", rows)
    return rows


def _first_step(root: Path, folder: Path) -> float:
    command = [sys.executable, str(root / "train.py"), f"output={folder}", "trainer.log_every=1"]
    began = time.perf_counter()
    with open(folder / "said.txt", "w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=root)
        try:
            while process.poll() is None and time.perf_counter() - began < PATIENCE:
                if any(file.stat().st_size for file in folder.rglob("metrics.jsonl")):
                    return time.perf_counter() - began
                time.sleep(0.01)
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)} took no step:\n{said.read()[-2000:]}")
        finally:
            process.terminate()
            process.wait()
