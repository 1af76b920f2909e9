"""Archives: nested, damaged, of every tool, and with members that reach out of their folder."""

import shutil
import stat
import tarfile
import zipfile
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from filelock import FileLock
from small_datasets import zipped

from vmp.errors import ConfigError, DataError
from vmp.prepare.unpack import unpack


def test_nested_archives_are_unpacked_once(tmp_path):
    inner = {
        name: zipped(tmp_path / f"{name}.zip", {f"{name}/-[HD] {i}.avi": b"x" for i in range(2)})
        for name in ("climb", "wave")
    }
    outer = zipped(tmp_path / "hmdb51_org.zip", {f.name: f.read_bytes() for f in inner.values()})
    message: list[str] = []
    assert unpack(outer, tmp_path / "out", say=message.append) == tmp_path / "out"
    files = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.avi"))
    assert files == [f"{name}/-[HD] {i}.avi" for name in inner for i in range(2)]
    assert len(message) == 3
    (tmp_path / "out/.unpacking-left").mkdir()  # by a kill
    unpack(outer, tmp_path / "out", say=message.append)
    assert len(message) == 3
    assert not list((tmp_path / "out").glob(".unpacking-*"))


def test_an_archive_that_was_replaced_is_unpacked_anew(tmp_path):
    for data in (b"old", b"newer"):
        inner = zipped(tmp_path / "climb.zip", {"climb/0.avi": data})
        outer = zipped(tmp_path / "all.zip", {"climb.zip": inner.read_bytes(), "note.txt": data})
        unpack(outer, tmp_path / "out", say=lambda said: None)
        assert (tmp_path / "out/climb/0.avi").read_bytes() == (tmp_path / "out/note.txt").read_bytes() == data


def test_archives_that_hold_other_files_of_one_name(tmp_path):
    """Cameras number their files alike: the second archive must not replace the first one's clips."""
    (tmp_path / "in").mkdir()
    for person, data in (("a", b"first"), ("b", b"second")):
        zipped(tmp_path / f"in/{person}.zip", {"walk/0001.avi": data, "readme.txt": data, "same.avi": b"x"})
    for _ in range(2):
        with pytest.raises(DataError, match=r"b.zip: its member walk/0001.avi would replace another file"):
            unpack(tmp_path / "in", tmp_path / "out")
        assert (tmp_path / "out/walk/0001.avi").read_bytes() == b"first"


def test_two_processes_do_not_unpack_into_one_folder(tmp_path, monkeypatch, capsys):
    archive = zipped(tmp_path / "a.zip", {"climb/0.avi": b"x"})
    (tmp_path / "out/.unpacking-other").mkdir(parents=True)
    other = FileLock(tmp_path / "out/.lock", thread_local=False)
    other.acquire()
    begun = Thread(target=unpack, args=(archive, tmp_path / "out"))
    begun.start()
    begun.join(0.5)
    assert (tmp_path / "out/.unpacking-other").is_dir()
    other.release()
    begun.join()
    assert (tmp_path / "out/climb/0.avi").is_file()
    assert "another process unpacks archives there; waiting for it" in capsys.readouterr().out


def test_members_that_leave_their_folder_are_refused(tmp_path):
    for name in ("../evil.avi", "/tmp/evil.avi", "a/../../evil.avi", "..\\evil.avi"):
        with pytest.raises(DataError, match=r"a member would leave its folder .*nothing was unpacked"):
            unpack(zipped(tmp_path / "x.zip", {name: b"x"}), tmp_path / "inner/out")
    assert not list(tmp_path.rglob("evil*"))
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"broken.zip: cannot be unpacked .*; it may be incomplete"):
        unpack(tmp_path / "broken.zip", tmp_path / "inner/out")


def test_without_a_tool_for_rar_it_says_which_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "hmdb51_org.rar").write_bytes(b"Rar!")
    with pytest.raises(ConfigError, match="none of unrar, bsdtar, 7zz, 7z and unar is installed"):
        unpack(tmp_path / "hmdb51_org.rar", tmp_path / "out")


@pytest.mark.parametrize(
    "tool", ["bsdtar", "7zz", "7z", "unar"]
)  # these go by content, so a zip stands in for a RAR
def test_the_tools_for_rar(tool, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for name in (tool, *(["lsar"] if tool == "unar" else [])):
        there = shutil.which(name)
        if not there:
            pytest.skip(f"{name} is not installed")
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {there} "$@"\n')
        (tmp_path / "bin" / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    archive = zipped(tmp_path / "-wave.rar", {"wave/#1 [HD].avi": b"x", "wave/b.avi": b"y"})
    unpack(archive, tmp_path / "out", say=lambda _: None)
    assert (tmp_path / "out/wave/#1 [HD].avi").read_bytes() == b"x"
    for name in ("../evil.avi", "/tmp/evil.avi"):
        with pytest.raises(DataError, match=r"a member would leave|could not be unpacked"):
            unpack(zipped(tmp_path / "evil.rar", {name: b"x"}), tmp_path / "out", say=lambda _: None)
    link = zipfile.ZipInfo("link")
    link.external_attr, link.create_system = (stat.S_IFLNK | 0o777) << 16, 3
    with zipfile.ZipFile(tmp_path / "link.rar", "w") as made:
        made.writestr(link, "/etc")
    with pytest.raises(DataError, match=r"is a link|could not be unpacked"):
        unpack(tmp_path / "link.rar", tmp_path / "out", say=lambda _: None)
    assert not (tmp_path / "out/link").exists()
    (tmp_path / "cut.rar").write_bytes(b"Rar!\x1a\x07\x00")
    with pytest.raises(DataError, match=rf"could not be unpacked:\n  {tool}.*\nIt is damaged"):
        unpack(tmp_path / "cut.rar", tmp_path / "out", say=lambda _: None)


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
def test_archives_with_links_pipes_and_devices_are_refused(tmp_path, monkeypatch, kind, tally):
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
    """Members that are a thousand times the size of their archive together."""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(4):
            archive.writestr(f"{i}.avi", bytes(50_000_000))
    with pytest.raises(DataError, match=r"bomb.zip: .*200,\d+,\d+ bytes"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out", say=lambda _: None)
    assert not list((tmp_path / "out").rglob("*.avi"))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_whose_data_are_damaged(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("wave/a.avi", b"frame" * 1000 + np.random.default_rng(0).bytes(3000))
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[60:1000] = bytes(940)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"a.zip: cannot be unpacked .*; it may be incomplete"):
        unpack(tmp_path / "a.zip", tmp_path / "out", say=lambda _: None)
    assert not list((tmp_path / "out").rglob("*.avi"))


def test_backslashes_in_a_zip_are_separators(tmp_path):
    archive = zipped(
        tmp_path / "a.zip", {"Kickflip\\Kickflip0.mp4": b"x", "Kickflip/1.mp4": b"y", "Ollie\\": b""}
    )
    unpack(archive, tmp_path / "out", say=lambda _: None)
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.mp4")}
    assert files == {"Kickflip/Kickflip0.mp4", "Kickflip/1.mp4"}
    assert (tmp_path / "out/Kickflip/Kickflip0.mp4").read_bytes() == b"x"


@pytest.mark.chaos
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_zips(tmp_path, rounds, tally, method):
    """Unpacked to what was packed, or DataError, and then nothing is left."""
    from damage import damaged_bytes

    content = {f"wave/{i}.avi": np.random.default_rng(i).bytes(3000) for i in range(3)}
    with zipfile.ZipFile(tmp_path / "w.zip", "w", method) as archive:
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
