"""Lists of videos: formats, separators and headers of public tools, and which files they mean."""

import json
import os
from pathlib import Path

import pytest
import videos

from vmp.data.manifest import read_manifest
from vmp.errors import ConfigError, ManifestError
from vmp.prepare.list_format import read_list
from vmp.prepare.lists import make_list
from vmp.prepare.locate import Locator

ROWS = [("v/a b.mp4", "0"), ("v/c.mp4", "1")]
FORMS = {
    "PySlowFast, TimeSformer, mmaction2, VideoMAE": "v/a b.mp4 0\nv/c.mp4 1\n",
    "with commas": "v/a b.mp4,0\nv/c.mp4,1\n",
    "with commas and blanks": "v/a b.mp4, 0\nv/c.mp4, 1\n",
    "with tabs": "v/a b.mp4\t0\r\nv/c.mp4\t1\r\n",
    "with semicolons": "v/a b.mp4;0\nv/c.mp4;1\n",
    "quoted by pandas, no header": '"v/a b.mp4",0\nv/c.mp4,1\n',
    "quoted at blanks": '"v/a b.mp4" 0\nv/c.mp4 1\n',
    "all quoted": '"v/a b.mp4","0"\n"v/c.mp4","1"\n',
    "frames before the label": "v/a b.mp4 60 0\nv/c.mp4 60 1\n",
    "frames, with commas and quotes": '"v/a b.mp4",60,0\n"v/c.mp4",60,1\n',
    "Path,Label": "Path,Label\nv/a b.mp4,0\nv/c.mp4,1\n",
    "video_path,label": "video_path,label\nv/a b.mp4,0\nv/c.mp4,1\n",
    "Video Path, class id": "Video Path, Class ID\nv/a b.mp4, 0\nv/c.mp4, 1\n",
    "path;label": "path;label\nv/a b.mp4;0\nv/c.mp4;1\n",
    "tabs under a header": "filename\tlabel\nv/a b.mp4\t0\nv/c.mp4\t1\n",
    "quotes under a header": 'path,label\n"v/a b.mp4","0"\n"v/c.mp4","1"\n',
    "blanks under a header": 'path label\n"v/a b.mp4" 0\nv/c.mp4 1\n',
    "pandas with its index": ",path,label\n0,v/a b.mp4,0\n1,v/c.mp4,1\n",
    "pandas with its index, twice": "Unnamed: 0,path,label\n0,v/a b.mp4,0\n1,v/c.mp4,1\n",
    "columns in another order": "label,path,fps,num_frames\n0,v/a b.mp4,25,60\n1,v/c.mp4,25,60\n",
    "Kaggle's UCF101": "clip_name,clip_path,label\na b,v/a b.mp4,0\nc,v/c.mp4,1\n",
    "Excel, with a column that is empty": "\ufeffpath;label;;\r\nv/a b.mp4;0;;\r\nv/c.mp4;1;;\r\n;;;\r\n",
    "Excel without a header, with lines that are empty": "v/a b.mp4;0\r\nv/c.mp4;1\r\n;\r\n",
    "empty cells at the ends of some lines": "path,label\nv/a b.mp4,0,\nv/c.mp4,1\n",
    "blanks before quotes": 'path, label\n"v/a b.mp4", "0"\nv/c.mp4, "1"\n',
    "a byte order mark": "\ufeffpath,label\nv/a b.mp4,0\nv/c.mp4,1\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_formats(tmp_path, form):
    (tmp_path / "list.csv").write_text(FORMS[form], encoding="utf-8")
    rows = read_list(tmp_path / "list.csv")
    assert [(row.path, row.label) for row in rows] == ROWS
    assert all(row.start is None and row.end is None and not row.id for row in rows)
    assert {row.counted for row in rows} == ({60} if "frames" in form else {None})


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_names_of_classes_without_a_header(tmp_path, separator):
    (tmp_path / "list.txt").write_text(f"v/a b.mp4{separator}pour water\nv/c.mp4{separator}walk\n")
    assert [(r.path, r.label) for r in read_list(tmp_path / "list.txt")] == [
        ("v/a b.mp4", "pour water"),
        ("v/c.mp4", "walk"),
    ]


def test_something_something_v1(tmp_path):
    (tmp_path / "list.csv").write_text("100218;Something falling, like a feather\n24413;Hitting something\n")
    assert [(r.path, r.label) for r in read_list(tmp_path / "list.csv")] == [
        ("100218", "Something falling, like a feather"),
        ("24413", "Hitting something"),
    ]


@pytest.mark.parametrize("names", ["start,end", "time_start,time_end", "start_time,end_time", "Start,End"])
def test_spans_under_their_usual_names(tmp_path, names):
    (tmp_path / "list.csv").write_text(f"path,label,{names}\na.mp4,x,1.5,3\n")
    (row,) = read_list(tmp_path / "list.csv")
    assert (row.start, row.end, row.frames) == (1.5, 3, False)


MIXED = "path,label,split\na.mp4,x,train\nb.mp4,y,Validation\nc.mp4,x,train\n"


def test_a_file_of_all_splits(tmp_path):
    (tmp_path / "all.csv").write_text(MIXED)
    assert [row.path for row in read_list(tmp_path / "all.csv", "train")] == ["a.mp4", "c.mp4"]
    assert [row.path for row in read_list(tmp_path / "all.csv", "val")] == ["b.mp4"]
    with pytest.raises(ManifestError, match="no row of test in column split, which holds train, validation"):
        read_list(tmp_path / "all.csv", "test")
    (tmp_path / "all.csv").write_text(f"{MIXED}d.mp4,y,unused\n")
    assert len(read_list(tmp_path / "all.csv", "train")) == 2
    (tmp_path / "all.csv").write_text("path,label,split\nd.mp4,y,unused\n")
    with pytest.raises(ManifestError, match="no row of train in column split, which holds unused"):
        read_list(tmp_path / "all.csv", "train")


@pytest.mark.parametrize(("written", "fps"), [("30000/1001", 29.97), ("25", 25), ("0/0", 0), ("?", 0)])
def test_frame_rates_as_ffprobe_writes_them(tmp_path, written, fps):
    (tmp_path / "all.csv").write_text(f"path,label,fps\na,x,{written}\n")
    assert read_list(tmp_path / "all.csv")[0].fps == pytest.approx(fps, abs=1e-3)


@pytest.mark.parametrize("written", ["25 fps", "-25", "25/0", "1e999", "25,5"])
def test_frame_rates_that_are_none_are_errors(tmp_path, written):
    (tmp_path / "all.csv").write_text(f'path,label,fps\na,x,25\nb,x,"{written}"\n')
    with pytest.raises(ManifestError, match=rf"all.csv:3: fps '{written}' is no frame rate"):
        read_list(tmp_path / "all.csv")


def test_a_quote_that_is_not_closed_is_named_where_it_opens(tmp_path):
    (tmp_path / "all.csv").write_text('path,label\na.mp4,x\n"b.mp4,y\nc.mp4,x\n')
    with pytest.raises(ManifestError, match=r"all.csv:3: a quote opens here and is not closed"):
        read_list(tmp_path / "all.csv")


@pytest.mark.parametrize("word", ["tarin", ""])
def test_rows_of_no_known_split_are_not_left_out_silently(tmp_path, word):
    (tmp_path / "all.csv").write_text(f"{MIXED}d.mp4,y,{word}\n")
    with pytest.raises(
        ManifestError, match=f"all.csv:5: split '{word}'; allowed are train, val, test and unused"
    ):
        read_list(tmp_path / "all.csv", "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip|klass\na.mp4|0\n", r"list.csv:1: 'clip\|klass' is not `path label`.*'\|' is no separator"),
        (
            "Footage,Klass\na.mp4,x\n",
            r"found 'Footage, Klass'; wanted is a header with columns such as path,label",
        ),
        (
            "path,klass\na.mp4,x\n",
            r"list.csv:1: the first line does not name the columns that are needed: found 'path, klass'",
        ),
        ("path\na.mp4\n", r"list.csv:1: .* the columns that are needed: found 'path'; wanted"),
        ("path,label,weight\na.mp4,x,1\n", r"weight not known; found path, label, weight; wanted is"),
        ("path,label,class_id\na.mp4,x,1\n", r"2 columns of labels, label, class_id"),
        (
            "clip,video,label\na.mp4,b.mp4,x\n",
            r"2 columns of files, video, clip; keep one and remove the other",
        ),
        ("path,label,video\na.mp4,x,b.mp4\n", r"2 columns of files, path, video;"),
        ("filename,label,video\na.mp4,x,b.mp4\n", r"2 columns of files, filename, video;"),
        ("path,label,class_name\na.mp4,1,x\n", r"2 columns of labels, label, class_name;"),
        ("path,label,Label\na.mp4,x,1\n", r"columns label and Label are the same"),
        ("path,label,start,start_time\na.mp4,x,1,1\n", r"once; found start, start_time"),
        ("a.mp4 0 1 2\nb.mp4 1 2 3\n", r"list.csv:1: .* has several numbers"),
        ("a.mp4 60 1\nb.mp4 1\nc.mp4 60 0\n", r"list.csv:2: one behind the path, unlike other lines"),
        ('[{"id": "1", "template": "x"}]', r"looks like JSON"),
        ("x.mp4,a.mp4;y\n", r"lines may be split at comma or semicolon; put the paths and labels in quotes"),
    ],
)
def test_ambiguous_lists_are_refused_with_what_was_found(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_list(tmp_path / "list.csv")


def test_a_group_in_two_lists_is_refused(tmp_path):
    (tmp_path / "all.csv").write_text("path,label,group,split\na.mp4,x,p,train\nb.mp4,y,p,val\n")
    lists = dict.fromkeys(("train", "val"), tmp_path / "all.csv")
    with pytest.raises(ManifestError, match=r"group 'p': a.mp4 in train, b.mp4 in val"):
        make_list(tmp_path / "out", videos=tmp_path, lists=lists)
    (tmp_path / "all.csv").write_text("path,label,group,split\na.mp4,x,p,train\nb.mp4,y,P,val\n")
    with pytest.raises(
        ManifestError, match=r"group 'P' and 'p': a.mp4 in train, b.mp4 in val\nSpell a group alike"
    ):
        make_list(tmp_path / "out", videos=tmp_path, lists=lists)


def test_one_list_for_validation_and_test_is_refused(tmp_path):
    (tmp_path / "train.csv").write_text("path,label\na.mp4,x\nb.mp4,y\n")
    (tmp_path / "val.csv").write_text("path,label\nc.mp4,x\n")
    (tmp_path / "test.csv").symlink_to("val.csv")
    lists = {split: tmp_path / f"{split}.csv" for split in ("train", "val", "test")}
    with pytest.raises(ConfigError, match=r"dataset.val and dataset.test are one list, .*test.csv"):
        make_list(tmp_path / "out", videos=tmp_path, lists=lists)
    rows = "a.mp4,x,train\nb.mp4,y,train\nc.mp4,x,val\nd.mp4,x,test\n"
    (tmp_path / "val.csv").write_text(f"path,label,split\n{rows}")
    lists["train"] = lists["val"]
    assert make_list(tmp_path / "out", videos=tmp_path, lists=lists, progress=False).is_dir()


def test_split_files_of_hmdb51_are_refused_as_lists(tmp_path):
    (tmp_path / "climb_test_split1.txt").write_text("a.avi 1 \nb.avi 2 \n")
    with pytest.raises(ManifestError, match=r"prepare.py hmdb51"):
        read_list(tmp_path / "climb_test_split1.txt")


# --- files ---------------------------------------------------------------------------------------------------------

HELD = (
    *("v0.mp4", "sub/v0.mp4", "sub/deep/one.webm", "back\\slash.mp4", "Cat video [dQw4w9WgXcQ].mp4"),
    *(
        "My-title-_-abcdefg_9.mkv",
        "--0BJ-j7tg8_000004_000014.mp4",
        "clip_01.mp4",
        "twice/x.mp4",
        "twice/x.mkv",
    ),
    *("cafe\u0301.mp4", "motion.gif", "cased/y.mp4", "cased/Y.mp4"),
)


@pytest.fixture
def root(tmp_path):
    for name in HELD:
        (tmp_path / "data/v" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/v" / name).touch()
    (tmp_path / "outside.mp4").touch()
    return tmp_path / "data/v"


def located(root: Path, line: str, header: str = "", file: str = "list.csv") -> tuple:
    (root.parent / file).write_text(header + line + "\n")
    (row,) = read_list(root.parent / file)
    row = Locator(root).locate(row, root.parent / file)
    return row.path, row.start, row.end


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("sub/v0.mp4", "sub/v0.mp4"),
        ("{root}/sub/v0.mp4", "sub/v0.mp4"),
        ("{root}/sub/./v0.mp4", "sub/v0.mp4"),
        ("sub\\v0.mp4", "sub/v0.mp4"),
        ("back\\slash.mp4", "back\\slash.mp4"),  # a file that is there as written
        ("v/sub/v0.mp4", "sub/v0.mp4"),  # from the list's folder
        ("./v/v0.mp4", "v0.mp4"),
        ("absent.mp4", "absent.mp4"),
        ("{root}/absent.mp4", "absent.mp4"),
        ("deep/one", "sub/deep/one.webm"),  # a folder of frames with the video's name
        ("clip_01", "clip_01.mp4"),
        ("Clip_01.MP4", "clip_01.mp4"),  # from a system that takes these for the same
        ("SUB/V0.mp4", "sub/v0.mp4"),
        ("sub/deep/One.webm", "sub/deep/one.webm"),
        ("caf\u00e9.mp4", "cafe\u0301.mp4"),  # as Windows and Linux write it, as macOS does
        ("motion", "motion.gif"),
        ("clip_02", "clip_02"),
    ],
)
def test_paths_as_written(root, written, meant):
    assert located(root, f"{written.format(root=root)} 0")[0] == meant


def test_a_root_behind_a_link_and_one_that_is_relative(root, tmp_path, monkeypatch):
    os.symlink(root, tmp_path / "link")
    assert located(tmp_path / "link", f"{root}/sub/v0.mp4 0")[0] == "sub/v0.mp4"
    assert located(tmp_path / "link", f"{tmp_path}/link/sub/v0.mp4 0")[0] == "sub/v0.mp4"
    monkeypatch.chdir(tmp_path)
    assert located(Path("data/v"), "data/v/sub/v0.mp4 0")[0] == "sub/v0.mp4"


KINETICS = "label,youtube_id,time_start,time_end,split\n"


@pytest.mark.parametrize(
    ("id", "meant"),
    [
        ("dQw4w9WgXcQ", ("Cat video [dQw4w9WgXcQ].mp4", 4, 14)),
        ("_-abcdefg_9", ("My-title-_-abcdefg_9.mkv", 4, 14)),
        ("--0BJ-j7tg8", ("--0BJ-j7tg8_000004_000014.mp4", None, None)),  # was cut out already
        ("00000000000", ("00000000000", 4, 14)),  # is not there
    ],
)
def test_the_official_csv_of_kinetics(root, id, meant):
    assert located(root, f"shaking hands,{id},4,14,train", KINETICS) == meant


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{root}/../../outside.mp4", "climbs out"),
        ("{root}x/v0.mp4", "is not in the dataset root"),
        ("../../outside.mp4", "climbs out"),
        ("sub\\..\\..\\..\\outside.mp4", "climbs out"),
        ("/etc/passwd", "is not in the dataset root"),
        ("C:\\videos\\v0.mp4", "must be relative"),
        ("https://example.org/v0.mp4", "is a URL"),
        ("Cased/y.mp4", r"may be any of 2 files: cased/Y.mp4, cased/y.mp4"),
        ("twice/x", r"may be any of 2 files: twice/x.mkv, twice/x.mp4"),
    ],
)
def test_paths_that_are_refused(root, written, message):
    with pytest.raises(ValueError, match=message):
        located(root, f"{written.format(root=root)} 0")


def make_small(tmp_path: Path, val: str) -> None:
    """Lists of three videos, of which b.mp4 is a copy of a.mp4 and c.mp4 has another size."""
    home = tmp_path / "v"
    home.mkdir()
    videos.numbered_video(home / "a.mp4", 9)
    (home / "b.mp4").write_bytes((home / "a.mp4").read_bytes())
    videos.numbered_video(home / "c.mp4", 12)
    (tmp_path / "train.csv").write_text("path,label\na.mp4,kick\nc.mp4,wave\n")
    (tmp_path / "val.csv").write_text(f"path,label\n{val}\n")
    lists = {split: tmp_path / f"{split}.csv" for split in ("train", "val")}
    make_list(tmp_path / "out", videos=home, lists=lists, workers=1)


def test_copies_on_two_sides_are_named(tmp_path, capsys):
    make_small(tmp_path, "b.mp4,kick")
    said = capsys.readouterr().out
    assert "warning: 1 clip(s) are copies, byte for byte, of files of another split:" in said
    assert f"{tmp_path}/val.csv:2: b.mp4 of val is a.mp4 of train\n" in said


@pytest.mark.parametrize(("span", "named"), [("0.2,0.36", True), ("0.28,", True), ("0.32,0.36", False)])
@pytest.mark.parametrize("trained", ["start,end\na.mp4,x,0,0.32", "start_frame,end_frame\na.mp4,x,0,8"])
def test_overlapping_spans_of_copies_on_two_sides_are_named(tmp_path, capsys, trained, span, named):
    """Of nine frames at 25 per second; one list may count seconds and the other frames."""
    videos.numbered_video(tmp_path / "a.mp4", 9)
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    videos.numbered_video(tmp_path / "c.mp4", 12)
    (tmp_path / "train.csv").write_text(f"path,label,{trained}\nc.mp4,y,,\n")
    (tmp_path / "val.csv").write_text(f"path,label,start,end\nb.mp4,x,{span}\n")
    lists = {split: tmp_path / f"{split}.csv" for split in ("train", "val")}
    make_list(tmp_path / "out", videos=tmp_path, lists=lists, workers=1)
    said = capsys.readouterr().out
    assert said.count(f"{tmp_path}/val.csv:2: b.mp4 of val is a.mp4 of train\n") == named


def test_classes_that_are_not_tested_are_named(tmp_path, capsys):
    make_small(tmp_path, "b.mp4,kick")
    assert "1 of 2 classes have no clip in val: 'wave'\n" in capsys.readouterr().out


def test_a_folder_instead_of_a_list(tmp_path):
    with pytest.raises(ConfigError, match=r"dataset.train = .*: a folder; name the list in it"):
        make_list(tmp_path / "out", videos=tmp_path, lists={"train": tmp_path, "val": tmp_path})


def test_times_that_are_no_numbers(tmp_path):
    (tmp_path / "list.csv").write_text("path;label;start;end\na.mp4;x;0,5;1\nb.mp4;x;0:01;0:02\n")
    with pytest.raises(
        ManifestError, match=r"start '0,5' is not a time in seconds from 0 up, such as 90 or 1.5"
    ):
        read_list(tmp_path / "list.csv")


@pytest.mark.slow
def test_lists_of_several_formats_make_one_dataset(tmp_path):
    """End to end on real files: a list of frames, and the CSV of Kinetics with videos as yt-dlp names them."""
    home = tmp_path / "v"
    home.mkdir()
    for name in ("a.mp4", "b.mp4"):
        videos.numbered_video(home / name, 20)
    videos.numbered_video(home / "Title [dQw4w9WgXcQ].mp4", 50)
    train, val = tmp_path / "train.txt", tmp_path / "val.csv"
    train.write_text("a 20 0\nb 20 1\n")
    val.write_text(f"{KINETICS}1,dQw4w9WgXcQ,0.4,1,validate\n")

    def make():
        return make_list(
            tmp_path / "out", videos=home, lists={"train": train, "val": val}, progress=False, workers=1
        )

    folder = make()
    found = [read_manifest(folder / f"{split}.csv").clips for split in ("train", "val")]
    assert [[(c.path, c.label, c.start, c.end, c.status) for c in clips] for clips in found] == [
        [("a.mp4", 0, 0, None, "ok"), ("b.mp4", 1, 0, None, "ok")],
        [("Title [dQw4w9WgXcQ].mp4", 1, 10, 25, "ok")],
    ]
    assert json.loads((folder / "dataset.json").read_text()) == {"root": str(home)}
    train.write_text("a 3 0\nb 7 1\n")  # two labels?
    with pytest.raises(
        ManifestError, match=r"2 of 2 videos have other numbers of frames:\n.*train.txt:1: a.mp4: 3 in"
    ):
        make()
