"""From plans to manifests: what all datasets share, the command scripts/prepare.py, and training on what it made."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from threading import Timer

import pytest
import runs
from hypothesis import given, settings
from hypothesis import strategies as st
from small_datasets import MKV, plan_cooking, plan_of, read, run, small_video

from vmp.data.manifest import recorded_root
from vmp.data.times import Timeline
from vmp.errors import ConfigError, ManifestError
from vmp.prepare import dataset as preparing
from vmp.prepare.finegym import SETS, plan_finegym
from vmp.prepare.hmdb51 import plan_hmdb51
from vmp.prepare.plan import Item, shipped_classes
from vmp.prepare.videos import find_videos

ROOT = Path(__file__).parents[1]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 400_000),
    st.integers(1, 3000),
    st.sampled_from(
        [Fraction(25), Fraction(30000, 1001), Fraction(147, 5), Fraction(30), Fraction(2987, 100)]
    ),
)
def test_a_span_in_seconds_takes_the_frames_whose_times_lie_in_it(start, length, fps):
    start, end = Fraction(start, 100), Fraction(start + length, 100)  # hundredths, as annotated
    frames = 200_000
    first, last = Timeline(frames, float(fps)).span(float(start), float(end))
    near = range(max(0, int(start * fps) - 2), min(frames, int(end * fps) + 3))
    inside = [i for i in near if start <= i / fps < end]
    on_screen = min(frames, max((i for i in near if i / fps <= start), default=frames - 1))
    assert (first, last) == ((inside[0], inside[-1] + 1) if inside else (on_screen, on_screen + 1))


def test_the_shipped_classes():
    hmdb, gym, mpii = (shipped_classes(name) for name in ("hmdb51", "gym99", "mpii_cooking2"))
    assert (len(hmdb), len(gym), len(mpii)) == (51, 99, 67)
    assert list(hmdb) == sorted(hmdb)
    assert list(mpii) == sorted(mpii)
    assert all(name.endswith("V") for name in mpii)
    assert [mpii.index(verb) for verb in ("cut diceV", "gatherV", "sliceV", "washV")] == [7, 15, 45, 64]
    assert len(set(gym)) == len(SETS) == 99  # two have the same name in the dataset
    assert [gym[i] for i in (58, 70)] == [
        f"(BB) salto backward tucked ({where})" for where in ("flight", "dismount")
    ]
    assert all(name[1:3] == ("VT" if of == "vault" else of[:2]) for name, of in zip(gym, SETS, strict=True))


def test_videos_are_found_by_stem_in_any_depth(tmp_path):
    for name in ("b/x.mkv", "a/x.MP4", "a/._x.MP4", "x.txt", "y.webm", ".hidden/z.mp4", "c/[HD] #1;-).avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_videos(tmp_path)
    assert found == {"x": ["a/x.MP4", "b/x.mkv"], "y": ["y.webm"], "[HD] #1;-)": ["c/[HD] #1;-).avi"]}
    with pytest.raises(ConfigError, match=r"--videos .*none: no such folder"):
        find_videos(tmp_path / "none")


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A folder with a good and a damaged video."""
    folder = tmp_path_factory.mktemp("three")
    small_video(folder / "good.mp4", 12)
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val.csv", "video,label\na.mp4,0\n"),
        ("classes.txt", "mine\nyours\n"),
        ("split.csv", "path,label\na.mp4,0\n"),
        ("dataset.json", '{"name": "mine"}\n'),
    ],
)
def test_files_of_others_are_not_replaced_or_removed(three, tmp_path, name, text):
    part = [Item(id="good", path="good.mp4", label=0)]
    plan = replace(
        plan_of(three, train=part, test=part), tables={"split.csv": [["path", "label", "group", "split"]]}
    )
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=rf"{tmp_path / name} would be replaced or removed"):
        run(plan, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, text)]
    (tmp_path / name).unlink()
    run(plan, tmp_path)
    run(replace(plan, classes=("b", "c"), splits={"train": plan.splits["train"]}), tmp_path)
    assert (tmp_path / "classes.txt").read_text() == "b\nc\n"
    assert not (tmp_path / "test.csv").exists()


def test_bad_clips_keep_their_rows_and_fail_the_checks(three, tmp_path):
    whole = [Item(id=name, path=f"{name}.mp4", label=0) for name in ("good", "bad", "gone")]
    spans = [
        Item(id="tail", path="good.mp4", label=1, start=4, end=20, unit="frames"),
        Item(id="beyond", path="good.mp4", label=1, start=12, end=14, unit="frames"),
        Item(id="far", path="good.mp4", label=1, start=0, end=100, unit="frames"),
        Item(id="gone span", path="gone.mp4", label=1, start=3, end=9, unit="frames"),
        Item(id="unknown", path="good.mp4", label=1, problem="not in the JSON"),
    ]
    plan = plan_of(three, train=whole, test=spans)
    outcome = run(plan, tmp_path)
    assert [check.name for check in outcome.failed] == ["video files"]
    assert outcome.written == ()
    assert not list(tmp_path.glob("*.csv"))
    assert not (tmp_path / "measured.jsonl").exists()  # told before anything is decoded

    outcome = run(plan, tmp_path, allow_missing=True)
    assert [check.name for check in outcome.failed] == ["video files", "clips that can be read"]
    assert "3 expected, 2 found" in outcome.text
    train, test = read(tmp_path, "train"), read(tmp_path, "test")
    assert [c.status for c in train.clips] == ["ok", "unreadable", "missing"]
    assert train.clips[2].tags["problem"] == "not found"
    assert [c.status for c in test.clips] == ["ok", "partial", "partial", "missing", "unreadable"]
    assert (test.clips[0].start, test.clips[0].end, test.clips[0].tags) == (4, 12, {"short": "yes"})
    assert test.clips[1].tags["problem"] == "frames 12 to 14 of a video that has 12"
    assert (test.clips[3].start, test.clips[3].end) == (3, 9)
    assert test.clips[4].tags["problem"] == "not in the JSON"
    message = json.loads((tmp_path / "prepare.json").read_text())
    assert message["counts"]["train"] == {
        **{"expected": 3, "found": 2, "usable": 1, "missing": 1, "unreadable": 1, "partial": 0, "short": 0}
    }
    assert message["missing_files"] == ["gone.mp4"]
    assert message["usable_per_class"] == {"train": [1, 0], "test": [0, 1]}


def test_a_dry_run_writes_nothing(three, tmp_path):
    out = tmp_path / "out"
    outcome = run(plan_of(three, train=[Item(id="g", path="good.mp4", label=0)]), out, dry_run=True)
    assert not outcome.failed
    assert not out.exists()
    assert "train                    1           1           0           -" in outcome.text


def test_manifests_of_another_preparation_do_not_stay(three, tmp_path):
    item = Item(id="g", path="good.mp4", label=0)
    run(plan_of(three, train=[item], val=[item]), tmp_path)
    assert (tmp_path / "val.csv").exists()
    run(plan_of(three, train=[item], test=[item]), tmp_path)
    assert not (tmp_path / "val.csv").exists()


def test_links_that_leave_the_folder_are_refused(three, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/good.mp4").symlink_to(three / "good.mp4")
    with pytest.raises(ManifestError, match="leaves the dataset root"):
        run(plan_of(tmp_path / "own", train=[Item(id="g", path="good.mp4", label=0)]), tmp_path)


def test_the_report_says_why_nothing_was_found(three, tmp_path):
    plan = plan_of(tmp_path, train=[Item(id="g", path="a/good.mp4", label=0)])
    (tmp_path / "img_00001.jpg").touch()
    assert "holds no file that ends in .avi" in run(plan, tmp_path / "out").text
    (tmp_path / "a").symlink_to(three)
    with pytest.raises(ManifestError, match="leaves the dataset root"):
        run(plan, tmp_path / "out")
    plan = plan_of(tmp_path, train=[Item(id="g", path="good.mp4", label=0)])
    assert "links to folders are not followed: a;" in run(plan, tmp_path / "out").text


def test_long_videos_are_read_in_place_only_on_request(tmp_path):
    small_video(tmp_path / "v/long.mp4", 40, fps=Fraction(1, 60))  # forty minutes
    plan = plan_of(tmp_path / "v", train=[Item(id="g", path="long.mp4", label=0, end=120, unit="seconds")])
    with pytest.raises(ConfigError, match=r"long.mp4: 40 min[\s\S]*--cut .* or --in-place"):
        run(plan, tmp_path / "out")
    run(plan, tmp_path / "out", long_in_place=True)
    assert read(tmp_path / "out", "train").clips[0].end == 2


def test_another_process_in_the_folder_is_waited_for(three, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preparing, "PATIENCE", 0)
    plan = plan_of(three, train=[Item(id="g", path="good.mp4", label=0)])
    with open(tmp_path / ".lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        Timer(0.5, fcntl.flock, (other, fcntl.LOCK_UN)).start()
        preparing.prepare(plan, tmp_path, workers=1)
    assert f"{tmp_path}: another process measures videos or writes" in capsys.readouterr().out


def test_a_span_that_ends_as_the_first_frame_is_shown_holds_none():
    late = Timeline(10, 25.0, first=1.0)
    for end in (0.5, 1.0, 1.000001):
        assert Item(id="a", path="a.mp4", label=0, end=end, unit="seconds").excess(late)
    assert not Item(id="a", path="a.mp4", label=0, end=1.01, unit="seconds").excess(late)


def test_where_the_videos_are_is_recorded(three, tmp_path):
    item = Item(id="g", path="good.mp4", label=0)
    run(plan_of(three, train=[item]), tmp_path / "out")
    assert recorded_root(tmp_path / "out") == three.resolve()
    assert recorded_root(tmp_path) is None
    run(plan_of(three, **{"split1/train": [item]}), tmp_path / "cut", how="cut")
    shutil.move(tmp_path / "cut", tmp_path / "moved")  # what was cut stays together
    clip = read(tmp_path / "moved", "split1/train").clips[0]
    assert (clip.path, clip.frames, clip.status) == ("clips/g.mp4", 12, "ok")
    assert read(tmp_path / "moved", "split1/train").file(clip).is_file()
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"dataset.json: must be"):
        recorded_root(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MPII.h5", r"MPII.h5 is HDF5, which is not read. Name the folder of the original videos"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path, name, message):
    (tmp_path / "videos" / name).parent.mkdir(parents=True)
    (tmp_path / "videos" / name).touch()
    plan = plan_of(tmp_path / "videos", train=[Item(id="g", path="good.mp4", label=0)])
    text = run(plan, tmp_path / "out").text
    assert re.search(message, text)
    assert name in text


def command(*arguments) -> subprocess.CompletedProcess:
    line = [sys.executable, str(ROOT / "scripts/prepare.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), f"{MKV}_E_000000_000001_A_0000_0000: unreadable, measuring failed: the decoder crashed"),
        (
            ("--cut",),
            f"{MKV}_E_000000_000001_A_0000_0000: unreadable, making it was given up: the decoder crashed",
        ),
        (("--cut", "--dry-run"), "cutting would read 1 sources"),
        (("--dry-run",), "measuring would read 1 videos"),
    ],
    ids=["in place", "cut", "dry run of cut", "dry run"],
)
def test_a_decoder_that_crashes_does_not_end_the_command(gym, tmp_path, monkeypatch, options, said):
    """Each process that decodes the first frame of one of the two videos is killed as by a fault in C."""
    (tmp_path / "sitecustomize.py").write_text(
        "import vmp.prepare.source as s, os\n"
        "real = s.Source.frames\n"
        "def frames(self):\n"
        f"    if self.path.name == '{MKV}.mkv': os.kill(os.getpid(), 11)\n"
        "    return real(self)\n"
        "s.Source.frames = frames\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    folders = ("--videos", gym / "videos", "--annotations", gym / "annotations", "--out", tmp_path / "out")
    done = command("finegym", *folders, "--allow-missing", "--workers", 1, *options)
    assert done.returncode == 0, done
    assert said in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("verify", ".", "--workers", -3), "--workers -3: must be 1 or more"),
        (("verify", ".", "--timeout", "nan"), "--timeout nan: must be a number of seconds"),
        (("hmdb51", "--timeout", "inf"), "--timeout inf: must be a number of seconds"),
        (("hmdb51", "--workers", 0), "--workers 0: must be 1 or more"),
        (
            ("hmdb51", "--fps", "inf"),
            "--fps inf: must be a number of frames per second above 0 and below 1,000,000",
        ),
        (("hmdb51", "--fps", "nan"), "--fps nan: must be"),
        (("hmdb51", "--fps", 1e6), "--fps 1e+06: must be"),
        (
            ("hmdb51", "--short-side", 128),
            "--short-side 128: only clips that are cut are made smaller; add --cut",
        ),
        (("hmdb51", "--remux", "--short-side", 0), "--short-side 0: only clips that are cut"),
        (("hmdb51", "--cut", "--short-side", 127), "--short-side 127: must be even"),
        (("hmdb51", "--cut", "--short-side", 128), "hmdb51: needs --videos"),
    ],
)
def test_options_that_are_wrong_or_without_effect_are_refused(script, words, said):
    code, _, errors = script("prepare", *words)
    assert code == 2
    assert said in errors


@pytest.mark.slow
def test_the_command_ends_with_2_unless_missing_is_allowed(mpii, tmp_path):
    paths = ("--videos", mpii / "videos", "--mat", mpii / "annos.mat", "--splits", mpii / "experimentalSetup")
    done = command("mpii_cooking2", *paths, "--out", tmp_path, "--workers", 1)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "FAILED  intervals: 14,105 expected, 11 found" in done.stdout
    assert "no manifest was written" in done.stderr
    done = command(
        "mpii_cooking2", *paths, "--out", tmp_path, "--workers", 1, "--allow-missing", "--histogram"
    )
    assert done.returncode == 0, done.stderr
    assert f"wrote {tmp_path}/test.csv" in done.stdout
    assert "45 sliceV" in done.stdout


@pytest.mark.slow
def test_the_command_verifies(three, tmp_path):
    shutil.copytree(three, tmp_path / "videos")
    run(plan_of(tmp_path / "videos", train=[Item(id="g", path="good.mp4", label=0)]), tmp_path / "out")
    done = command("verify", tmp_path / "out")
    assert (done.returncode, done.stdout.startswith(f"{tmp_path}/out/train.csv: 1 ok, 0 missing")) == (
        0,
        True,
    )
    small_video(tmp_path / "videos/good.mp4", 9)
    done = command("verify", tmp_path / "out/train.csv")
    assert done.returncode == 2
    assert "g (good.mp4): partial: has 9 frames, the manifest says 12" in done.stdout


def test_the_command_says_what_is_wrong(tmp_path):
    done = command("hmdb51", "--videos", tmp_path / "none")
    assert (done.returncode, done.stderr.startswith("error: --videos")) == (2, True)
    assert "examples:" in command("--help").stdout


@pytest.fixture(scope="module")
def prepared(hmdb, gym, mpii, tmp_path_factory):
    """data/hmdb51, data/finegym and data/mpii_cooking2: in place, cut, and cut."""
    root = tmp_path_factory.mktemp("data")
    run(plan_hmdb51(hmdb / "videos"), root / "hmdb51", allow_missing=True)
    for name, plan in (
        ("finegym", plan_finegym(gym / "videos", gym / "annotations")),
        ("mpii_cooking2", plan_cooking(mpii)),
    ):
        run(plan, root / name, allow_missing=True, how="cut", short_side=64)
    return root


def train(data: Path, out: Path, *overrides: str) -> runs.Running:
    quick = [
        word for word in runs.QUICK if not word.startswith(("dataset", "trainer.epochs", "trainer.batch"))
    ]
    rest = [
        "trainer.epochs=1",
        "trainer.batch_size=2",
        "data.max_bad_fraction=0.9",
        f"data.root='{data}'",
        f"output='{out}'",
    ]
    return runs.Running([*quick, *rest, *overrides])


@pytest.mark.slow
def test_training_on_prepared_datasets(prepared, tmp_path):
    """The commands of the README; a missing clip is counted in the result."""
    asked = {
        "hmdb51-split2": ("dataset=hmdb51", "dataset.split=2"),
        "finegym": ("dataset=finegym",),
        "mpii_cooking2": ("dataset=mpii_cooking2",),
    }
    running = {name: train(prepared, tmp_path, *words) for name, words in asked.items()}
    results = {}
    for name, process in running.items():
        process.succeed(240)
        (path,) = (tmp_path / name).rglob("result.json")
        results[name] = json.loads(path.read_text())
    lost = {
        name: sorted(
            (split, counts["missing"]) for split, counts in result["clips"].items() if counts["missing"]
        )
        for name, result in results.items()
    }
    assert lost == {
        "hmdb51-split2": [("train", 1)],  # split 2 trains on the third clip of kick_ball
        "finegym": [("train", 1)],
        "mpii_cooking2": [("train", 1)],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dataset=hmdb51", "dataset.split=2"), "hmdb51-split2 is not prepared"),
        (("dataset=finegym",), "finegym is not prepared"),
        (("dataset=mpii_cooking2",), "mpii_cooking2 is not prepared"),
    ],
)
def test_training_without_data_names_the_command(tmp_path, words, message):
    """And the command it names is one that the script takes."""
    done = train(tmp_path / "data", tmp_path, *words).wait()
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert message in done.stderr
    line = next(text for text in done.stderr.splitlines() if "scripts/prepare.py" in text).split()
    asked = [str(tmp_path) if word in ("DIR", "FILE") else word for word in line[2:]]
    tried = command(*asked)
    assert tried.returncode == 2
    assert "usage:" not in tried.stderr  # it failed over the empty folder, not over its options
