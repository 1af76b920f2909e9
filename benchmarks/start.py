"""How long a user waits for --help, and for the first step of the default run."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import ROOT
from benchmarks.measure import Row, print_rows

PATIENCE = 300.0  # seconds


def bench_start() -> list[Row]:
    """Seconds of wall time in new processes."""
    rows: list[Row] = []
    for script in ("train.py", "evaluate.py"):
        each = []
        for _ in range(4):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, str(ROOT / script), "--help"], check=True, capture_output=True, cwd=ROOT
            )
            each.append(time.perf_counter() - began)
        rows.append({"what": f"{script} --help", "seconds": statistics.median(each[1:]), "first": each[0]})
    _time_first_step()  # makes the clips if they are missing
    rows.append({"what": "first step of python train.py", "seconds": _time_first_step()})
    return print_rows("start", rows)


def _time_first_step() -> float:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, str(ROOT / "train.py"), f"output={folder}", "trainer.log_every=1"]
        began = time.perf_counter()
        with open(folder / "output.txt", "w+") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
            try:
                while process.poll() is None and time.perf_counter() - began < PATIENCE:
                    if any(file.stat().st_size for file in folder.rglob("metrics.jsonl")):
                        return time.perf_counter() - began
                    time.sleep(0.01)
                output.seek(0)
                raise RuntimeError(f"{' '.join(command)} took no step:\n{output.read()[-2000:]}")
            finally:
                process.terminate()
                process.wait()
