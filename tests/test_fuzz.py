"""Hundreds of damaged videos and thousands of damaged annotation files: refused, or read as what they say; no crash.

Every trial has its own seed, in the message of what fails: np.random.default_rng([SEED, number, ...]).
"""

import json
import re
from collections import Counter
from functools import partial
from pathlib import Path

import fuzz_videos
import numpy as np
import pytest
import slow_parsers as slow
from damage import damaged_bytes, damaged_text
from fuzz_videos import FRAMES, read_again, read_many, read_mat_again
from small_datasets import matlab_file

from vmp.data.decode import READERS
from vmp.data.manifest import read_classes, read_manifest
from vmp.errors import UserError
from vmp.prepare import measure as measuring
from vmp.prepare.children import Lost, in_children
from vmp.prepare.finegym import read_elements, read_times
from vmp.prepare.hmdb51 import read_splits
from vmp.prepare.lists import make_list
from vmp.prepare.measure import Measured, installed_seeking_readers, measure_all
from vmp.prepare.mpii import read_sequences

SEED = 7
INSTALLED = (*installed_seeking_readers(), "pyav")

# --- videos --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return fuzz_videos.sources(tmp_path_factory.mktemp("sources"))


@pytest.mark.slow
def test_the_sources_are_whole(sources):
    for path, found in measure_all(sources.values(), workers=2):
        assert (found.status, found.frames) == ("ok", FRAMES), path
        assert set(found.readers) >= {"pyav", "decord"}, path


def try_videos(sources, home: Path, seeds) -> tuple[Counter, list[str], list[str]]:
    """Counts of verdicts; wrong ones; files judged whole whose pictures are not those of their source."""
    names = list(sources)
    made: dict[Path, tuple[Path, str]] = {}
    for seed in seeds:
        source = sources[names[seed % len(names)]]
        what, data = damaged_bytes(source.read_bytes(), np.random.default_rng([SEED, seed]))
        path = home / f"{seed}{source.suffix}"
        path.write_bytes(data)
        made[path] = source, f"seed {seed}, {source.name}: {what}"
    wrong, verdicts, whole = [], Counter(), []
    for path, found in measure_all(made, workers=2, timeout=60):
        verdicts[found.status] += 1
        if found.status == "ok":
            whole.append((path, made[path][0], found.frames, found.readers))
            wrong += [f"{made[path][1]}: no reader"] * (found.readers[-1:] != ("pyav",))
        elif found.status not in ("unreadable", "partial") or not found.reason or found.readers:
            wrong.append(f"{made[path][1]}: {found}")
    assert verdicts.total() == len(made)
    unseen = []
    for job, answer in in_children(read_again, whole, timeout=60, workers=2):
        said = made[job[0]][1]
        if isinstance(answer, Lost):
            wrong.append(f"{said}: called whole, but {answer.reason}")
        else:
            wrong += [f"{said}: {fault}" for fault in answer[0]]
            unseen += [f"{said}: {answer[1]}"] * bool(answer[1])
    return verdicts, wrong, unseen


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 1])
def test_some_damaged_videos(sources, tmp_path, part):
    check_videos(try_videos(sources, tmp_path, range(part * 20, part * 20 + 20)))


@pytest.mark.chaos
@pytest.mark.slow
def test_damaged_videos(sources, tmp_path, rounds, tally):
    count = 40 * rounds
    fault = tally("damaged videos")
    fault.tries(count)
    verdicts, wrong, unseen = try_videos(sources, tmp_path, range(100, 100 + count))
    fault.survives(count - len(wrong))
    print(
        f"{verdicts}; called whole, with pictures that are not the source's: {len(unseen)}", *unseen, sep="\n"
    )
    check_videos((verdicts, wrong, unseen))


def check_videos(outcome: tuple[Counter, list[str], list[str]]) -> None:
    verdicts, wrong, unseen = outcome
    assert not wrong, "\n".join(wrong)
    assert verdicts["ok"] < verdicts.total()
    # flipped bits that leave a valid stream of other pictures cannot be seen; frames that are gone can
    fewer = [said for said in unseen if not re.search(rf": {FRAMES} frames", said)]
    assert not fewer, "\n".join(fewer)


# --- annotations ---------------------------------------------------------------------------------------------------

MANIFEST = (
    "id,path,label,start,end,frames,fps,width,height,status,readers,source\n"
    "a/0,clips/one.mp4,0,,,100,25,320,240,ok,opencv pyav,x\n"
    'a/1,"clips/two, too.mp4",1,10,20,100,29.97,320,240,ok,pyav_seek opencv pyav,\n'
    "a/2,clips/ünï.mp4,2,0,,90,25,64,64,missing,,y\n"
    "b/3,d/four.avi,1,5,90,90,12.5,64,64,ok,pyav,\n"
    "b/4,d/five.avi,0,,,0,0,0,0,unreadable,,z\n"
)
CLASSES = "walk\nrun fast\nünï\nclimb stairs\n"
SECONDS = "path,label,start,end\na.mp4,walk,0.4,1.5\nb c.mp4,run,,2\nd.mp4,walk,3,\n,e.mp4\n".replace(
    ",e.mp4\n", ""
)
SECONDS += "e.mp4,jump,,\na.mp4,run,2.04,3.0\n"
IN_FRAMES = "path,label,start_frame,end_frame\na.mp4,0,5,20\nb.mp4,1,,50\nc.mp4,2,7,\nd.mp4,1,,\n"
BLANKS = "a b/c.mp4 0\nd.mp4 1\nünï.mp4 2\nf.mp4 1\ng.mp4 0\n"
HMDB = "-_[HD]_up_climb_f_cm_np1_ba_goo_0.avi 1 \n#1_a;-)_climb_u_nm_np10_fr_med_1.avi 2 \nb_climb_l.avi 0 \n"
VIDEO = "0LtLS9wROrk"
ELEMENTS = [
    *(f"{VIDEO}_E_000001_000006_A_0000_0002", f"{VIDEO}_E_000007_000009_A_0001_0003"),
    *("_-abcdefg_9_E_000000_000001_A_0000_0000", f"{VIDEO}_E_000009_000010_A_0000_0000"),
]
GYM = "".join(f"{element} {label}\n" for element, label in zip(ELEMENTS, (0, 70, 98, 5), strict=True))
GYM_JSON = json.dumps(
    {
        VIDEO: {
            "E_000001_000006": {
                "event": 1,
                "timestamps": [[1.14, 6.2]],
                "segments": {"A_0000_0002": {"stages": 1, "timestamps": [[0.0, 2.4]]}},
            },
            "E_000007_000009": {
                "event": 2,
                "timestamps": [[7.2, 9.4]],
                "segments": {"A_0001_0003": {"stages": 2, "timestamps": [[1.3, 2], [2, 3.0]]}},
            },
            "E_000009_000010": {"event": 4, "timestamps": [[9.1, 10.0]], "segments": None},
        },
        "_-abcdefg_9": {
            "E_000000_000001": {
                "event": 4,
                "timestamps": [[0.08, 1.6]],
                "segments": {"A_0000_0000": {"stages": 1, "timestamps": [[0.2, 0.8]]}},
            }
        },
    },
    indent=1,
)
GYM_TIMES = "id,start,end\n" + "".join(f"{e},{1.5 * i},{1.5 * i + 2}\n" for i, e in enumerate(ELEMENTS))
SEQUENCES = "# one a line\ns07-d72\ns08-d02-cam-002\ns21-d21 x\n\ns22-d23\n"


def read_manifest_file(path: Path):
    (path.parent / "classes.txt").write_text("a\nb\nc\n")
    clips = read_manifest(path).clips
    return [
        (*(c.id, c.path, c.label, c.start, c.end, c.frames, c.fps, c.width, c.height), c.status, c.readers)
        for c in clips
    ]


def make_lists(path: Path, other: str):
    """From two lists to two manifests. The videos are not there: all measure as 100 frames at 25 per second."""
    train, val = (
        (path, path.with_name("other")) if path.name.startswith("train") else (path.with_name("other"), path)
    )
    path.with_name("other").write_text(other)
    videos = path.parent / "videos"
    videos.mkdir(exist_ok=True)
    home = make_list(path.parent / "out", videos=videos, lists={"train": train, "val": val}, progress=False)
    parts = [read_manifest(home / f"{split}.csv", root=videos) for split in ("train", "val")]
    clips = [[(c.path, c.label, c.start, c.end) for c in part.clips] for part in parts]
    return (list(parts[0].classes), *clips)


def expect_lists(data: bytes, other: str, *, first: bool):
    pair = (data, other.encode()) if first else (other.encode(), data)
    return slow.lists(*pair, frames=100, fps=25)


def hmdb_file(path: Path):
    folds, _ = read_splits(path.parent, ("climb", "walk"))
    assert all(category == "climb" for category, _ in folds[1].values())
    return {name: use for name, (_, use) in folds[1].items()}


def times_of(path: Path):
    return {e: None if isinstance(t, str) else t[:2] for e, t in read_times(path, ELEMENTS).items()}


def sequences_file(path: Path):
    for name in ("sequencesVal.txt", "sequencesTest.txt"):
        (path.parent / name).write_text("s30-d01\n")
    return list(read_sequences(path.parent)["train"])


PARSERS = {  # name of the file, what is in it, its separator, the parser, the slow one
    "manifest": ("train.csv", MANIFEST, ",", read_manifest_file, partial(slow.manifest, classes=3)),
    "classes": ("classes.txt", CLASSES, " ", lambda path: list(read_classes(path)), slow.classes),
    "list in seconds": (
        *("train.csv", SECONDS, ","),
        partial(make_lists, other="path,label\nv.mp4,walk\n"),
        partial(expect_lists, other="path,label\nv.mp4,walk\n", first=True),
    ),
    "list in frames": (
        *("val.csv", IN_FRAMES, ","),
        partial(make_lists, other="v.mp4 0\nw.mp4 1\nx.mp4 2\n"),
        partial(expect_lists, other="v.mp4 0\nw.mp4 1\nx.mp4 2\n", first=False),
    ),
    "list at blanks": (
        *("train.txt", BLANKS, " "),
        partial(make_lists, other="v.mp4 0\nw.mp4 1\n"),
        partial(expect_lists, other="v.mp4 0\nw.mp4 1\n", first=True),
    ),
    "HMDB-51 split": ("climb_test_split1.txt", HMDB, " ", hmdb_file, slow.hmdb51),
    "FineGym list": (
        *("gym99_train_element_v1.1.txt", GYM, " "),
        lambda path: read_elements(path, 99),
        slow.finegym_elements,
    ),
    "FineGym JSON": (
        "annotation.json",
        GYM_JSON,
        ":",
        times_of,
        partial(slow.finegym_json, elements=ELEMENTS),
    ),
    "FineGym times": ("times.csv", GYM_TIMES, ",", times_of, partial(slow.finegym_times, elements=ELEMENTS)),
    "MPII sequences": ("sequencesTrainAttr.txt", SEQUENCES, " ", sequences_file, slow.mpii_sequences),
}
# faults of a file as a whole; any other is told with its line
WHOLE = re.compile(
    r"not UTF-8|NUL|no clips|empty|must be|column|class\(es\)|never occur|not JSON|must name|same video"
    r"|numbers of frames|may be split|JSON"
)


@pytest.fixture
def no_videos(monkeypatch):
    found = Measured("ok", "", 100, 25.0, 64, 48, ("pyav",))
    monkeypatch.setattr(measuring, "measure_all", lambda paths, **options: ((path, found) for path in paths))


def near(a, b) -> bool:
    """Equal, numbers to rounding."""
    if isinstance(a, float | int) and isinstance(b, float | int):
        return abs(a - b) < 1e-9
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(near(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(near, a, b))
    return a == b


def try_files(parser: str, home: Path, seeds) -> tuple[Counter, list[str]]:
    """How many were accepted or refused, and what went wrong."""
    name, text, separator, read, expect = PARSERS[parser]
    (home / name).write_text(text, encoding="utf-8")
    assert near(read(home / name), expect(text.encode())), parser  # undamaged
    verdicts, wrong = Counter(), []
    for seed in seeds:
        rng = np.random.default_rng([SEED, seed, *parser.encode()])
        what, data = damaged_text(text.encode(), rng, separator)
        (home / name).write_bytes(data)
        said = f"{parser}, seed {seed}: {what}"
        try:
            found = read(home / name)
        except UserError as error:
            verdicts["refused"] += 1
            lines = str(error).splitlines()
            if name not in str(error) or not (
                any(re.search(rf"{re.escape(name)}:\d+: ", line) for line in lines)
                or WHOLE.search(str(error))
            ):
                wrong.append(f"{said}: the message has no file or line: {error}")
            if len(str(error)) > 5000 or any(ord(c) < 32 and c != "\n" for c in str(error)):
                wrong.append(f"{said}: the message is no text: {str(error)[:300]!r}")
        except Exception as error:
            wrong.append(f"{said}: {type(error).__name__}: {str(error)[:300]}")
        else:
            verdicts["accepted"] += 1
            try:
                expected = expect(data)
            except slow.No:
                wrong.append(f"{said}: accepted as {str(found)[:300]}")
            else:
                if not near(found, expected):
                    wrong.append(f"{said}: {found} instead of {expected}")
    return verdicts, wrong


@pytest.mark.parametrize("parser", PARSERS)
def test_some_damaged_annotations(parser, tmp_path, no_videos):
    verdicts, wrong = try_files(parser, tmp_path, range(30))
    assert not wrong, "\n".join(wrong)
    assert verdicts["accepted"], "nothing is accepted: the test is vacuous"
    assert verdicts["refused"]


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.parametrize("parser", PARSERS)
def test_damaged_annotations(parser, tmp_path, rounds, tally, no_videos):
    count = 30 * rounds
    fault = tally("damaged annotation files")
    fault.tries(count)
    verdicts, wrong = try_files(parser, tmp_path, range(1000, 1000 + count))
    fault.survives(count - len(wrong))
    print(verdicts)
    assert not wrong, "\n".join(wrong)


# --- MATLAB files --------------------------------------------------------------------------------------------------


def try_mats(home: Path, seeds) -> tuple[Counter, list[str]]:
    whole = matlab_file(home / "whole.mat").read_bytes()
    jobs = []
    for seed in seeds:
        what, data = damaged_bytes(whole, np.random.default_rng([SEED, seed]))
        path = home / f"{seed}.mat"
        path.write_bytes(data)
        jobs.append((path, f"seed {seed}: {what}"))
    verdicts, wrong = Counter(), []
    for (_, what), answer in in_children(read_mat_again, jobs, timeout=60, workers=2):
        if isinstance(answer, Lost):
            wrong.append(f"{what}: {answer.reason}")
        else:
            verdicts[answer[0]] += 1
            wrong += [f"{what}: {answer[1]}"] * bool(answer[1])
    return verdicts, wrong


def test_some_damaged_matlab_files(tmp_path):
    verdicts, wrong = try_mats(tmp_path, range(40))
    assert not wrong, "\n".join(wrong)
    assert verdicts["refused"]


@pytest.mark.chaos
@pytest.mark.slow
def test_damaged_matlab_files(tmp_path, rounds, tally):
    count = 30 * rounds
    fault = tally("damaged annotation files")
    fault.tries(count)
    verdicts, wrong = try_mats(tmp_path, range(1000, 1000 + count))
    fault.survives(count - len(wrong))
    print(verdicts)
    assert not wrong, "\n".join(wrong)


# --- memory --------------------------------------------------------------------------------------------------------


def try_memory(sources, reads: int) -> list[str]:
    jobs = [(reader, tuple(sources.values()), reads) for reader in INSTALLED]
    wrong = []
    for (reader, *_), answer in in_children(read_many, jobs, timeout=800, workers=2):
        if isinstance(answer, Lost):
            wrong.append(f"{reader}: {answer.reason}")
            continue
        grown, files, threads = answer
        each = min(grown) / (reads // 3)
        said = f"{reader}: {each:+.0f} bytes a read, {sum(grown) / 1e6:+.2f} MB, {files:+} files, {threads:+} threads"
        print(said, f"after {reads} reads")
        if each > 1_000 or files > 0 or threads > 0:
            wrong.append(said)
    return wrong


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_reads_leave_nothing_behind(sources, rounds, tally):
    assert set(INSTALLED) <= set(READERS)
    fault, reads = tally("clip reads with memory flat"), 600 * rounds
    fault.tries(reads * len(INSTALLED))
    wrong = try_memory(sources, reads)
    fault.survives(reads * (len(INSTALLED) - len(wrong)))
    assert not wrong
