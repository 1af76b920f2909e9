"""What is broken is told or counted, with the real commands: media, disks, users, processes, archives, configs."""

import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import videos
from broken import Broken
from fuzz_videos import FRAMES, picture, sources
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from runs import QUICK, ROOT, Running, folder, overrides_for, run, start

from vmp.config import check, parse_views
from vmp.data.decode import read_frames
from vmp.data.encode import write_video
from vmp.data.manifest import read_manifest
from vmp.errors import ConfigError, DataError, UserError, VideoReadError
from vmp.explain import explain
from vmp.prepare.dataset import prepare
from vmp.prepare.finegym import plan_finegym
from vmp.prepare.hmdb51 import plan_hmdb51
from vmp.prepare.lists import make_list
from vmp.prepare.measure import measure_all
from vmp.prepare.plan import DatasetPlan, Item
from vmp.prepare.unpack import unpack


def no_traceback(done) -> str:
    assert done.returncode == 2, (done.returncode, done.stderr[-3000:])
    assert "Traceback" not in done.stderr
    return done.stderr


def test_the_table_names_tests_that_there_are():
    """docs/reliability.md: every row has one, and every one is there."""
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    names = re.findall(r"`((?:test_\w+\.py)?::test_\w+)", text)
    assert len(names) > 80
    file = ""
    for name in names:
        file = name.partition("::")[0] or file
        function = name.partition("::")[2]
        assert f"def {function}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), name
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.count("|") == 4]
    rows = [row for row in rows if not re.match(r"\| (fault|file) \| what happens", row)]
    assert len(rows) > 60
    for row in rows:
        assert "test_" in row or re.search(r"`\[[^`]+\]`", row), row
    kinds = set(re.findall(r"`\[([^`]+)\]`", text))
    assert kinds == set(KINDS) - {"whole"}


# --- media ---------------------------------------------------------------------------------------------------------


def encoded(path: Path, *, codec: str, format: str, size: tuple[int, int], frames: int = FRAMES) -> Path:
    """As write_video, of any pixel format and any size."""
    import av

    with av.open(str(path), "w") as container:
        options = {} if codec == "ffv1" else {"g": "12"}
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = size[0], size[1], format
        for i in range(frames):
            shown = np.ascontiguousarray(np.resize(picture(i % FRAMES), (size[1], size[0], 3)))
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24").reformat(format=format))
            )
        container.mux(stream.encode())
    return path


def sizes_change(path: Path) -> Path:
    parts = b""
    for i, size in enumerate(((64, 96), (32, 48))):
        part = path.with_name(f"part{i}.h264")
        write_video(part, (picture(k)[: size[0], : size[1]] for k in range(20)))
        parts += part.read_bytes()
        part.unlink()
    path.write_bytes(parts)
    return path


def with_garbage(source: Path, path: Path) -> Path:
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = np.random.default_rng(0).bytes(4000)
    path.write_bytes(data)
    return path


def promises_more(source: Path, path: Path) -> Path:
    """An AVI whose headers promise 60 frames more than there are."""
    data = bytearray(source.read_bytes())
    for at in (data.index(b"avih") + 24, data.index(b"strh") + 40):
        assert int.from_bytes(data[at : at + 4], "little") == FRAMES
        data[at : at + 4] = (FRAMES + 60).to_bytes(4, "little")
    path.write_bytes(data)
    return path


def picture_file(path: Path, suffix: str) -> Path:
    import cv2

    path.write_bytes(cv2.imencode(suffix, picture(0))[1].tobytes())
    return path


def make_media(home: Path) -> dict[str, tuple[Path, str, int, tuple[int, int]]]:
    """kind -> (file, expected status, frames, (width, height)); frames -1: some."""
    (home / "good").mkdir()
    good = sources(home / "good")
    plain, avi = good["h264.mp4"], good["mpeg4.avi"]
    full = (96, 64)
    files: dict[str, tuple[Path, str, int, tuple[int, int]]] = {}

    def add(kind: str, path: Path, status: str = "unreadable", frames: int = 0, size=(0, 0)) -> None:
        files[kind] = path, status, frames, size

    def written(name: str, content: bytes) -> Path:
        (home / name).write_bytes(content)
        return home / name

    add("missing", home / "missing.mp4", "missing")
    (home / "directory.mp4").mkdir()
    add("directory", home / "directory.mp4")
    add("zero bytes", written("zero.mp4", b""))
    add("random bytes", written("random.mp4", np.random.default_rng(0).bytes(9000)))
    add("HTML page", written("page.mp4", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"))
    add("renamed JPEG", picture_file(home / "jpeg.mp4", ".jpg"))
    add("renamed PNG", picture_file(home / "png.avi", ".png"))
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1.6,\ngood/h264.mp4\n#EXT-X-ENDLIST\n"
    add("playlist of other files", written("playlist.mp4", playlist))
    add("list of other files", written("concat.mp4", b"ffconcat version 1.0\nfile good/h264.mp4\n"))
    add("truncated, index last", videos.truncated(plain, home / "no_index.mp4"))
    add(
        *("truncated, index first", videos.truncated(good["index_first.mp4"], home / "index_first.mp4")),
        *("partial", -1, full),
    )
    add("truncated mkv", videos.truncated(good["b_frames.mkv"], home / "short.mkv"), "partial", -1, full)
    add("garbage in the middle", with_garbage(avi, home / "garbage.avi"), "partial", -1, full)
    add("sound only", videos.audio_only(home / "sound.mp4"))
    add("header promises more", promises_more(avi, home / "promises.avi"), "partial", FRAMES, full)
    add("size changes", sizes_change(home / "sizes.h264"), "partial", 20, full)
    os.mkfifo(home / "pipe.mp4")
    add("named pipe", home / "pipe.mp4")
    os.symlink("loop.mp4", home / "loop.mp4")
    add("link to itself", home / "loop.mp4")
    os.symlink("/dev/zero", home / "device.mp4")
    add("device", home / "device.mp4")
    for number in (1, 2):
        path = home / f"{number}.mp4"
        write_video(path, (picture(i) for i in range(number)))
        add(f"{number} frame(s)", path, "ok", number, full)
    add("whole", plain, "ok", FRAMES, full)
    for kind, codec, format, size in (
        ("odd size", "ffv1", "bgr0", (33, 47)),
        ("16 x 16", "libx264", "yuv420p", (16, 16)),
        ("2 x 10", "mpeg4", "yuv420p", (2, 10)),
        ("10 bit", "libx264", "yuv420p10le", full),
        ("4:4:4", "libx264", "yuv444p", full),
        ("grey", "libx264", "gray", full),
        ("alpha", "libvpx-vp9", "yuva420p", full),
    ):
        path = encoded(
            home / f"{kind.replace(' ', '_').replace(':', '')}.mkv", codec=codec, format=format, size=size
        )
        add(kind, path, "ok", FRAMES, size)
    add("turned", videos.rotated(plain, home / "turned.mp4"), "ok", FRAMES, (64, 96))
    return files


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """kind -> (file, expected status, frames, size), and what measuring in child processes says of all."""
    files = make_media(tmp_path_factory.mktemp("media"))
    found = dict(measure_all([entry[0] for entry in files.values()], workers=2, timeout=60))
    return {kind: (*entry, found[entry[0]]) for kind, entry in files.items()}


KINDS = (
    *("missing", "directory", "zero bytes", "random bytes", "HTML page", "renamed JPEG", "renamed PNG"),
    *("playlist of other files", "list of other files", "truncated, index last", "truncated, index first"),
    *("truncated mkv", "garbage in the middle", "sound only", "header promises more", "size changes"),
    *("named pipe", "link to itself", "device", "1 frame(s)", "2 frame(s)", "whole", "odd size", "16 x 16"),
    *("2 x 10", "10 bit", "4:4:4", "grey", "alpha", "turned"),
)


def test_every_kind_of_media_is_tried(media):
    assert set(media) == set(KINDS)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", KINDS)
def test_media(media, kind, tally):
    """Measured as what it is; every reader listed as exact gives the frames, every other an error, not a hang."""
    fault = tally("kinds of bad or odd media")
    fault.tries()
    path, status, frames, size, found = media[kind]
    assert (found.status, found.width, found.height) == (status, *size), found
    assert found.frames == frames or (frames == -1 and 0 < found.frames < FRAMES)
    if status == "ok":
        known = read_frames(path, range(frames))
        assert found.readers[-1] == "pyav"
        for reader in found.readers:
            got = read_frames(path, range(frames), reader=reader)
            assert np.abs(got.astype(int) - known).mean() < 2, reader
    else:
        assert found.reason
        assert found.readers == ()
        for reader in ("pyav", "pyav_seek", "opencv"):
            with pytest.raises(VideoReadError, match=path.name):
                read_frames(path, [0, FRAMES + 5], reader=reader)
    fault.survives()


NAMES = (
    *("ünï cöde.mp4", "two  spaces.mp4", "it's.mp4", 'a "quote".mp4', "semi;colon.mp4", "comma, here.mp4"),
    *(
        "[HD] #1 %03d & $HOME `x`.mp4",
        "-dash.mp4",
        "文字 🎬.mp4",
        "n" * 251 + ".mp4",
        "=1+1.mp4",
        "back\\slash.mp4",
    ),
)


@pytest.mark.slow
def test_a_run_over_everything_that_is_bad(media, tmp_path):
    """Good videos under strange names among all bad ones: refused, or every bad one counted and not one good one."""
    home = next(iter(media.values()))[0].parent
    videos_home = tmp_path / "v"
    videos_home.mkdir()
    lines = ["path,label"]
    for i, name in enumerate(NAMES):
        write_video(videos_home / name, (picture(k + i) for k in range(12)))
        quoted = name.replace('"', '""')
        lines.append(f'"{quoted}",{i % 2}')
    bad = []
    for kind, (path, status, *_) in media.items():
        if status != "ok" and kind not in ("missing", "device"):
            (videos_home / path.name).symlink_to(path) if path.is_dir() else shutil.move(path, videos_home)
            bad.append(path.name)
    bad += ["missing.mp4"]
    (videos_home / "directory.mp4").unlink()
    (videos_home / "directory.mp4").mkdir()
    rows = [*lines, *(f"{name},{i % 2}" for i, name in enumerate(bad))]
    (videos_home / "train.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for i in range(2):
        write_video(videos_home / f"val{i}.mp4", (picture(k) for k in range(12)))
    (videos_home / "val.csv").write_text("path,label\nval0.mp4,0\nval1.mp4,1\n")
    overrides = list_overrides(videos_home, tmp_path)
    said = no_traceback(Running(overrides).wait())
    assert f"{len(bad)} of {len(bad) + len(NAMES)} clips cannot be used" in said
    done = Running([*overrides, "data.max_bad_fraction=0.9"]).wait()
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = (tmp_path / "out").rglob("result.json")
    counts = json.loads(result.read_text())["clips"]["train"]
    assert counts == {
        **{"expected": len(bad) + len(NAMES), "present": len(NAMES)},
        **{"missing": 1, "unreadable": len(bad) - 1},
    }
    assert home.is_dir()


@pytest.mark.parametrize("name", ["line\nbreak", "car\rriage", "escape\x1b", "nul\\0", b"not utf-8 \xff"])
def test_names_that_no_manifest_can_hold(tmp_path, name):
    """Found under --videos, or said by the annotations: refused in words."""
    part = os.fsdecode(name) if isinstance(name, bytes) else name.replace("\\0", "\0")
    if "\0" not in part:
        (tmp_path / "v" / part).mkdir(parents=True)
        write_video(tmp_path / "v" / part / "a.mp4", (picture(i) for i in range(5)))
    (tmp_path / "v").mkdir(exist_ok=True)
    item = Item(id="x", path=f"{part}/a.mp4", label=0)
    plan = DatasetPlan(name="some", classes=("a", "b"), splits={"train": (item,)}, videos=tmp_path / "v")
    with pytest.raises(UserError, match=r"control character|not UTF-8"):
        prepare(plan, tmp_path / "out", progress=False, workers=1)
    assert not list(tmp_path.glob("out/*.csv"))


# --- paths and archives --------------------------------------------------------------------------------------------

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
    *("C:x.mp4", "a/./../../x.mp4", "..//x.mp4", "a/b/../../../x.mp4", "x\t.mp4", "\x7f/../../x.mp4"),
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


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o777
    return info


TARS = {  # what the members are; a tar stands in for a RAR: bsdtar goes by content
    "climbs out": [member("../evil.avi")],
    "absolute": [member("/tmp/vmp-evil.avi")],
    "link out": [member("a/link.avi", tarfile.SYMTYPE, "/etc/passwd")],
    "link up": [member("a/link.avi", tarfile.SYMTYPE, "../../x.avi")],
    "file through a link": [member("d", tarfile.SYMTYPE, ".."), member("d/evil.avi")],
    "hard link": [member("h.avi", tarfile.LNKTYPE, "/etc/passwd")],
    "device": [member("zero.avi", tarfile.CHRTYPE)],
    "named pipe": [member("pipe.avi", tarfile.FIFOTYPE)],
}


@pytest.mark.skipif(not shutil.which("bsdtar"), reason="bsdtar is not installed")
@pytest.mark.chaos
@pytest.mark.parametrize("kind", TARS)
def test_archives_with_members_that_are_no_files(tmp_path, monkeypatch, kind, tally):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/bsdtar").symlink_to(shutil.which("bsdtar"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with tarfile.open(tmp_path / "x.rar", "w") as archive:
        for info in TARS[kind]:
            archive.addfile(info)
        archive.addfile(member("fine.avi"))
    fault = tally("archives that reach out")
    fault.tries()
    with pytest.raises(DataError, match=r"x\.rar"):
        unpack(tmp_path / "x.rar", tmp_path / "inner/out", say=lambda _: None)
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/vmp-evil.avi").exists()
    assert not [p for p in (tmp_path / "inner").rglob("*") if not p.is_dir()]
    fault.survives()


def test_archives_that_would_fill_the_disk(tmp_path):
    """Members that are said, or turn out, to be a thousand times the archive; and more than the disk has room for."""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(f"{i}.avi", bytes(50_000_000))
    with pytest.raises(DataError, match=r"bomb.zip: .*200,\d+,\d+ bytes"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out", say=lambda _: None)
    assert not list((tmp_path / "out").rglob("*.avi"))


@pytest.mark.chaos
def test_damaged_zips(tmp_path, rounds, tally):
    """Unpacked as it was, or DataError, and then nothing is left."""
    from damage import damaged_bytes

    content = {f"wave/{i}.avi": np.random.default_rng(i).bytes(3000) for i in range(3)}
    with zipfile.ZipFile(tmp_path / "w.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(name, value)
    whole = (tmp_path / "w.zip").read_bytes()
    fault, count, refused = tally("damaged archives"), 30 * rounds, 0
    for seed in range(count):
        fault.tries()
        what, damaged = damaged_bytes(whole, np.random.default_rng([7, seed]))
        (tmp_path / "w.zip").write_bytes(damaged)
        out = tmp_path / f"out{seed}"
        try:
            unpack(tmp_path / "w.zip", out, say=lambda _: None)
        except DataError as error:
            refused += 1
            assert "w.zip" in str(error)
            assert not list(out.rglob("*.avi")), (seed, what)
        else:
            for path in out.rglob("*.avi"):
                assert path.read_bytes() in content.values(), (seed, what)
        shutil.rmtree(out)
        fault.survives()
    assert 0 < refused <= count


# --- code where data should be -------------------------------------------------------------------------------------


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class SetState:
    """Pickles as an object of a harmless class with state that is a call."""

    def __init__(self, inner) -> None:
        self.inner = inner


def traps(witness: Path) -> dict[str, object]:
    import builtins
    import functools
    import operator

    import torch

    touch = f"touch {witness}"
    write = f"open({str(witness)!r}, 'w')"
    system = Calls(os.system, touch)
    return {
        "os.system": system,
        "eval": Calls(eval, write),
        "exec": Calls(exec, write),
        "__import__": Calls(builtins.__import__, "antigravity"),
        "subprocess": Calls(subprocess.Popen, ["touch", str(witness)]),
        "partial": Calls(functools.partial(os.system, touch)),
        "getattr": Calls(getattr(operator, "methodcaller")("touch"), witness),  # noqa: B009
        "open": Calls(open, str(witness), "w"),
        "in a list": [1, [2, {"x": system}]],
        "as a key": {("a", system): 1},
        "in an array": np.array([system], dtype=object),
        "as state": SetState(system),
        "in a module": torch.nn.ModuleList([torch.nn.Identity()]).__class__,
        "rebuild": Calls(torch._utils._rebuild_tensor_v2, system),
    }


NAMES_OF_TRAPS = tuple(traps(Path("x")))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of one epoch, with all its checkpoints."""
    out = tmp_path_factory.mktemp("finished")
    done = run(data, out, "trainer.epochs=1", "trainer.keep_finished=all")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder(out)


@pytest.mark.chaos
@pytest.mark.parametrize("name", NAMES_OF_TRAPS)
def test_pickles_that_would_run_code(finished, tmp_path, name, tally):
    """In a checkpoint whose sums fit, in every place of it, and in files of weights."""
    import torch

    from vmp.backbones.weights import read
    from vmp.engine import checkpoint

    witness = tmp_path / "it_ran"
    trap = traps(witness)[name]
    fault = tally("pickles and configs that would run code")
    newest = max((finished / "checkpoints").glob("step_*"))
    state = torch.load(newest / "state.pt", weights_only=True)
    for place in ("optimizer", "progress", "new"):
        fault.tries()
        where = tmp_path / place / newest.name
        shutil.copytree(newest, where)
        torch.save({**state, place: {**state.get(place, {}), "x": trap}}, where / "state.pt")
        meta = json.loads((where / "meta.json").read_text())
        meta["sha256"]["state.pt"] = hashlib.sha256((where / "state.pt").read_bytes()).hexdigest()
        (where / "meta.json").write_text(json.dumps(meta))
        said: list[str] = []
        with pytest.raises(UserError, match="damaged"):
            checkpoint.newest(tmp_path / place, warn=said.append)
        assert "was not loaded" in said[0]
        assert not witness.exists()
        fault.survives()
    content = {"model_state": {"blocks.0.conv.weight": torch.zeros(1)}, "x": trap}
    for file in ("w.pyth", "w.pt", "w.bin", "w.pkl", "old.pth"):
        fault.tries()
        if file == "w.pkl":
            (tmp_path / file).write_bytes(pickle.dumps({"blobs": {}, "x": trap}))
        else:
            torch.save(content, tmp_path / file, _use_new_zipfile_serialization=file != "old.pth")
        with pytest.raises(UserError, match=file):
            read(tmp_path / file)
        assert not witness.exists()
        fault.survives()
    time.sleep(0.01)
    assert not witness.exists()


CONFIGS = {  # what a run's config.yaml is changed to
    "python/object/apply": "dataset: !!python/object/apply:os.system ['touch {witness}']\n",
    "python/object/new": "x: !!python/object/new:subprocess.Popen [['touch', '{witness}']]\n",
    "python/name": "x: !!python/name:os.system\n",
    "python/module": "x: !!python/module:antigravity\n",
    "_target_ on top": "_target_: os.system\ncommand: touch {witness}\n",
    "_target_ in a section": "{whole}\ntrainer: {{_target_: os.system, command: 'touch {witness}'}}\n",
    "resolver": '{whole}\nname: ${{oc.decode:\'__import__("os").system("touch {witness}")\'}}\n',
    "unknown resolver": "{whole}\nname: ${{eval:'1'}}\n",
    "billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b]\n",
    "no YAML": "a: [1\n",
    "bytes": "\x00\x01",
    "empty": "",
    "a list": "- 1\n",
    "a word": "word\n",
}


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("kind", CONFIGS)
def test_configs_of_runs_that_are_not_configs(data, finished, tmp_path, kind, tally):
    """Testing, continuing and starting from such a run: refused in words that name it; nothing is run."""
    witness = tmp_path / "it_ran"
    where = folder(tmp_path)
    shutil.copytree(finished, where)
    whole = OmegaConf.to_container(OmegaConf.load(where / "config.yaml"))
    for key in ("name", "trainer"):
        if key in CONFIGS[kind].split("}")[-1] or "{whole}" not in CONFIGS[kind]:
            whole.pop(key, None)
    text = CONFIGS[kind].format(witness=witness, whole=OmegaConf.to_yaml(OmegaConf.create(whole)))
    (where / "config.yaml").write_text(text)
    (where / "result.json").unlink()
    commands = [
        Running([f"run='{where}'", "split=val", "workers=0"], script="evaluate.py"),
        Running(overrides_for(data, tmp_path, "trainer.epochs=1")),
        Running(overrides_for(data, tmp_path / "other", f"init_from='{where}'")),
    ]
    fault = tally("pickles and configs that would run code")
    for command in commands:
        fault.tries()
        said = no_traceback(command.wait())
        assert str(where) in said, said
        assert not witness.exists()
        fault.survives()


@pytest.mark.parametrize(
    "override", ["+_target_=os.system", "+vmp._target_=os.system", "vmp._target_=os.system"]
)
def test_targets_are_no_keys(override):
    with pytest.raises((ConfigError, HydraException, OmegaConfBaseException)) as caught:
        composed(override)
    assert "_target_" in str(caught.value)


@pytest.mark.chaos
def test_damaged_checkpoints(finished, tmp_path, rounds, tally):
    """Truncated, flipped, zeroed: every one is found out."""
    from damage import damaged_bytes

    from vmp.engine import checkpoint
    from vmp.errors import RunError

    source = max((finished / "checkpoints").glob("step_*"))
    whole = {name: (source / name).read_bytes() for name in ("model.safetensors", "state.pt", "meta.json")}
    sums = json.loads(whole["meta.json"])["sha256"]
    where = tmp_path / source.name
    shutil.copytree(source, where)
    fault, count, same = tally("damaged checkpoints"), 90 * rounds, 0
    for seed in range(count):
        fault.tries()
        name = tuple(whole)[seed % 3]
        what, damaged = damaged_bytes(whole[name], np.random.default_rng([7, seed]))
        (where / name).write_bytes(damaged)
        try:
            checkpoint.load(where)
        except RunError as error:
            assert where.name in str(error)
        else:  # nothing that counts is another: the version of torch, white space
            assert json.loads((where / "meta.json").read_bytes())["sha256"] == sums, (seed, what)
            assert (where / "state.pt").read_bytes() == whole["state.pt"], (seed, what)
            assert (where / "model.safetensors").read_bytes() == whole["model.safetensors"], (seed, what)
            same += 1
        (where / name).write_bytes(whole[name])
        fault.survives()
    assert same < count / 4


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("data.json", b"{", "data.json"),
        ("data.json", b"[1]", "data.json"),
        ("data.json", b"\xff\xfe", "data.json"),
        ("metrics.jsonl", b"{}\n", "metrics.jsonl"),
        ("checkpoints", None, None),
    ],
)
def test_damaged_records_of_a_run(data, finished, tmp_path, file, content, said):
    """The same command again: refused with the file's name, never a start from scratch over what is there."""
    where = folder(tmp_path)
    shutil.copytree(finished, where)
    (where / "result.json").unlink()
    if content is None:
        for checkpoint in (where / "checkpoints").glob("step_*"):
            (checkpoint / "meta.json").write_bytes(b"{}")
        said = "are damaged"
    else:
        (where / file).write_bytes(content)
    before = tree(where, "log.txt", "config.yaml")  # which may say another place and speed
    assert said in no_traceback(run(data, tmp_path, "trainer.epochs=1"))
    assert tree(where, "log.txt", "config.yaml") == before


# --- disks and users -----------------------------------------------------------------------------------------------


def tree(home: Path, *but: str) -> dict[str, tuple]:
    """Every file under a folder with its content, mode and time."""
    found = {}
    for path in sorted(home.rglob("*")):
        info = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        if path.name not in but and ".lock" not in path.name:
            found[str(path.relative_to(home))] = (content, stat.filemode(info.st_mode))
    return found


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


def list_overrides(home: Path, out: Path) -> list[str]:
    """Of a quick run over the lists train.csv and val.csv in a folder of videos."""
    quick = [x for x in QUICK if not x.startswith(("dataset", "trainer.epochs", "trainer.batch_size"))]
    return [
        *("dataset=list", f"dataset.root='{home}'", f"dataset.train='{home}/train.csv'"),
        *(f"dataset.val='{home}/val.csv'", *quick, f"data.root='{out}/data'", f"output='{out}/out'"),
        *("trainer.epochs=1", "trainer.batch_size=2"),
    ]


# --- processes -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.chaos
def test_a_worker_that_is_killed_names_what_it_was_reading(data, tmp_path, tally):
    """By SIGKILL, as the kernel does when memory runs out, or a decoder that crashes."""
    fault = tally("loader processes that die or hang")
    fault.tries()
    done = Broken(overrides_for(data, tmp_path, "trainer.workers=1"), dies="005.mp4").wait(90)
    said = no_traceback(done)
    assert "a data worker died" in said
    assert f"train/5 ({data}/train/005.mp4)" in said
    fault.survives()


@pytest.mark.slow
@pytest.mark.chaos
def test_a_decoder_that_hangs_is_named(data, tmp_path, tally):
    fault = tally("loader processes that die or hang")
    fault.tries()
    command = overrides_for(data, tmp_path, "trainer.workers=1", "data.timeout=3")
    said = no_traceback(Running(command, hang="005.mp4").wait(90))
    assert f"train/5 ({data}/train/005.mp4)" in said
    fault.survives()


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize(
    "overrides", [["trainer.batch_size=24", "backbone.crop=448"], ["backbone.width=4000"]]
)
def test_out_of_memory(data, tmp_path, overrides, tally):
    """A process that may not have much more memory: torch's own error, said with what to lower."""
    fault = tally("out of memory")
    fault.tries()
    done = Broken(overrides_for(data, tmp_path, *overrides), memory=400_000_000).wait()
    said = no_traceback(done)
    assert "out of memory" in said
    assert "trainer.micro_batch" in said
    fault.survives()


@pytest.mark.slow
@pytest.mark.chaos
def test_two_runs_race_for_one_folder(data, tmp_path, rounds, tally):
    fault, wrong = tally("two runs in one folder"), []
    for number in range(rounds):
        fault.tries()
        out = tmp_path / str(number)
        pair = [start(data, out, "trainer.epochs=2000") for _ in range(2)]
        began = time.monotonic()
        while not any(one.over() for one in pair) and time.monotonic() - began < 120:
            time.sleep(0.005)
        time.sleep(0.3)
        left = [one for one in pair if not one.over()]
        for one in left:
            one.signal(signal.SIGKILL)
        done = [one.wait() for one in pair]
        lost = [d for d in done if d.returncode == 2 and "another process is training there" in d.stderr]
        if len(left) != 1 or len(lost) != 1:
            wrong.append([(d.returncode, d.stderr[-300:]) for d in done])
        else:
            fault.survives()
    assert not wrong


# --- classes -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_order_of_classes_is_not_that_of_lines_or_of_a_locale(tmp_path):
    names = ["ä", "a", "Z", "z", "B b", "10", "9a", "é", "_"]
    (tmp_path / "v").mkdir()
    orders = []
    for seed, locale in ((0, "C"), (1, "de_DE.UTF-8"), (2, "tr_TR.UTF-8")):
        rng = np.random.default_rng(seed)
        rows = [f"{i}.mp4,{names[i]}x" for i in rng.permutation(len(names))]
        (tmp_path / "train").write_text("path,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
        (tmp_path / "val").write_text(f"path,label\nv.mp4,{names[0]}x\n", encoding="utf-8")
        code = (
            "import sys; from pathlib import Path; from vmp.prepare.lists import make_list; h = Path(sys.argv[1]);"
            "f = make_list(h / 'out', videos=h / 'v', lists={s: h / s for s in ('train', 'val')}, progress=False,"
            "workers=1); print(f)"
        )
        env = {**os.environ, "LC_ALL": locale, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, text=True, check=True
        )
        orders.append(
            Path(done.stdout.strip()).joinpath("classes.txt").read_text(encoding="utf-8").splitlines()
        )
    assert orders[0] == orders[1] == orders[2] == sorted(f"{name}x" for name in names)


def test_classes_in_another_order_are_not_continued(data, finished, tmp_path):
    """Labels are numbers: two lines of classes.txt exchanged would exchange what they mean."""
    changed = tmp_path / "data"
    shutil.copytree(data, changed)
    (changed / "classes.txt").write_text("darker\nbrighter\n")
    where = folder(tmp_path / "out")
    shutil.copytree(finished, where)
    (where / "result.json").unlink()
    said = no_traceback(run(changed, tmp_path / "out", "trainer.epochs=1"))
    assert "the clips of train and val are not those that the run began with" in said


# --- configs -------------------------------------------------------------------------------------------------------


def composed(*overrides: str):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return check(OmegaConf.to_container(compose("train", list(overrides)), resolve=True))


VALUES = (
    *(
        "0",
        "1",
        "2",
        "-1",
        "0.5",
        "1.0",
        "1.5",
        "1e-3",
        "1e400",
        "-1e400",
        "nan",
        "inf",
        "-inf",
        "true",
        "false",
    ),
    *(
        "null",
        "''",
        "abc",
        "'1'",
        "1_000",
        "0x10",
        "99999999999999999999",
        "1e30",
        "[1,2]",
        "[]",
        "{a:1}",
        "'a/b'",
    ),
    *(
        "..",
        "~",
        "'a b'",
        "ünï",
        "'\\n'",
        "'x'",
        "10x3",
        "auto",
        "none",
        "cpu",
        "cuda:0",
        "steps",
        "[0,11]",
        "0.1",
    ),
)


def leaves(values: dict, prefix: str = "") -> dict[str, object]:
    out = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        out |= leaves(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return out


def asked(text: str):
    """What a value on the command line means, by Hydra's grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    value = OverridesParser.create().parse_override(f"x={text}").value()
    return str(value) if type(value).__name__ == "QuotedString" else value


def in_config(config, key: str):
    for part in key.split("."):
        config = getattr(config, "lambda_" if part == "lambda" else part)
    return config


def same(value, given) -> bool:
    """Whether a checked value is what was asked for, not something that it was bent into."""
    if isinstance(given, str) and isinstance(value, bool | int | float) and not isinstance(value, str):
        return not isinstance(value, bool) and float(given) == value
    if isinstance(value, tuple):
        return list(value) == list(parse_views(given))
    if isinstance(value, bool) or isinstance(given, bool):
        return value == given and (isinstance(value, bool) or not isinstance(given, bool))
    if isinstance(value, float) and isinstance(given, int):
        return value == float(given)
    return value == given or (given == "none" and value is None)


def typing_error(key: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(0, len(key)))
    return (key[:at] + key[at + 1 :], key[:at] + "x" + key[at:], key[:at] + key[at:][::-1])[rng.integers(3)]


def try_configs(seeds) -> tuple[int, list[str]]:
    """How many were accepted, and what went wrong."""
    bases = (
        *([], ["backbone=slowfast"], ["backbone=timesformer"], ["backbone=x3d"], ["vmp=none"], ["vmp=gamma"]),
        *(["dataset=hmdb51"], ["optim=sgd_steps"], ["logger=wandb"], ["vmp=official"]),
    )
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        wholes = [OmegaConf.to_container(compose("train", base), resolve=True) for base in bases]
    accepted, wrong = 0, []
    for seed in seeds:
        rng = np.random.default_rng([7, seed])
        which = int(rng.integers(len(bases)))
        whole = leaves(wholes[which])
        key = list(whole)[rng.integers(len(whole))]
        text = VALUES[rng.integers(len(VALUES))]
        known = rng.random() < 0.8
        name = key if known else typing_error(key, rng)
        known = name in whole
        sign = ("", "+", "++")[rng.integers(3)] if not known else ("", "++")[rng.integers(2)]
        override = f"{sign}{name}={text}"
        said = f"seed {seed}: {' '.join([*bases[which], override])}"
        try:
            config = composed(*bases[which], override)
        except ConfigError as error:
            if not any(part in str(error) for part in name.split(".")) or len(str(error)) > 2000:
                wrong.append(f"{said}: the message does not name the key: {error}")
        except (HydraException, OmegaConfBaseException) as error:
            message = explain(error)
            if not message.strip() or "Traceback" in message:
                wrong.append(f"{said}: {message!r}")
        except Exception as error:
            wrong.append(f"{said}: {type(error).__name__}: {error}")
        else:
            accepted += 1
            if not known:
                wrong.append(f"{said}: accepted, and there is no such key")
                continue
            try:
                value = in_config(config, key)
                as_typed = isinstance(value, str) and value == text  # keys of text take numbers as text
                if not as_typed and not same(value, asked(text)):
                    wrong.append(f"{said}: became {value!r}")
            except (TypeError, ValueError) as error:
                wrong.append(f"{said}: became {in_config(config, key)!r} ({error})")
    return accepted, wrong


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_configs_with_one_value_changed(rounds, tally):
    count = 30 * rounds
    fault = tally("overrides of the config")
    fault.tries(count)
    accepted, wrong = try_configs(range(count))
    fault.survives(count - len(wrong))
    assert not wrong, "\n".join(wrong)
    assert 0 < accepted < count / 2


@pytest.mark.slow
@pytest.mark.chaos
def test_wrong_configs_end_the_real_command(tmp_path, rounds, tally):
    """Exit code 2 and one message."""
    fault = tally("overrides of the config")
    for seed in range(2 * rounds):
        fault.tries()
        rng = np.random.default_rng([9, seed])
        key = ("trainer.epochs", "vmp.lambda", "backbone.frames", "data.reader", "optim.lr", "seed")[
            rng.integers(6)
        ]
        done = Running(
            [f"{key}={('-1', 'abc', 'nan', '[1]', '1e400')[rng.integers(5)]}", f"output='{tmp_path}'"]
        ).wait()
        said = no_traceback(done)
        assert key in said
        assert len(said) < 2000
        assert not list(tmp_path.iterdir())
        fault.survives()
