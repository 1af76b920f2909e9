"""Paths that climb out of the folder of the videos, in every format that names files."""

from pathlib import Path

import pytest
from fuzz_videos import picture

from vmp.data.encode import write_video
from vmp.data.manifest import read_manifest
from vmp.errors import ConfigError, UserError
from vmp.prepare.dataset import prepare
from vmp.prepare.finegym import plan_finegym
from vmp.prepare.hmdb51 import plan_hmdb51
from vmp.prepare.lists import make_list
from vmp.prepare.plan import DatasetPlan, Item

TRAVERSALS = (
    *("../x.mp4", "../../x.mp4", "a/../../x.mp4", "a/../../../etc/passwd", "..", "../", "a/..", "./../x.mp4"),
    *(
        "/etc/passwd",
        "//etc/passwd",
        "/",
        "~/x.mp4",
        "~root/x.mp4",
        "\\x.mp4",
        "\\\\server\\x.mp4",
        "C:\\x.mp4",
    ),
    *(
        "C:x.mp4",
        "C:/x.mp4",
        "C:",
        "A: /../../x.mp4",
        "a/./../../x.mp4",
        "..//x.mp4",
        "a/b/../../../x.mp4",
        "x\t.mp4",
        "\x7f/../../x.mp4",
    ),
)


@pytest.mark.chaos
@pytest.mark.parametrize(
    "form", ["manifest", "csv list", "plain list", "HMDB-51", "FineGym", "FineGym times", "plan"]
)
def test_paths_that_climb_out(tmp_path, form, tally):
    (tmp_path / "v").mkdir()
    secret = tmp_path / "x.mp4"
    write_video(secret, (picture(i) for i in range(5)))
    fault = tally("paths that climb out")
    for path in TRAVERSALS:
        fault.tries()
        with pytest.raises(UserError) as caught:
            read_with(path, tmp_path, form)
        assert type(caught.value) is not ConfigError, caught.value
        assert "\t" not in str(caught.value)
        fault.survives()


def read_with(path: str, home: Path, form: str) -> None:
    """Read annotations with a path in them as far as the file behind it would be opened."""
    if form == "manifest":
        (home / "classes.txt").write_text("a\nb\n")
        (home / "train.csv").write_text(f'id,path,label,frames\na,"{path}",0,5\n')
        read_manifest(home / "train.csv", root=home / "v")
    elif form.endswith("list"):
        for split in ("train", "val"):
            rows = f'path,label\n"{path}",a\nb.mp4,b\n' if form == "csv list" else f"{path} 0\nb.mp4 1\n"
            (home / split).write_text(rows)
        lists = {"train": home / "train", "val": home / "val"}
        make_list(home / "out", videos=home / "v", lists=lists, progress=False, workers=1)
    elif form == "HMDB-51":
        (home / "climb_test_split1.txt").write_text(f"{path} 1 \n")
        plan_hmdb51(home / "v", home)
    elif form.startswith("FineGym"):
        element = f"{path[:11]:_<11}_E_000001_000006_A_0000_0002"
        (home / "gym99_train_element_v1.1.txt").write_text(f"{element} 0\n")
        (home / "gym99_val_element.txt").write_text("0LtLS9wROrk_E_000001_000006_A_0000_0002 0\n")
        (home / "times.csv").write_text("id,start,end\n")
        times = home / "times.csv" if form.endswith("times") else None
        plan_finegym(home / "v", home, times=times, allow_missing=True)
    else:
        plan = DatasetPlan(
            name="p",
            classes=("a", "b"),
            splits={"train": (Item(id="a", path=path, label=0),)},
            videos=home / "v",
        )
        prepare(plan, home / "out", allow_missing=True, progress=False, workers=1)
