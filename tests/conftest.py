import os
import runpy
import shutil
import signal
import sys
from fractions import Fraction

if "PYTEST_XDIST_WORKER" in os.environ:
    # several test processes share the CPUs: torch's thread pools get in each other's way (four times slower here)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # tests that were started in the background are deaf to Ctrl-C, and so would be the processes that they send it to
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # ... and under nohup to a terminal that goes away
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two classes that a tiny net learns (runs.bright_or_dark), for every test of the process: copy before changing."""
    from runs import bright_or_dark

    return bright_or_dark(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def straight(data, tmp_path_factory):
    """An undisturbed run on `data`: 36 steps in 6 epochs, with prompts, dropout, momentum, warm-up, no tracker."""
    from runs import folder, start

    out = tmp_path_factory.mktemp("straight")
    start(data, out).succeed()
    return folder(out)


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """A run of one epoch on `data`, with all its checkpoints: copy before changing."""
    from runs import folder, start

    out = tmp_path_factory.mktemp("finished")
    start(data, out, "trainer.epochs=1", "trainer.keep_finished=all").succeed()
    return folder(out)


@pytest.fixture(scope="session")
def home(data, tmp_path_factory):
    """A copy of `data` (home/data) and a run of four epochs on it (home/out) that was tested on two views."""
    from runs import Running, overrides_for

    home = tmp_path_factory.mktemp("home")
    shutil.copytree(data, home / "data")
    Running(overrides_for(data, home / "out", "trainer.epochs=4", "trainer.views=2x1")).succeed()
    return home


@pytest.fixture(scope="session")
def spoiled(data, tmp_path_factory):
    """A copy of `data` with a video that cannot be read."""
    home = tmp_path_factory.mktemp("spoiled") / "data"
    shutil.copytree(data, home)
    (home / "train/003.mp4").write_bytes(b"not a video any more")
    return home


@pytest.fixture(scope="session")
def alone(spoiled, tmp_path_factory):
    """An undisturbed run on `spoiled` (disturbed.ONE) of one process: 12 updates in 2 epochs."""
    from disturbed import ONE
    from runs import folder, start

    out = tmp_path_factory.mktemp("alone")
    start(spoiled, out, *ONE).succeed()
    return folder(out)


@pytest.fixture(scope="session")
def pair(spoiled, tmp_path_factory):
    """An undisturbed run on `spoiled` (disturbed.TWO) of two processes."""
    from disturbed import TWO
    from runs import folder, start_ranks

    out = tmp_path_factory.mktemp("pair")
    start_ranks(spoiled, out, *TWO, ranks=2).succeed()
    return folder(out)


@pytest.fixture(scope="session")
def two_runs(data, tmp_path_factory):
    """A copy of `data` (two_runs/data), and a run without prompts and one with them (two_runs/out; drawn.both)."""
    from runs import start

    home = tmp_path_factory.mktemp("two_runs")
    shutil.copytree(data, home / "data")
    begun = [start(data, home / "out", m, "trainer.epochs=2", "tag=a") for m in ("vmp=none", "vmp=learned")]
    for one in begun:
        one.succeed()
    return home


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """Videos of cutting.FRAMES numbered frames to cut clips from: copy before changing."""
    import videos
    from cutting import FRAMES

    home = tmp_path_factory.mktemp("sources")
    videos.numbered_video(home / "plain.mp4", FRAMES)
    videos.numbered_video(home / "h264.avi", FRAMES, b_frames=2, keyframe_every=12)
    videos.numbered_video(home / "mpeg4.avi", FRAMES, codec="mpeg4", crf=3, fps=Fraction(147, 5))
    videos.variable_rate_video(home / "variable.mp4", FRAMES)
    return home


@pytest.fixture(scope="session")
def hmdb(tmp_path_factory):
    """A small HMDB-51 (small_datasets.make_hmdb): copy before changing."""
    from small_datasets import make_hmdb

    return make_hmdb(tmp_path_factory.mktemp("hmdb"))


@pytest.fixture(scope="session")
def gym(tmp_path_factory):
    """A small FineGym (small_datasets.make_gym): copy before changing."""
    from small_datasets import make_gym

    return make_gym(tmp_path_factory.mktemp("gym"))


@pytest.fixture(scope="session")
def mpii(tmp_path_factory):
    """A small MPII Cooking 2 (small_datasets.make_mpii): copy before changing."""
    from small_datasets import make_mpii

    return make_mpii(tmp_path_factory.mktemp("mpii"))


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """Runs and tables (reports.write_outputs, write_tables) and the page about them: (folder of everything, results by
    run, the page, the parsed page)."""
    from reports import Read, write_outputs, write_tables
    from runs import bright_or_dark

    from vmp.report.page import write_report

    home = tmp_path_factory.mktemp("report")
    data = bright_or_dark(home / "data", train=4, val=30)
    results = write_outputs(home / "outputs", data)
    write_tables(home / "tables")
    page = home / "report.html"
    written = write_report([home / "outputs"], out=page, tables=[home / "tables"], clips=2)
    assert (written.runs, written.finished, written.tables) == (6, 5, 3)
    return home, results, page, Read(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def c2d_file(tmp_path_factory):
    """A small C2D in pytorchvideo's layout."""
    from weights_made import save_c2d

    return save_c2d(tmp_path_factory.mktemp("c2d"))


@pytest.fixture(scope="session")
def hugging_face(tmp_path_factory):
    """(model, folder) of a small TimeSformer that transformers wrote."""
    from weights_made import save_hugging_face

    return save_hugging_face(tmp_path_factory.mktemp("hf"))


@pytest.fixture
def script(monkeypatch, capsys):
    """script("predict", ...) runs a script of the repository in this process: its exit code, output and errors.

    Warm jobs that it starts are forked from this process's server. root: the checkout whose script it is and where it
    runs, if another.
    """
    from configs import ROOT

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # warm jobs set it

    def call(name, *arguments, root=None):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.chdir(root or os.getcwd())  # scripts change it, too
        folder, code = root or ROOT, 0
        folder = folder if name in ("train", "evaluate") else folder / "scripts"
        try:
            runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


TITLE = ("fault", "tried", "survived", "differences")


def pytest_configure(config):
    """Without -m gpu no test sees a GPU: comparisons of bits and runs of two processes are about CPUs."""
    asked = "gpu" in config.option.markexpr.replace("not gpu", "")
    if not asked and torch.cuda.device_count():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if not torch.cuda.device_count():
        os.environ["TRITON_INTERPRET"] = "1"  # read where triton is imported first, which torch may do


def pytest_addoption(parser):
    parser.addoption(
        "--rounds", type=int, default=1, help="how many times as many faults to try (make chaos)"
    )
    parser.addoption("--tally", metavar="FILE", help="write the table of faults there, as Markdown")


@pytest.fixture
def rounds(request) -> int:
    return request.config.getoption("--rounds")


# --- wandb ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_account(monkeypatch, tmp_path):
    """Hide the wandb key, settings and netrc of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))


@pytest.fixture
def fresh_wandb(no_account):
    """A wandb that reads the environment again, which it does only once in a process."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def server(monkeypatch, fresh_wandb):
    """A server that keeps what wandb sends it."""
    from wandb_server import WandbServer

    found = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", found.url)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    yield found
    found.close()


@pytest.fixture
def file_server(monkeypatch):
    """A server of files whose connections drop, stall or lie; retries do not wait."""
    from file_server import Server

    from vmp import transfer

    monkeypatch.setattr(transfer, "WAITS", (0.01, 0.02, 0.03))
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


# --- faults --------------------------------------------------------------------------------------------------------


class Fault:
    """A row of the table of faults, counted as it happens, so that a test that fails half-way has what it survived.

    Differences are those from a run that was left alone; None: there is no such run to compare with.
    """

    def __init__(self, name: str) -> None:
        self.row: list = [name, 0, 0, None]

    def tries(self, count: int = 1) -> None:
        self.row[1] += count

    def survives(self, count: int = 1) -> None:
        """Count what has passed its checks."""
        self.row[2] += count

    def differs(self, count: int) -> None:
        self.row[3] = (self.row[3] or 0) + count


@pytest.fixture
def tally(request):
    """tally("SIGKILL at a random step") opens a row of the table of faults, to count in."""

    def add(name: str) -> Fault:
        fault = Fault(name)
        request.node.user_properties.append(("fault", fault.row))
        return fault

    return add


def pytest_terminal_summary(terminalreporter, config):
    sums: dict[str, list] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for key, row in getattr(report, "user_properties", ()):
                if key == "fault" and report.when == "call":
                    fault, *numbers = row
                    pairs = zip(sums.get(fault, [0, 0, None]), numbers, strict=True)
                    sums[fault] = [a if b is None else (a or 0) + b for a, b in pairs]
    if not sums:
        return
    shown = {fault: ("-" if n is None else f"{n:,}" for n in numbers) for fault, numbers in sums.items()}
    rows = [TITLE, *((fault, *numbers) for fault, numbers in shown.items())]
    wide = max(len(row[0]) for row in rows)
    terminalreporter.section("faults")
    for fault, *numbers in rows:
        terminalreporter.write_line(f"{fault:<{wide}}" + "".join(f"{n:>13}" for n in numbers))
    if path := config.getoption("--tally"):
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        lines.insert(1, "|---|" + "---:|" * (len(TITLE) - 1))
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
