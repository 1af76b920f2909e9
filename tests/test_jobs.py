"""The supervisor: real processes of a small script, in order, side by side, and stopped."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from runs import wait_for

from vmp.jobs.launch import Launch, run_launched
from vmp.jobs.process import JobProcess, explain_failure
from vmp.jobs.supervisor import SPACING, Job, ProgressLines, listen_for_signals

# train.py FILE [WORDS]: writes FILE, unless a word says otherwise
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
file, words = Path(sys.argv[1]), sys.argv[2:]
def note(number, frame):
    with open(f"{file}.signals", "a") as signals:
        print(signal.Signals(number).name, file=signals)
    if "deaf" not in words:
        sys.exit(128 + number)
if "bad" in words:
    sys.exit("error: it is bad")
if "late" in words:
    sys.exit(75)
if "empty" in words:
    sys.exit(0)
if "place" in words:
    file.write_text(f"{os.environ['CUDA_VISIBLE_DEVICES']} {os.environ.get('RANK')}")
    time.sleep(0.5)
if "long" in words:
    signal.signal(signal.SIGTERM, note)
    Path(f"{file}.ready").touch()
    time.sleep(60)
file.write_text(file.read_text() if file.exists() else "x")
print("all is well")
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)

    def make(name: str, *words: str, needs: tuple[str, ...] = ()) -> Job:
        file = tmp_path / name
        needed = tuple(str(tmp_path / each) for each in needs)
        output = tmp_path / f"logs/{name}.txt"
        return Job(name, (str(file), *words), str(file), output, file.exists, needs=needed)

    return make


def run(tmp_path, jobs, launch=Launch("single")) -> list[str]:  # noqa: B008
    """The lines that are shown."""
    lines: list[str] = []
    run_launched(jobs, launch, tmp_path, lines.append)
    return lines


def test_jobs_wait_for_those_they_need_and_fail_alone(tmp_path, job):
    jobs = [job("b", needs=("a",)), job("a"), job("bad", "bad"), job("c", needs=("bad",))]
    lines = run(tmp_path, jobs)
    assert lines[0] == f"started: a; its output: {jobs[1].output}"  # later ones show as others end
    assert sum(line.startswith("started") for line in lines) == 1
    assert [each.state for each in jobs] == ["done", "done", "failed", "not started"]
    assert jobs[2].message == "it is bad"
    assert jobs[2].code == 1
    failed = next(i for i, line in enumerate(lines) if "failed: bad" in line)
    assert "it is bad" in lines[failed + 1]
    assert f"its output: {jobs[2].output}" in lines[failed + 1]
    assert jobs[2].output.read_text() == "error: it is bad\n"


def test_jobs_that_others_wait_for_run_first(tmp_path, job, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    needs = {"alone": "", "one": "", "a": "one", "two": "", "b": "two", "c": "b"}
    lines = run(tmp_path, [job(name, needs=(before,) if before else ()) for name, before in needs.items()])
    ended = [line for line in lines if not line.startswith("started")]
    assert [line.split(": ")[1].split()[0] for line in ended] == ["two", "one", "b", "alone", "a", "c"]


def test_jobs_side_by_side_have_devices_of_their_own_and_no_rank(tmp_path, job, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("RANK", "1")
    run(tmp_path, [job("a", "place"), job("b", "place")])
    assert {(tmp_path / name).read_text() for name in "ab"} == {"3 None", "5 None"}


@pytest.mark.slow
def test_warm_jobs_go_on_when_their_server_is_killed(tmp_path, job):
    from multiprocessing.forkserver import _forkserver

    warm = Launch("warm")
    jobs = [job("a"), job("b")]
    run(tmp_path, jobs[:1], warm)
    server = _forkserver._forkserver_pid
    assert server
    os.kill(server, signal.SIGSTOP)  # so that it dies with the request for b in its queue
    threading.Timer(1, os.kill, (server, signal.SIGKILL)).start()
    run(tmp_path, jobs[1:], warm)
    assert [each.state for each in jobs] == ["done", "done"]
    assert _forkserver._forkserver_pid != server


def test_a_job_out_of_time_is_stopped_and_one_without_a_result_has_failed(tmp_path, job):
    jobs = [job("late", "late"), job("empty", "empty")]
    run(tmp_path, jobs)
    assert [(each.state, each.message) for each in jobs] == [
        ("stopped", ""),
        ("failed", "it ended without a result"),
    ]


@pytest.mark.parametrize(
    ("times", "words", "signals", "code"),
    [(1, (), 1, 128 + signal.SIGTERM), (3, ("deaf",), 2, -signal.SIGKILL)],
)
def test_the_first_signal_lets_a_job_save_and_the_third_kills_it(tmp_path, job, times, words, signals, code):
    job("long")  # writes train.py
    supervise = (
        "import sys\n"
        "from pathlib import Path\n"
        "from vmp.jobs.launch import Launch, run_launched\n"
        "from vmp.jobs.supervisor import Job\n"
        f"home, words = Path({str(tmp_path)!r}), {words!r}\n"
        "files = [home / name for name in 'ab']\n"
        "jobs = [Job('', (str(f), 'long', *words), str(f), home / 'log', f.exists) for f in files]\n"
        "asked = run_launched(jobs, Launch('single'), home)\n"
        "print(asked, [(job.state, job.code) for job in jobs])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", supervise],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    noted = tmp_path / "a.signals"
    wait_for((tmp_path / "a.ready").exists)
    began = time.monotonic()
    for sent in range(1, times + 1):
        process.send_signal(signal.SIGINT)
        wait_for(lambda sent=sent: noted.exists() and len(noted.read_text().split()) >= min(sent, signals))
    out, err = process.communicate(timeout=30)
    assert out.splitlines()[-1] == f"True [('stopped', {code}), ('not started', None)]"
    assert noted.read_text().split() == ["SIGTERM"] * signals
    assert err.count("SIGINT: the running jobs") == times
    assert time.monotonic() - began > (times - 1) * SPACING  # a run takes what comes at once for one request


def test_a_killed_job_takes_along_what_runs_in_a_session_of_its_own(tmp_path):
    """As the processes of torchrun do: they would go on training in the folder that the next command wants."""
    (tmp_path / "train.py").write_text(
        "import subprocess, time\n"
        "print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    output = tmp_path / "output.txt"
    process = JobProcess([sys.executable, "train.py"], output=output, cwd=tmp_path, place={})
    wait_for(lambda: output.read_text().endswith("\n"))
    started = Path("/proc", output.read_text().strip(), "stat")
    process.stop(3)
    wait_for(lambda: process.poll() is not None)
    assert process.poll() == -signal.SIGKILL
    # it is gone, or a zombie where nothing reaps what has lost its parent
    wait_for(lambda: not started.exists() or started.read_text().split()[2] == "Z", seconds=20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ignored_interrupts_still_stop_jobs_and_ignored_hangups_do_not(number):
    """A shell script's background commands ignore SIGINT, and those under nohup SIGHUP."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with listen_for_signals() as requests:
            os.kill(os.getpid(), number)
        assert requests.signals == ([signal.SIGINT] if number == signal.SIGINT else [])
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


@pytest.mark.slow
def test_torchrun_passes_on_what_its_processes_ended_with(tmp_path, job):
    """torchrun exits with 1, whatever they exit with."""
    jobs = [job("late", "late"), job("bad", "bad")]
    run(tmp_path, jobs, Launch("torchrun", processes=2))
    assert [(j.state, j.code) for j in jobs] == [("stopped", 75), ("failed", 1)]
    assert jobs[1].message.startswith("it is bad")


def test_a_failure_is_explained_by_its_last_error(tmp_path):
    output = tmp_path / "output.txt"
    output.write_text("error: first\nepoch 1\nerror: second\n  its details\n")
    assert explain_failure(2, output) == "second\n  its details"
    output.write_text("Traceback\nValueError: no\n")
    assert explain_failure(1, output) == "exit code 1: ValueError: no"
    assert explain_failure(-signal.SIGKILL, output) == "killed by SIGKILL: out of memory, or killed by hand"
    assert explain_failure(-signal.SIGSEGV, output) == "killed by SIGSEGV"


@pytest.mark.slow
def test_the_server_of_warm_jobs_is_deaf_to_ctrl_c_from_its_start_on(tmp_path):
    """It starts and imports for seconds while a person may press Ctrl-C, and would end with a traceback."""
    (tmp_path / "job.py").write_text("from pathlib import Path; Path('done').touch()")
    code = """
        import signal, sys, time
        from pathlib import Path
        from vmp.jobs.process import JobProcess
        signal.signal(signal.SIGINT, lambda *_: None)
        print("ready", flush=True)
        job = JobProcess([sys.executable, "job.py"], output=Path("said"), cwd=".", place={}, warm=True)
        while (code := job.poll()) is None:
            time.sleep(0.1)
        sys.exit(code)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline() == "ready\n"
    while process.poll() is None and not (tmp_path / "done").exists():
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.02)
    assert (process.wait(60), process.stderr.read()) == (0, "")


def test_the_time_left_is_told_from_jobs_that_were_done(monkeypatch):
    """Two at a time: three were done in 20, 40 and 60 s of a minute, 12 failed at once, and two were done yesterday."""
    now = 0.0
    monkeypatch.setattr("vmp.jobs.supervisor.time.monotonic", lambda: now)
    jobs = [Job("", (), str(n), Path(), lambda: False) for n in range(23)]
    for job in jobs[:2]:
        job.state, job.seconds = "done", 900.0
    lines = ProgressLines(jobs)
    now = 60.0
    for job in jobs[2:14]:
        job.state, job.seconds = "failed", 0.0
    assert lines.line(jobs[2]) == "[14/23] failed:   (0 s)"
    for job, seconds in zip(jobs[14:17], (20.0, 40.0, 60.0), strict=True):
        job.state, job.seconds = "done", seconds
    assert lines.line(jobs[16]) == "[17/23] done:   (60 s, about 2 min left)"  # 6 x 40 s, two at a time


def test_jobs_that_still_run_count_for_how_many_run_at_a_time(monkeypatch):
    """The first of two that began together is done after 100 s, and eight wait."""
    now = 1.0
    monkeypatch.setattr("vmp.jobs.supervisor.time.monotonic", lambda: now)
    jobs = [Job("", (), str(n), Path(), lambda: False) for n in range(10)]
    lines = ProgressLines(jobs)
    for job in jobs[:2]:
        job.state, job.began = "running", now
    now = 101.0
    jobs[0].state, jobs[0].seconds = "done", 100.0
    assert lines.line(jobs[0]) == "[1/10] done:   (100 s, about 8 min left)"  # 9 x 100 s, two at a time
