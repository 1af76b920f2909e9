"""Cutting that is killed, interrupted or stopped by a full disk, or changed or shared: finished clips stay."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import videos
from cutting import cut_to, leftovers, numbers, run_code
from runs import wait_for

from vmp.data.decode import read_frames
from vmp.prepare import journal
from vmp.prepare.cut import cut_all
from vmp.prepare.journal import CutClip


def stamps(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("[!.]*.mp4")}


@pytest.mark.slow
def test_finished_clips_stay_and_changed_ones_are_made_again(sources, tmp_path):
    source, out = tmp_path / "s.mp4", tmp_path / "cut"
    source.write_bytes((sources / "plain.mp4").read_bytes())
    spans = [(0, 10), (5, 20)]
    first = cut_to(out, source, spans)
    made = stamps(out)
    with open(out / ".cuts.jsonl", "a") as file:  # a line cut short by a kill
        file.write('{"target": "0-1')
    assert cut_to(out, source, spans) == first
    assert stamps(out) == made

    (out / "0-10.mp4").write_bytes(b"short")  # a file that is not what was recorded
    other = CutClip(source=source, start=6, end=20, target=out / "5-20.mp4")  # another span under the name
    whole = CutClip(source=source, start=0, end=10, target=out / "0-10.mp4")
    found = dict(cut_all([other, whole], short_side=None, workers=1, progress=False))
    assert (found[other].frames, found[whole]) == (14, first["0-10"])
    assert numbers(out / "0-10.mp4") == list(range(10))
    assert numbers(out / "5-20.mp4") == list(range(6, 20))
    lines = (out / ".cuts.jsonl").read_text().splitlines()
    assert [json.loads(line)["target"] for line in lines[-2:]] == ["0-10.mp4", "5-20.mp4"]

    made = stamps(out)
    cut_to(out, source, spans, short_side=120)  # other settings
    assert all(stamps(out)[name] != made[name] for name in made)
    assert read_frames(out / "0-10.mp4", [0]).shape[1] == 120

    made = stamps(out)
    videos.numbered_video(source, 30)  # another source
    found = cut_to(out, source, [(0, 10), (25, 31)], short_side=120)
    assert found["25-31"].status == "partial"
    assert stamps(out)["0-10.mp4"] != made["0-10.mp4"]


@pytest.mark.slow
def test_a_source_that_changes_while_it_is_cut_is_cut_again(sources, tmp_path, monkeypatch):
    source, started = tmp_path / "a.mp4", []
    shutil.copy(sources / "plain.mp4", source)

    def here(work, jobs, **_):
        for job in jobs:
            started.append(job)
            for item in work(job):
                os.utime(source, (1, 1))
                yield job, item

    monkeypatch.setattr(journal, "in_children", here)
    for times in (1, 2, 2):
        cut_to(tmp_path, source, [(3, 9)])
        assert len(started) == times


def test_a_disk_that_is_full_stops_with_a_message(sources, tmp_path):
    """A limit on the size of files stands in for the full disk: the same error path in a real child process."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from vmp.prepare.cut import *\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "    cut = CutClip(source=Path(sys.argv[1]), start=0, end=80, target=Path(sys.argv[2]))\n"
        "    print(list(cut_all([cut], progress=False)))\n"
    )
    done = run_code(code, sources / "plain.mp4", tmp_path / "out" / "a.mp4")
    assert "DataError" in done.stderr
    assert os.strerror(errno.EFBIG) in done.stderr
    assert not (tmp_path / "out" / "a.mp4").exists()
    assert leftovers(tmp_path) == []


@pytest.mark.slow
def test_children_that_die_or_hang_lose_only_their_source(sources, tmp_path, monkeypatch):
    """Sources are told apart by name in the child: one kills it after a clip, one makes it sleep."""
    for name in ("dies.mp4", "hangs.mp4", "fine.mp4"):
        (tmp_path / name).write_bytes((sources / "plain.mp4").read_bytes())
    (tmp_path / "sitecustomize.py").write_text(
        "import vmp.prepare.cut as c, os, time\n"
        "real = c.Source.frames\n"
        "def frames(self):\n"
        "    for i, frame in enumerate(real(self)):\n"
        "        if i == 30 and self.path.name == 'dies.mp4': os.kill(os.getpid(), 11)\n"
        "        if i == 30 and self.path.name == 'hangs.mp4': time.sleep(60)\n"
        "        yield frame\n"
        "c.Source.frames = frames\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cuts = [
        CutClip(
            source=tmp_path / f"{name}.mp4", start=s, end=s + 10, target=tmp_path / "cut" / f"{name}{s}.mp4"
        )
        for name in ("dies", "hangs", "fine")
        for s in (0, 25, 50)
    ]
    found = {cut.target.stem: m for cut, m in cut_all(cuts, workers=2, timeout=4, progress=False)}
    assert [found[f"{name}0"].status for name in ("dies", "hangs", "fine")] == ["ok"] * 3
    assert "the decoder crashed" in found["dies25"].reason
    assert "no progress for" in found["hangs50"].reason
    assert {found[f"fine{s}"].status for s in (0, 25, 50)} == {"ok"}
    assert leftovers(tmp_path) == []
    monkeypatch.delenv("PYTHONPATH")
    again = {cut.target.stem: m.status for cut, m in cut_all(cuts, workers=1, progress=False)}
    assert set(again.values()) == {"ok"}  # failures of that kind are not remembered


# --- processes that end --------------------------------------------------------------------------------------------

RUN_CUTS = """
import sys
from pathlib import Path
from vmp.prepare.cut import cut_all
from vmp.prepare.journal import CutClip
if __name__ == "__main__":
    source, out, clips = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    cuts = [CutClip(source=source, start=i, end=i + 40, target=out / f"{i}.mp4") for i in range(0, clips)]
    for cut, found in cut_all(cuts, workers=1, progress=False):
        print(cut.target.name, found.status, flush=True)
"""


def start(tmp_path, *arguments, code=RUN_CUTS):
    """A real process with children, in a group of its own."""
    script = tmp_path / "run_cuts.py"
    script.write_text(code)
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def of_group(group: int) -> list[int]:
    """Live processes of a process group."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def state(number: int) -> str:
    return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]


def commands(numbers: list[int]) -> list[str]:
    return [Path(f"/proc/{n}/cmdline").read_text().replace("\0", " ") for n in numbers]


@pytest.mark.slow
def test_killed_and_started_again(sources, tmp_path):
    """After SIGKILL no child and no unfinished file stays, finished clips do, and the next run makes the rest."""
    out = tmp_path / "cut"
    process = start(tmp_path, sources / "plain.mp4", out, 18)
    assert [process.stdout.readline() for _ in range(2)] == ["0.mp4 ok\n", "1.mp4 ok\n"]
    process.kill()  # in the middle of others
    process.communicate()
    wait_for(lambda: not of_group(process.pid))
    before = stamps(out)
    assert 2 <= len(before) < 18
    assert leftovers(out)
    for name in before:
        first = int(name.removesuffix(".mp4"))
        assert numbers(out / name) == list(range(first, first + 40))
    done = run_code(RUN_CUTS, sources / "plain.mp4", out, 18)
    assert done.stdout.count("ok") == 18, done.stderr
    assert leftovers(out) == []
    assert stamps(out)["0.mp4"] == before["0.mp4"]
    assert stamps(out)["1.mp4"] == before["1.mp4"]


@pytest.mark.slow
def test_interrupted_by_ctrl_c(sources, tmp_path):
    """SIGINT to the whole group, as a terminal sends it."""
    out = tmp_path / "cut"
    # so many clips that it cannot be done when it is told to stop
    process = start(tmp_path, sources / "plain.mp4", out, 18)
    assert process.stdout.readline() == "0.mp4 ok\n"
    wait_for(lambda: state(process.pid) == "S", process)  # it has printed, and waits for its children again
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("Traceback") <= 1  # the parent's own; children say nothing
    assert re.search(r"Interrupt: [1-9]\d* of 18 clips are finished and stay", errors)
    assert leftovers(out) == []
    wait_for(lambda: of_group(process.pid) == [], says=lambda: commands(of_group(process.pid)))
    for name in stamps(out):
        first = int(name.removesuffix(".mp4"))
        assert numbers(out / name) == list(range(first, first + 40))


@pytest.mark.slow
def test_two_processes_in_one_folder(sources, tmp_path):
    """The second waits for the first, and makes only the clips that are missing."""
    out = tmp_path / "cut"
    first = start(tmp_path, sources / "plain.mp4", out, 16)
    wait_for(lambda: leftovers(out))
    second = start(tmp_path, sources / "plain.mp4", out, 17)
    printed = [process.communicate(timeout=120)[0] for process in (first, second)]
    assert printed[0].count("ok") == 16
    assert "another process writes clips there" in printed[1]
    assert printed[1].count("ok") == 17
    targets = [json.loads(line)["target"] for line in (out / ".cuts.jsonl").read_text().splitlines()]
    assert sorted(targets) == sorted(f"{i}.mp4" for i in range(17))  # each was made once
    assert numbers(out / "2.mp4") == list(range(2, 42))
