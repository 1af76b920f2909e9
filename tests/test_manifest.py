"""Manifests: what is written is read back, and every fault is told with file and line."""

import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vmp.choices import MOST_FPS
from vmp.data.columns import Clip
from vmp.data.manifest import (
    COLUMNS,
    check_relative,
    inside,
    read_classes,
    read_manifest,
    write_classes,
    write_manifest,
)
from vmp.errors import ManifestError

HEADER = ",".join(COLUMNS)


def write(folder, *rows, header=HEADER, classes="a\nb\n"):
    (folder / "classes.txt").write_text(classes)
    path = folder / "train.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


words = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(
    lambda t: t.strip() == t and t not in (".", "..") and t[0] not in "/~\\" and ":" not in t and "/" not in t
)


@settings(max_examples=100, deadline=None)
@given(
    names=st.lists(st.tuples(words, words), min_size=1, max_size=5, unique_by=lambda pair: pair[0]),
    start=st.integers(0, 50),
    readers=st.sampled_from([(), ("pyav",), ("opencv", "pyav")]),
    tag=words,
)
@example(names=[("line\u2028separator", "next\x85line")], start=0, readers=(), tag="a\u2029b")
def test_round_trip(tmp_path_factory, names, start, readers, tag):
    folder = tmp_path_factory.mktemp("manifest")
    write_classes(folder / "classes.txt", ["walk", "run"])
    clips = [
        Clip(
            id=name, path=f"{directory}/{name}.mp4", label=i % 2, start=start, end=start + 9, frames=100, fps=25.0,
            width=64, height=48, readers=readers, tags={"source": tag},
        )
        for i, (name, directory) in enumerate(names)
    ]  # fmt: skip
    write_manifest(folder / "train.csv", clips)
    manifest = read_manifest(folder / "train.csv")
    assert list(manifest.clips) == clips
    assert manifest.classes == ("walk", "run")


def test_the_fastest_rate_that_is_accepted_is_read_again(tmp_path):
    write_classes(tmp_path / "classes.txt", ["walk", "run"])
    write_manifest(
        tmp_path / "train.csv", [Clip(id="a", path="a.mp4", label=0, frames=9, fps=MOST_FPS - 0.1)]
    )
    assert read_manifest(tmp_path / "train.csv").clips[0].fps == MOST_FPS


def test_length_counts_the_span():
    assert Clip("a", "a.mp4", 0, frames=100).length == 100
    assert Clip("a", "a.mp4", 0, start=10, end=20, frames=100).length == 10
    assert Clip("a", "a.mp4", 0, start=90, end=120, frames=100).length == 10


@pytest.mark.parametrize("path", ["5:03.mp4", "kick: 2.mp4", "a/C:x.mp4", "A: walking/0.mp4"])
def test_colons_in_names_are_no_drives(tmp_path, path):
    assert read_manifest(write(tmp_path, f"a,{path},0,,,9,25,64,64,ok,")).clips[0].path == path


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,../x.mp4,0,,,9,25,64,64,ok,", "'\\.\\.'"),
        ("a,x/../../y.mp4,0,,,9,25,64,64,ok,", "'\\.\\.'"),
        ("a,/etc/passwd,0,,,9,25,64,64,ok,", "relative"),
        ("a,~/x.mp4,0,,,9,25,64,64,ok,", "relative"),
        ("a,C:\\x.mp4,0,,,9,25,64,64,ok,", "relative"),
        ("a,,0,,,9,25,64,64,ok,", "path is empty"),
        (",x.mp4,0,,,9,25,64,64,ok,", "id is empty"),
        ("a,x.mp4,2,,,9,25,64,64,ok,", "outside 0..1"),
        ("a,x.mp4,-1,,,9,25,64,64,ok,", "outside 0..1"),
        ("a,x.mp4,walk,,,9,25,64,64,ok,", "not a whole number"),
        ("a,x.mp4,1.0,,,9,25,64,64,ok,", "not a whole number"),
        ("a,x.mp4,0,5,5,9,25,64,64,ok,", "after start"),
        ("a,x.mp4,0,-3,5,9,25,64,64,ok,", "start '-3'"),
        ("a,x.mp4,0,12,20,9,25,64,64,ok,", "not before the end of the file"),
        ("a,x.mp4,0,,,,25,64,64,ok,", "not measured"),
        ("a,x.mp4,0,,,9,nan,64,64,ok,", "frames per second"),
        ("a,x.mp4,0,,,9,25,9999999999,64,ok,", "width .9999999999. is not a whole number"),
        ("a,x.mp4,0,,,9,25,64,64,fine,", "missing, unreadable"),
        ("a,x.mp4,0", "3 cells under 11"),
        ('a,"x\ty.mp4",0,,,9,25,64,64,ok,', "control character"),
    ],
)
def test_faults_are_reported_with_their_line(tmp_path, row, message):
    path = write(tmp_path, "ok,x.mp4,0,,,9,25,64,64,ok,", row)
    with pytest.raises(ManifestError, match=f"train.csv:3: .*{message}"):
        read_manifest(path)


def test_every_fault_is_listed_at_once(tmp_path):
    path = write(tmp_path, *(f"{i},x.mp4,7,,,9,25,64,64,ok," for i in range(30)))
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    text = str(caught.value)
    assert text.startswith("30 row(s)")
    assert "train.csv:2:" in text
    assert "and 10 more" in text


def test_other_faults(tmp_path):
    with pytest.raises(ManifestError, match="no clips"):
        read_manifest(write(tmp_path))
    with pytest.raises(ManifestError, match="id 'a' was used on line 2"):
        read_manifest(write(tmp_path, "a,x.mp4,0,,,9,25,64,64,ok,", "a,y.mp4,0,,,9,25,64,64,ok,"))
    with pytest.raises(ManifestError, match=r"label missing.*found id, path"):
        read_manifest(write(tmp_path, header="id,path"))
    with pytest.raises(ManifestError, match="named twice"):
        read_manifest(write(tmp_path, header="id,path,label,label"))
    (tmp_path / "train.csv").write_bytes("id,path,label\n".encode("utf-16"))
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_manifest(tmp_path / "train.csv")
    (tmp_path / "train.csv").write_bytes(b"id,path\0,label\n")
    with pytest.raises(ManifestError, match="NUL"):
        read_manifest(tmp_path / "train.csv")
    (tmp_path / "train.csv").write_text("")
    with pytest.raises(ManifestError, match="empty"):
        read_manifest(tmp_path / "train.csv")
    with pytest.raises(ManifestError, match="not found"):
        read_manifest(tmp_path / "none.csv")
    (tmp_path / "train.csv").write_text('id,path,label\na,"x.mp4,0\n')
    with pytest.raises(ManifestError, match=r"train.csv:\d"):
        read_manifest(tmp_path / "train.csv")


@pytest.mark.parametrize(
    ("text", "message"), [("", "0 class"), ("a\n", "1 class"), ("a\n\nb\n", ":2: blank"), ("a\na\n", "twice")]
)
def test_classes(tmp_path, text, message):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_classes(tmp_path / "classes.txt")


def test_links_that_leave_the_root(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"x")
    os.symlink(tmp_path / "secret.mp4", tmp_path / "root" / "link.mp4")
    with pytest.raises(ValueError, match="leaves the dataset root"):
        inside(tmp_path / "root", "link.mp4")
    (tmp_path / "root" / "real.mp4").write_bytes(b"x")
    os.symlink("real.mp4", tmp_path / "root" / "near.mp4")
    assert inside(tmp_path / "root", "near.mp4").name == "real.mp4"
    os.symlink(tmp_path / "root", tmp_path / "linked_root")
    assert inside(tmp_path / "linked_root", "real.mp4").name == "real.mp4"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_no_accepted_path_leaves_the_root(path):
    try:
        check_relative(path)
    except ValueError:
        return
    joined = os.path.normpath(os.path.join("/root/of/data", path))
    assert joined == "/root/of/data" or joined.startswith("/root/of/data/")


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_give_a_manifest_or_a_message(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "classes.txt").write_text("a\nb\n")
    (folder / "train.csv").write_bytes(b"id,path,label,frames\n" + data)
    try:
        manifest = read_manifest(folder / "train.csv")
    except ManifestError as error:
        assert "train.csv" in str(error)
    else:
        assert all(0 <= clip.label < 2 and clip.length > 0 for clip in manifest.clips)
