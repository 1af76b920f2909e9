"""Disks that are full, and files that may not be read or written, under real runs."""

import shutil
from pathlib import Path

import pytest
from broken import Broken
from faults import list_overrides, no_traceback, tree
from fuzz_videos import picture
from runs import Running, folder, overrides_for, run

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
        said = no_traceback(Broken(overrides_for(data, out, "trainer.epochs=1"), largest=limit).wait())
        assert "cannot be written" in said or "could not be written" in said
        assert not list(out.rglob("*.tmp*"))
        assert not list((folder(out) / "checkpoints").glob(".writing-*"))
        assert run(data, out, "trainer.epochs=1").returncode == 0
        assert (folder(out) / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
        fault.survives()


@pytest.mark.slow
@pytest.mark.chaos
def test_records_on_a_full_disk(data, tmp_path, tally):
    """metrics.jsonl is what a run is for: it stops. log.txt is for people: it goes on."""
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
    done = Running([code], script="-c").wait()
    assert done.returncode == 0, done.stderr
    assert "metrics.jsonl: cannot be written (File too large)" in done.stdout
    fault.survives()
    fault.tries()
    where = folder(tmp_path / "out")
    where.mkdir(parents=True)
    (where / "log.txt").symlink_to("/dev/full")
    done = run(data, tmp_path / "out", "trainer.epochs=1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "log.txt: cannot be written (No space left on device)" in done.stderr
    assert (where / "result.json").exists()
    fault.survives()


@pytest.fixture
def protected():
    """Take the permission to write away from a folder and all in it."""
    taken: list[Path] = []

    def protect(home: Path) -> Path:
        for path in (home, *home.rglob("*")):
            taken.append(path)
            path.chmod(0o555 if path.is_dir() else 0o444)
        return home

    yield protect
    for path in taken:
        path.chmod(0o755)


@pytest.mark.chaos
def test_what_may_not_be_written_or_read(data, tmp_path, protected, tally):
    """Root may do everything, so the command gives its privileges up."""
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "locked").mkdir()
    protected(tmp_path / "data"), protected(tmp_path / "locked")
    before = tree(tmp_path / "data")

    def command(out: str, *more: str):
        overrides = overrides_for(tmp_path / "data", tmp_path / out, "trainer.epochs=1", *more)
        return Broken(overrides, bound=True).wait()

    fault = tally("outputs and data without permission")
    fault.tries()
    said = no_traceback(command("locked"))
    locked = tmp_path / "locked"
    assert f"{folder(locked)} cannot be written ({locked}: permission denied)" in said
    assert not list((tmp_path / "locked").iterdir())
    fault.survives()
    fault.tries()
    done = command("free")
    assert done.returncode == 0, done.stderr[-3000:]
    fault.survives()
    fault.tries()
    (tmp_path / "data/train/005.mp4").chmod(0)
    said = no_traceback(command("free", "tag=forbidden"))
    assert "train/5: unreadable" in said
    assert "Permission denied" in said
    (tmp_path / "data/train/005.mp4").chmod(0o444)
    assert tree(tmp_path / "data") == before  # nothing was written beside the data
    fault.survives()


@pytest.mark.slow
def test_a_list_over_videos_that_cannot_be_written_to(tmp_path, protected):
    """Measurements and manifests go to data.root, not beside the videos."""
    (tmp_path / "v").mkdir()
    for i in range(4):
        write_video(tmp_path / f"v/{i}.mp4", (picture(k + i) for k in range(12)))
    (tmp_path / "v/train.csv").write_text("0.mp4 0\n1.mp4 1\n")
    (tmp_path / "v/val.csv").write_text("2.mp4 0\n3.mp4 1\n")
    before = tree(protected(tmp_path / "v"))
    done = Broken(list_overrides(tmp_path / "v", tmp_path), bound=True).wait()
    assert done.returncode == 0, done.stderr[-3000:]
    assert tree(tmp_path / "v") == before
