"""Lists of a user's own videos, from text to measured manifests."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import videos
from hypothesis import given, settings
from hypothesis import strategies as st

from vmp.data.manifest import read_manifest
from vmp.errors import ConfigError, ManifestError
from vmp.prepare.dataset import prepare
from vmp.prepare.list_format import Row, read_list
from vmp.prepare.lists import make_list
from vmp.prepare.plan import DatasetPlan, Item
from vmp.prepare.verify import verify


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Three 25 fps videos of 60 frames, one broken."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my videos").mkdir()
    for name in ("my videos/a clip.mp4", "b.mp4", "ünï 文字.mp4"):
        videos.numbered_video(folder / name, 60)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def make(home, tmp_path, train, val, **options):
    (tmp_path / "train.csv").write_text(train, encoding="utf-8")
    (tmp_path / "val.csv").write_text(val, encoding="utf-8")
    lists = {"train": tmp_path / "train.csv", "val": tmp_path / "val.csv"}
    folder = make_list(
        tmp_path / "out", videos=home, lists=lists, workers=1, **{"progress": False, **options}
    )
    return read_manifest(folder / "train.csv", root=home), read_manifest(folder / "val.csv", root=home)


@pytest.mark.slow
def test_a_csv_with_names_and_seconds(home, tmp_path):
    train, val = make(
        home,
        tmp_path,
        'path,label,start,end\n"my videos/a clip.mp4",walk,0.4,1.0\nb.mp4,run,,\nb.mp4,walk,1.02,\n',
        "path,label\nünï 文字.mp4,run\n",
    )
    assert train.classes == ("run", "walk")
    a, whole, tail = train.clips
    assert (a.label, a.start, a.end, a.length) == (1, 10, 25, 15)  # times in [0.4, 1.0) at 25 fps
    assert (whole.label, whole.length, whole.frames) == (0, 60, 60)
    assert (tail.start, tail.end) == (26, 60)  # 1.02 s lies after frame 25
    assert val.clips[0].readers[0] == "pyav_seek"
    assert (val.clips[0].width, val.clips[0].fps) == (320, 25.0)


def test_a_csv_with_frames(home, tmp_path):
    train, _ = make(
        home,
        tmp_path,
        "path,label,start_frame,end_frame\nb.mp4,0,5,20\nb.mp4,1,20,\nb.mp4,1,20,85\nb.mp4,1,20,86\n",
        "path,label\nünï 文字.mp4,1\n",
    )
    assert [(c.start, c.end) for c in train.clips] == [(5, 20), (20, 60), (20, 60), (20, 86)]
    assert [c.status for c in train.clips] == ["ok", "ok", "ok", "partial"]  # 85 is a second beyond the end


SPANS = [(0.0, 2.4), (1.0, 3.4), (1.0, 3.45), (0.0, 30.0), (2.36, 2.4), (2.4, 2.5), (0.5, 0.52), (0.0, 0.36)]


@pytest.mark.slow
def test_spans_are_judged_as_prepare_judges_them(home, tmp_path):
    """60 frames at 25 per second: a span may reach to 3.4 s."""
    lines = "".join(f"b.mp4,{i % 2},{start},{end}\n" for i, (start, end) in enumerate(SPANS))
    train, _ = make(home, tmp_path, f"path,label,start,end\n{lines}", "ünï 文字.mp4 0\n")
    items = tuple(
        Item(id=f"train/{i:06}", path="b.mp4", label=i % 2, start=start, end=end, unit="seconds")
        for i, (start, end) in enumerate(SPANS)
    )
    plan = DatasetPlan(name="own", classes=("0", "1"), splits={"train": items}, videos=home)
    prepare(plan, tmp_path / "prepared", allow_missing=True, progress=False, workers=1)
    spans = [(c.status, c.start, c.end, "short" in c.tags) for c in train.clips]
    prepared = read_manifest(tmp_path / "prepared/train.csv").clips
    assert spans == [(c.status, c.start, c.end, "short" in c.tags) for c in prepared]
    assert spans == [
        ("ok", 0, 60, False),
        ("ok", 25, 60, False),
        ("partial", 25, 60, False),
        ("partial", 0, 60, False),
        ("ok", 59, 60, True),
        ("partial", 59, 60, False),
        ("ok", 12, 13, True),  # no frame begins in [0.5, 0.52): the one on the screen
        ("ok", 0, 9, False),
    ]


def test_clips_that_cannot_be_used_and_short_ones_are_counted_and_named(home, tmp_path, capsys):
    train, _ = make(
        home,
        tmp_path,
        "path,label,start,end\nb.mp4,run,0,30\nb.mp4,walk,0,0.5\nb.mp4,walk,0.4,0.44\nabsent.mp4,run,,\n",
        "path,label\nünï 文字.mp4,run\n",
        progress=True,
    )
    hint = "0 to 30 s of a video whose frames are shown from 0.00 to 2.40 s; if 0 to 30 are frames and not seconds, "
    hint += "name the columns start_frame"
    assert train.clips[0].tags["problem"].startswith(hint)
    message = capsys.readouterr().out
    table = {
        line.split()[0]: line.split()[1:]
        for line in message.splitlines()
        if line.startswith(("train", "val"))
    }
    # expected, found, missing, unreadable, partial, short
    assert table == {"train": ["4", "3", "1", "0", "1", "1"], "val": ["1", "1", "0", "0", "0", "0"]}
    assert f"train.csv:2: b.mp4: partial, {hint}" in message
    assert "train.csv:5: absent.mp4: missing, not found" in message
    assert "train.csv:4: b.mp4: 1 frame(s)" in message


def test_classes_that_look_alike_are_named(home, tmp_path, capsys):
    """They stay classes of their own, since nobody but the user can know."""
    train, _ = make(
        home,
        tmp_path,
        "path,label\nb.mp4,Pour water\nünï 文字.mp4,pour_water\nmy videos/a clip.mp4,walk\n",
        "path,label\nbroken.mp4,walk\n",
        progress=True,
    )
    assert train.classes == ("Pour water", "pour_water", "walk")
    message = capsys.readouterr().out
    assert "1 group(s) of classes look alike" in message
    assert "  'Pour water' and 'pour_water'\n" in message


def test_a_list_split_at_the_last_blank(home, tmp_path):
    train, val = make(home, tmp_path, "my videos/a clip.mp4 0\nb.mp4 1 \r\n\n", "ünï 文字.mp4\t1\n")
    assert [(c.path, c.label) for c in train.clips] == [("my videos/a clip.mp4", 0), ("b.mp4", 1)]
    assert val.classes == ("0", "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "train", "val", "ids"),
    [
        ("walk run fly", "fly walk", "run", [2, 0, 1]),
        ("walk run fly", "0 2", "1", [0, 2, 1]),
        ("walk run fly", "2 0", "run", [2, 0, 1]),  # each list in its own way
        ("0 1 2", "0 1", "2", [0, 1, 2]),  # name and number agree
        ("1 2 3", "1 3", "3", [0, 2, 2]),  # 3 is no number of one of three classes: all are names
        ("10 2 run", "10 run", "run", [0, 2, 2]),
    ],
)
def test_labels_are_names_of_classes_or_their_numbers(home, tmp_path, classes, train, val, ids):
    assert [clip.label for m in with_classes(home, tmp_path, classes, train, val) for clip in m.clips] == ids


@pytest.mark.parametrize(
    ("classes", "train", "val", "message"),
    [
        (
            "1 2 3",
            "0 1",
            "2",
            r"train.csv:3: label '1' is the name of class 0 in .*classes.txt, and the number of class '2'",
        ),
        ("1 2 3", "3 1", "2", r"val.csv:2: label '2' is the name of class 1"),
        (
            "01 02 03",
            "0 1",
            "2",
            r"train.csv:3: label '1' is the name of class 0, '01', in .*classes.txt, and the number of class '02'",
        ),
        (
            "walk run",
            "1 01 1 0",
            "1",
            r"1 label\(s\) .*\n  .*train.csv:3: label '01' of b.mp4: other labels spell this number '1'",
        ),
        (
            "walk run",
            "walk 1",
            "run",
            r"train.csv:3: label 1 is a number, and other labels of the list are names",
        ),
        ("walk run", "walk fly", "run", r"train.csv:3: label 'fly' is not a whole number, nor a class in"),
        ("walk run", "0 2", "0", r"train.csv:3: label 2 is outside 0..1 .*, nor a class in"),
    ],
)
def test_a_label_that_may_be_a_name_or_a_number_is_refused(home, tmp_path, classes, train, val, message):
    with pytest.raises(ManifestError, match=message):
        with_classes(home, tmp_path, classes, train, val)


def test_one_number_in_two_spellings_is_refused_where_numbers_are_classes(home, tmp_path):
    with pytest.raises(
        ManifestError, match=r"val.csv:1: label '1' of .*: other labels spell this number '01'"
    ):
        make(home, tmp_path, "b.mp4 00\nmy videos/a clip.mp4 01\n", "ünï 文字.mp4 1\n")
    train, _ = make(home, tmp_path, "b.mp4 00\nmy videos/a clip.mp4 01\n", "ünï 文字.mp4 01\n")
    assert (train.classes, [clip.label for clip in train.clips]) == (("0", "1"), [0, 1])


def with_classes(home, tmp_path, classes, train, val):
    (tmp_path / "classes.txt").write_text(classes.replace(" ", "\n") + "\n")
    lists = (
        "path,label,start\n" + "".join(f"b.mp4,{label},{i}\n" for i, label in enumerate(labels.split()))
        for labels in (train, val)
    )
    return make(home, tmp_path, *lists, classes_file=tmp_path / "classes.txt")


def test_bad_files_keep_their_row_and_their_reason(home, tmp_path):
    train, _ = make(home, tmp_path, "broken.mp4 0\nabsent.mp4 1\nb.mp4 1\n", "ünï 文字.mp4 0\n")
    assert [c.status for c in train.clips] == ["unreadable", "missing", "ok"]
    assert train.clips[1].tags["problem"] == "not found"


@pytest.mark.slow
def test_a_lists_manifest_knows_where_its_videos_are(home, tmp_path):
    train, _ = make(home, tmp_path, "b.mp4 0\nmy videos/a clip.mp4 1\n", "ünï 文字.mp4 1\n")
    text = train.path.read_text()
    assert read_manifest(train.path).root == home
    found = verify(train.path, progress=False, workers=1)
    assert found.ok
    assert found.counts == {"ok": 2, "missing": 0, "unreadable": 0, "partial": 0}
    assert train.path.read_text() == text
    assert not list(train.path.parent.glob("*before-verify*"))


def test_files_are_measured_once(home, tmp_path, monkeypatch):
    make(home, tmp_path, "b.mp4 0\nünï 文字.mp4 1\n", "b.mp4 0\n")
    import vmp.prepare.measure as measuring

    asked = []
    monkeypatch.setattr(measuring, "measure_all", lambda paths, **k: asked.extend(paths) or iter(()))
    make(home, tmp_path, "b.mp4 1\nünï 文字.mp4 0\n", "b.mp4 1\n")
    assert asked == []


def test_files_of_the_same_name_elsewhere_are_named(home, tmp_path, capsys):
    train = "b.mp4 0\nclips/a clip.mp4 1\nnone/ünï 文字.mp4 1\nnone/gone.mp4 1\n"
    make(home, tmp_path, train, "b.mp4 0\n", progress=True)
    said = capsys.readouterr().out
    assert f"2 of 3 missing files have their name elsewhere in {home}:" in said
    assert "  clips/a clip.mp4: my videos/a clip.mp4\n  none/ünï 文字.mp4: ünï 文字.mp4\n" in said


def test_a_video_that_changes_while_it_is_measured_is_measured_again(tmp_path, monkeypatch):
    """As one that is still being copied."""
    import vmp.prepare.measure as measuring

    lengths = [12, 9]

    def measured(paths, **_):
        for path in paths:
            found = measuring.measure(path, readers=())
            videos.numbered_video(path, lengths[0])
            yield path, found

    videos.numbered_video(tmp_path / "a.mp4", lengths[1])
    monkeypatch.setattr(measuring, "measure_all", measured)
    for _ in range(2):
        found = measuring.measure_cached(tmp_path / "measured.jsonl", tmp_path, ["a.mp4"], progress=False)
        assert found["a.mp4"].frames == lengths.pop()


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        ("b.mp4\n", "b.mp4 0\n", "train.csv:1: 'b.mp4' is not `path label`"),
        ("b.mp4 0\nc.mp4 x1\n", "b.mp4 0\n", "train.csv:2"),
        ("b.mp4 -1\n", "b.mp4 0\n", "label -1 is not a class number"),
        ("b.mp4 0\nc.mp4 1700000000000\n", "b.mp4 0\n", "never occur"),
        ('path,label\nb.mp4,"x\ny"\n', "path,label\nb.mp4,z\n", "control character"),
        ("../b.mp4 0\n", "b.mp4 0\n", "climbs out"),
        ("b.mp4 0\nb.mp4 0\n", "b.mp4 0\n", r"train.csv:2: b\.mp4 is on line 1, too"),
        ("b.mp4 0\n", "ünï 文字.mp4 2\n", "1 never occur"),
        (
            "path,label\nb.mp4,x\nb.mp4,y\n",
            "path,label\nb.mp4,z\n",
            r"train.csv:3: b\.mp4 is on line 2, too, there as 'x' and here as 'y'",
        ),
        (
            "path,label,start\nb.mp4,x,0\nb.mp4,y,1\n",
            "path,label\nb.mp4,z\n",
            "'z' is in val but not in train",
        ),
        ("path,label\nb.mp4,x\n", "path,label\nb.mp4,x\n", "at least 2"),
        ("path,label\nb.mp4,x\n,y\n", "path,label\nb.mp4,x\n", "train.csv:3: path is empty"),
        ("b.mp4 0\n", "b.mp4 0\nünï 文字.mp4 1\n", "val.csv:2: class '1' is in val but not in train"),
        ("path,label,start,end\nb.mp4,0,1,0.5\n", "b.mp4 1\n", "train.csv:2: end 0.5 must be after"),
        ("path,label,start,end\nb.mp4,0,x,\n", "b.mp4 1\n", "not a time in seconds"),
        ("path,label,weight\nb.mp4,0,1\n", "b.mp4 1\n", "weight not known"),
        ("path,label,start,end_frame\nb.mp4,0,1,2\n", "b.mp4 1\n", "in seconds .* or in frames"),
        ("", "b.mp4 1\n", "no clips"),
    ],
)
def test_faults_are_reported_with_their_line(home, tmp_path, train, val, message):
    with pytest.raises(ManifestError, match=message):
        make(home, tmp_path, train, val)


def test_missing_folders_and_files(tmp_path):
    with pytest.raises(ConfigError, match=r"dataset.root = .*no such folder"):
        make_list(tmp_path / "out", videos=tmp_path / "none", lists={})
    with pytest.raises(ConfigError, match=r"dataset.val = .*no such file"):
        make_list(tmp_path / "out", videos=tmp_path, lists={"val": tmp_path / "none.csv"})


paths = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12).filter(
    lambda t: (
        t == t.strip(" \t,;")
        and t.strip() == t
        and t.split()
        and not t.startswith(("/", "~", "\\", "\ufeff"))
        and ".." not in t
        and ":" not in t
        and '"' not in t
        and not t[-1].isdigit()
        and len(t.splitlines()) == 1
    )
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(paths, st.integers(0, 9)), min_size=1, max_size=6, unique_by=lambda p: p[0]),
    st.sampled_from(" \t,"),
)
def test_lists_of_any_names_are_read_back(tmp_path_factory, rows, separator):
    file = tmp_path_factory.mktemp("lists") / "list.txt"
    file.write_text("".join(f"x/{path}.mp4{separator}{label}\n" for path, label in rows), encoding="utf-8")
    got = read_list(file)
    assert [(r.path, r.label) for r in got] == [(f"x/{path}.mp4", str(label)) for path, label in rows]


@settings(max_examples=300, deadline=None)
@given(
    data=st.binary(max_size=120), header=st.sampled_from([b"", b"path,label\n", b"path,label,start,end\n"])
)
def test_any_bytes_give_rows_or_a_message(tmp_path_factory, data, header):
    file = tmp_path_factory.mktemp("fuzz") / "list.csv"
    file.write_bytes(header + data)
    try:
        rows = read_list(file)
    except ManifestError as error:
        assert "list.csv" in str(error)
    else:
        assert all(isinstance(row, Row) and row.path and row.label for row in rows)


@pytest.mark.slow
def test_the_order_of_classes_depends_on_neither_lines_nor_locale(tmp_path):
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
