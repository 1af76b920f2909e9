"""--download: archives over real HTTP, unpacked and prepared; FineGym's videos through a stand-in for yt-dlp."""

import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
from small_datasets import JSON, MKV, TEST, TRAIN, VIDEO, read, write_splits, zipped

from vmp.commands.prepare import main
from vmp.errors import ConfigError, DataError
from vmp.prepare.fetch import SOURCES, Source, fetch, fetch_videos
from vmp.prepare.unpack import unpack
from vmp.transfer import sha256_of


@pytest.fixture
def server(file_server):
    return file_server


def prepare(monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["vmp prepare", *map(str, words)])
    main()


@pytest.mark.slow
def test_hmdb51_from_its_archives(hmdb, server, tmp_path, monkeypatch, capsys):
    """A ZIP of ZIPs stands in for the RAR of RARs; the connection drops every million bytes."""
    inner = {}
    for folder in ("climb", "climb_stairs", "kick_ball"):
        clips = {f"{folder}/{path.name}": path.read_bytes() for path in (hmdb / "videos" / folder).iterdir()}
        clips |= {f"{folder}/padding.txt": b"x" * 1_200_000}
        inner[f"{folder}.zip"] = zipped(tmp_path / "x.zip", clips).read_bytes()
    write_splits(tmp_path / "testTrainMulti_7030_splits")
    lists = {p.name: p.read_bytes() for p in (tmp_path / "testTrainMulti_7030_splits").iterdir()}
    server.files = {
        "hmdb51_org.zip": zipped(tmp_path / "x.zip", inner).read_bytes(),
        "test_train_splits.zip": zipped(tmp_path / "x.zip", lists).read_bytes(),
    }
    urls = {"splits": "test_train_splits.zip", "videos": "hmdb51_org.zip"}
    sources = tuple(Source(option, (server.url("drop", name),)) for option, name in urls.items())
    monkeypatch.setitem(SOURCES, "hmdb51", sources)
    out = tmp_path / "data/hmdb51"
    words = ("hmdb51", "--download", "--out", out, "--allow-missing", "--workers", 1)
    prepare(monkeypatch, *words)
    printed = capsys.readouterr().out
    assert "hmdb51: licence CC BY 4.0" in printed
    assert [c.status for c in read(out, "split1/train").clips] == ["ok", "ok", "ok"]
    assert (out / "downloads/hmdb51_org.zip").read_bytes() == server.files["hmdb51_org.zip"]
    record = (out / "downloads/hmdb51_org.zip.sha256").read_text()
    assert record == f"{sha256_of(out / 'downloads/hmdb51_org.zip')}  hmdb51_org.zip\n"
    assert any(asked and asked.startswith("bytes=1000000-") for _, asked in server.asked)
    before = len(server.asked)
    prepare(monkeypatch, *words)
    assert len(server.asked) == before
    with open(out / "downloads/hmdb51_org.zip", "r+b") as file:
        file.write(b"PK??")
    with pytest.raises(DataError, match=r"hmdb51_org.zip: not the file it should be"):
        prepare(monkeypatch, *words)


def test_what_cannot_be_fetched_is_named_with_its_place(server, tmp_path, capsys):
    urls = (server.url("missing", "a.zip"), server.url("disguised", "a.zip"))
    with pytest.raises(DataError) as error:
        fetch(Source("videos", urls), tmp_path)
    for text in (
        "HTTP 404",
        "a web page came",
        "Only https is tried, since no",
        f"put it at\n  {tmp_path}/a.zip\n",
        "name it with --videos",
    ):
        assert text in str(error.value)
    assert {p.name for p in tmp_path.iterdir()} == {".lock"}


def test_files_come_over_https():
    places = [url for each in SOURCES.values() for source in each for url in source.urls]
    assert places
    assert [url for url in places if not url.startswith("https://")] == []


def test_what_one_place_gave_is_kept_when_another_fails(server, tmp_path):
    dead, refused = server.url("dead", "a.zip"), "http://127.0.0.1:9/a.zip"
    with pytest.raises(DataError, match=r"4 tries in a row\n.*\n.*refused"):
        fetch(Source("videos", (dead, refused)), tmp_path)
    assert (tmp_path / "a.zip.part").stat().st_size == 1_000_000
    server.dying = False
    before = len(server.asked)
    busy = server.url("range", "a.zip")
    assert fetch(Source("videos", (busy, dead)), tmp_path).read_bytes() == server.content
    assert server.asked[before:] == [
        ("/dead/a.zip", "bytes=1000000-")
    ]  # where it began, whatever comes first
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "a.zip", "a.zip.sha256"}


def test_a_program_for_rar_is_asked_for_before_anything_is_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="none of unrar, bsdtar, 7zz, 7z and unar is installed"):
        fetch(Source("videos", (server.url("range", "UCF101.rar"),)), tmp_path / "a")
    (tmp_path / "bsdtar").write_text("#!/bin/sh\n")
    (tmp_path / "bsdtar").chmod(0o755)
    assert not server.asked
    assert fetch(Source("videos", (server.url("range", "UCF101.rar"),)), tmp_path / "a").stat().st_size > 3e6


def test_the_command_says_what_is_lacking(tmp_path, monkeypatch):
    for words, message in (
        (("ucf101",), "ucf101: needs --videos.* or --download to fetch them"),
        (("ssv2",), "ssv2: needs --videos, the folder of the videos$"),
        (("hmdb51", "--download", "--dry-run"), "--dry-run: fetches nothing"),
        (
            ("mpii_cooking2", "--videos", tmp_path, "--mat", tmp_path),
            "needs --splits, the folder experimentalSetup",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare(monkeypatch, *words, "--out", tmp_path / "out")


# --- tar, for MPII Cooking 2 ---------------------------------------------------------------------------------------


def packed(path: Path, **members: tarfile.TarInfo | bytes) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, bytes):
                entry = tarfile.TarInfo(f"videos/{name}.avi")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            else:
                archive.addfile(content)
    return path


def test_tar_archives(tmp_path):
    out = unpack(packed(tmp_path / "v.tar.gz", a=b"one", b=b"two"), tmp_path / "out", say=print)
    assert {p.name: p.read_bytes() for p in out.rglob("*.avi")} == {"a.avi": b"one", "b.avi": b"two"}
    outside, link = tarfile.TarInfo("../x.avi"), tarfile.TarInfo("x.avi")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    for name, member, message in (
        ("o.tgz", outside, "would leave its folder"),
        ("l.tgz", link, "is a link, a pipe or a device"),
    ):
        with pytest.raises(DataError, match=message):
            unpack(packed(tmp_path / name, a=b"one", b=member), tmp_path / name[0])
        assert not list((tmp_path / name[0]).rglob("*.avi"))
    parts = {
        f"{side}/part.tar.gz": packed(tmp_path / "x", **{side: b"x"}).read_bytes()
        for side in ("train", "val")
    }
    both = unpack(zipped(tmp_path / "both.zip", parts), tmp_path / "both")
    assert {p.name for p in both.rglob("*.avi")} == {"train.avi", "val.avi"}
    whole = packed(tmp_path / "w.tar.gz", a=bytes(range(256)) * 400).read_bytes()
    (tmp_path / "w.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"w.tar.gz: cannot be unpacked .*; it may be incomplete"):
        unpack(tmp_path / "w.tar.gz", tmp_path / "w")


# --- FineGym through yt-dlp ----------------------------------------------------------------------------------------

STAND_IN = """#!{python}
import json, shutil, sys
with open({log!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
video = sys.argv[-1].partition("v=")[2]
if video == "gone_video1":
    sys.exit("ERROR: [youtube] gone_video1: Video unavailable")
shutil.copy({source!r} + video + ".mp4", sys.argv[sys.argv.index("--output") + 1] % {{"id": video, "ext": "mp4"}})
"""


@pytest.fixture
def youtube(tmp_path, monkeypatch) -> Path:
    """A yt-dlp on the PATH that has two of FineGym's three videos; returns the log of how it was called."""
    home, log = tmp_path / "youtube", tmp_path / "calls"
    home.mkdir()
    for video in (VIDEO, MKV):
        (home / f"{video}.mp4").write_bytes(b"never decoded here")
    tool = tmp_path / "bin/yt-dlp"
    tool.parent.mkdir()
    tool.write_text(STAND_IN.format(python=sys.executable, log=str(log), source=f"{home}/"))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    return log


def test_finegym_through_yt_dlp(server, youtube, tmp_path, monkeypatch, capsys):
    server.files = {
        "gym99_train_element_v1.1.txt": "".join(f"{e} {n}\n" for e, n in TRAIN.items()).encode(),
        "gym99_val_element.txt": "".join(f"{e} {n}\n" for e, n in TEST.items()).encode(),
        "finegym_annotation_info_v1.1.json": json.dumps(JSON).encode(),
    }
    sources = tuple(Source("annotations", (server.url("range", name),)) for name in server.files)
    monkeypatch.setitem(SOURCES, "finegym", sources)
    out = tmp_path / "data"
    with pytest.raises(DataError, match="no manifest was written"):
        prepare(monkeypatch, "finegym", "--download", "--out", out)
    printed = capsys.readouterr().out
    assert "licence annotations CC BY-NC 4.0" in printed
    assert (
        "1 of 3 video(s) could not be fetched:\n  gone_video1: ERROR: [youtube] gone_video1: Video" in printed
    )
    wanted = {element[:11] for element in (*TRAIN, *TEST)}
    assert {p.stem for p in (out / "videos").iterdir()} == wanted - {"gone_video1"}
    calls = [json.loads(line) for line in youtube.read_text().splitlines()]
    assert [call[-2:] for call in calls] == [
        ["--", f"https://www.youtube.com/watch?v={id}"] for id in sorted(wanted)
    ]
    assert all("--ignore-config" in call[: call.index("--output")] for call in calls)
    fetch_videos(wanted, out / "videos")  # those that are there are not asked for again
    assert len(youtube.read_text().splitlines()) == len(wanted) + 1


def test_without_yt_dlp_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"2 videos are on YouTube.*pip install yt-dlp.*as <id>.mp4 into .*videos"
    ):
        fetch_videos(["_a-B_c-D_e0", "-mkvmkvmkv_"], tmp_path / "videos")
