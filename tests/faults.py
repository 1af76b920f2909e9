"""What tests of faults share."""

import hashlib
import stat
from pathlib import Path

from runs import QUICK


def no_traceback(done) -> str:
    assert done.returncode == 2, (done.returncode, done.stderr[-3000:])
    assert "Traceback" not in done.stderr
    return done.stderr


def tree(home: Path, *but: str) -> dict[str, tuple]:
    """Every file under a folder with its content, mode and time."""
    found = {}
    for path in sorted(home.rglob("*")):
        info = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        if path.name not in but and ".lock" not in path.name:
            found[str(path.relative_to(home))] = (content, stat.filemode(info.st_mode))
    return found


def list_overrides(home: Path, out: Path) -> list[str]:
    """Of a quick run over the lists train.csv and val.csv in a folder of videos."""
    quick = [x for x in QUICK if not x.startswith(("dataset", "trainer.epochs", "trainer.batch_size"))]
    return [
        *("dataset=list", f"dataset.root='{home}'", f"dataset.train='{home}/train.csv'"),
        *(f"dataset.val='{home}/val.csv'", *quick, f"data.root='{out}/data'", f"output='{out}/out'"),
        *("trainer.epochs=1", "trainer.batch_size=2"),
    ]
