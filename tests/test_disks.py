"""Disks that are full, and files that may not be read or written, under real runs."""

import shutil
from pathlib import Path

import pytest
from broken import Broken
from faults import list_overrides, no_traceback, tree
from fuzz_videos import picture
from runs import Running, folder, overrides_for, run, start

from vmp.data.encode import write_video


@pytest.mark.slow
@pytest.mark.chaos
def test_a_disk_that_fills_up_under_a_run(data, finished, tmp_path, tally):
    """No file may grow beyond a limit that the second checkpoint passes; with room, the same command goes on."""
    newest = max((finished / "checkpoints").glob("step_*"))
    largest = max(p.stat().st_size for p in newest.iterdir())
    fault = tally("disks that are full")
    for number, limit in enumerate((600, largest // 2, largest - 1)):
        fault.tries()
        out = tmp_path / str(number)
        message = no_traceback(Broken(overrides_for(data, out, "trainer.epochs=1"), largest=limit).wait())
        assert "cannot be written" in message or "could not be written" in message
        assert not list(out.rglob("*.tmp*"))
        assert not list((folder(out) / "checkpoints").glob(".writing-*"))
        assert run(data, out, "trainer.epochs=1").returncode == 0
        assert (folder(out) / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
        fault.survives()


@pytest.mark.slow
@pytest.mark.chaos
def test_records_on_a_full_disk(data, tmp_path, tally):
    """A run stops without metrics.jsonl, which is its result, and continues without log.txt."""
    code = f"""
import resource
from pathlib import Path
from vmp.engine.loggers import Metrics
from vmp.errors import RunError
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
metrics = Metrics(Path({str(tmp_path / "metrics.jsonl")!r}))
try:
    for step in range(1000):
        metrics.write({{"step": step}})
except RunError as error:
    print("told:", error)
metrics.close()
"""
    fault = tally("disks that are full")
    fault.tries()
    done = Running([code], script="-c").succeed()
    assert "metrics.jsonl: cannot be written (File too large)" in done.stdout
    fault.survives()
    fault.tries()
    where = folder(tmp_path / "out")
    where.mkdir(parents=True)
    (where / "log.txt").symlink_to("/dev/full")
    done = start(data, tmp_path / "out", "trainer.epochs=1").succeed()
    assert "log.txt: cannot be written (No space left on device)" in done.stderr
    assert (where / "result.json").exists()
    fault.survives()


@pytest.fixture
def protected():
    """A function that makes a folder and everything in it read-only."""
    taken: list[Path] = []

    def protect(home: Path) -> Path:
        for path in (home, *home.rglob("*")):
            taken.append(path)
            path.chmod(0o555 if path.is_dir() else 0o444)
        return home

    yield protect
    for path in taken:
        path.chmod(0o755)


@pytest.mark.slow
@pytest.mark.chaos
def test_files_without_permission(data, tmp_path, protected, tally):
    """The command gives up the privileges of root, who may read and write everything."""
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "locked").mkdir()
    protected(tmp_path / "data"), protected(tmp_path / "locked")
    before = tree(tmp_path / "data")

    def command(out: str, *more: str):
        overrides = overrides_for(tmp_path / "data", tmp_path / out, "trainer.epochs=1", *more)
        return Broken(overrides, bound=True).wait()

    fault = tally("outputs and data without permission")
    fault.tries()
    message = no_traceback(command("locked"))
    locked = tmp_path / "locked"
    assert f"{folder(locked)} cannot be written ({locked}: permission denied)" in message
    assert not list((tmp_path / "locked").iterdir())
    fault.survives()
    fault.tries()
    done = command("free")
    assert done.returncode == 0, done.stderr[-3000:]
    fault.survives()
    fault.tries()
    (tmp_path / "data/train/005.mp4").chmod(0)
    message = no_traceback(command("free", "tag=forbidden"))
    assert "train/5: unreadable" in message
    assert "Permission denied" in message
    (tmp_path / "data/train/005.mp4").chmod(0o444)
    assert tree(tmp_path / "data") == before  # nothing was written beside the data
    fault.survives()


@pytest.mark.slow
def test_a_list_of_videos_in_a_read_only_folder(tmp_path, protected):
    """Measurements and manifests go to data.root, not beside the videos."""
    (tmp_path / "v").mkdir()
    for i in range(4):
        write_video(tmp_path / f"v/{i}.mp4", (picture(k + i) for k in range(12)))
    (tmp_path / "v/train.csv").write_text("0.mp4 0\n1.mp4 1\n")
    (tmp_path / "v/val.csv").write_text("2.mp4 0\n3.mp4 1\n")
    before = tree(protected(tmp_path / "v"))
    Broken(list_overrides(tmp_path / "v", tmp_path), bound=True).succeed()
    assert tree(tmp_path / "v") == before
