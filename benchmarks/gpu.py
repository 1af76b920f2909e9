"""make gpu: the first hour on a GPU in minutes, part by part; results in outputs/gpu as JSON and results.md.

    python -m benchmarks.gpu [PART ...] [--minutes 8] [--fresh] [--toy] [--out outputs/gpu]

Each part runs in a process of its own, within its time: one that fails, hangs or exhausts the GPU's memory leaves the
others alone. The same command again skips what is done on this GPU and runs what is not; --fresh runs all of it. No
part starts once the minutes are over. --toy: every part at toy size, on a machine without a GPU, which shows that the
commands work and measures nothing.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.gpu_parts import PARTS
from vmp.cli import friendly, parser_of
from vmp.errors import ConfigError
from vmp.files import read_json, write_json, write_text

LEAST = 20  # seconds: less is not worth a start
GOOD = ("done", "skipped")


def run_part(name: str, folder: Path, *, seconds: float, toy: bool) -> dict[str, Any]:
    """Run a part in a process of its own; what it has saved before it failed or its time was over is kept."""
    from benchmarks.measure import describe_machine

    kept, log = folder / f"{name}.json", folder / f"{name}.log"
    kept.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_parts", name, str(folder), *(["toy"] if toy else [])]
    began, state, why = time.monotonic(), "done", ""
    with open(log, "w", encoding="utf-8") as output:
        child = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            state, why = "out of time", f"it had {seconds:.0f} s"
        else:
            if code:
                state, why = "failed", _last_line(log)
        finally:
            _end(child)
    found = read_json(kept) if kept.exists() else {"rows": []}
    if state == "done" and found.get("skipped"):
        state, why = "skipped", found["skipped"]
    result = {
        "state": state,
        "why": why,
        "seconds": round(time.monotonic() - began, 1),
        "machine": describe_machine(),
        "rows": found["rows"],
    }
    write_json(kept, result)
    return result


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it printed nothing")[:300]


def _end(child: "subprocess.Popen[Any]") -> None:
    """End the child with all processes of its session."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def read_part(name: str, folder: Path, machine: str) -> dict[str, Any] | None:
    """A part's result, if this machine made it."""
    path = folder / f"{name}.json"
    found = read_json(path) if path.exists() else {}
    return found if found.get("machine") == machine else None


def page(results: Mapping[str, Mapping[str, Any]], machine: str) -> str:
    """The results as Markdown."""
    lines = [f"# Measured on {machine}", "", "| part | state | seconds | |", "|---|---|---:|---|"]
    lines += [f"| {n} | {r['state']} | {r['seconds']:g} | {r['why']} |" for n, r in results.items()]
    for name, result in results.items():
        if result["rows"]:
            lines += ["", f"## {name}", "", *table(result["rows"])]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows as a Markdown table with the union of their keys as columns."""

    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
        return str(value).replace("|", "/").replace("\n", " ")

    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return lines + [f"| {' | '.join(text(row.get(c, '')) for c in columns)} |" for row in rows]


def main() -> int:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (default: all)")
    add("--minutes", type=float, help="after which no part starts or goes on (default: 8, with --toy 60)")
    add("--fresh", action="store_true", help="also what is done")
    add("--toy", action="store_true", help="at toy size, without a GPU")
    add("--out", type=Path, default=None, help="default: outputs/gpu, with --toy outputs/gpu-toy")
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"{', '.join(unknown)}: must be {', '.join(PARTS)}")

    import torch

    from benchmarks.measure import describe_machine

    if not options.toy and not torch.cuda.is_available():
        raise ConfigError("make gpu: torch finds no GPU here; make gpu TOY=1 runs every part at toy size")
    folder = options.out or ROOT / "outputs" / ("gpu-toy" if options.toy else "gpu")
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # which ends the part, too
    machine = describe_machine()
    over = time.monotonic() + 60 * (options.minutes or (60 if options.toy else 8))
    results: dict[str, dict[str, Any]] = {}
    for name, (_, budget) in PARTS.items():
        found = read_part(name, folder, machine)
        if not options.parts or name in options.parts:
            left = over - time.monotonic()
            seconds = left if options.toy else min(budget, left)
            if found and found["state"] in GOOD and not options.fresh:
                print(f"{name}: {found['state']} already", flush=True)
            elif left < LEAST:
                found = {"state": "not run", "why": "the same command runs it", "seconds": 0, "rows": []}
                print(f"{name}: no time left; the same command again runs it", flush=True)
            else:
                print(f"{name}: at most {seconds:.0f} s", flush=True)
                found = run_part(name, folder, seconds=seconds, toy=options.toy)
                print(f"  {found['state']} after {found['seconds']:g} s  {found['why']}", flush=True)
        if found:
            results[name] = found
            write_json(folder / "results.json", results)
            write_text(folder / "results.md", page(results, machine))
    print(f"-> {folder / 'results.md'}")
    return int(any(r["state"] not in (*GOOD, "not run") for r in results.values()))


if __name__ == "__main__":
    with friendly():
        sys.exit(main())
