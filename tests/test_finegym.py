"""FineGym from a small tree with the traps of the real one."""

import csv
import json
import shutil
from collections import Counter

import pytest
import videos
from small_datasets import (
    JSON,
    RATE,
    SPANS,
    TEST,
    TRAIN,
    VIDEO,
    lists_only,
    number,
    read,
    run,
    shown,
    small_video,
)

from vmp.data.encode import write_video
from vmp.errors import ConfigError, ManifestError
from vmp.prepare.finegym import plan_finegym, read_elements


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in place", pytest.param("cut", marks=pytest.mark.slow)])
def test_finegym_spans_come_from_the_json(gym, tmp_path, how):
    plan = plan_finegym(gym / "videos", gym / "annotations")
    checks = {check.name: check for check in plan.checks}
    assert (checks["elements in train"].found, checks["elements in test"].found) == ("4", "5")
    assert checks["source videos of train"].found == "3"
    assert checks["elements with times"] == ("elements with times", "9", "7", False)
    assert checks["times that agree with the id"].ok
    assert "1 test elements overlap in time with a training element" not in "".join(plan.notes)
    outcome = run(plan, tmp_path, allow_missing=True, how=how, short_side=None)
    assert "gone_video1.mp4" in outcome.text
    train, test = read(tmp_path, "train"), read(tmp_path, "test")
    assert {c.id: c.label for c in train.clips} == TRAIN
    assert {c.id: c.label for c in test.clips} == TEST
    for manifest in (train, test):
        for clip in manifest.clips:
            if clip.id in SPANS:
                assert clip.status == "ok", clip
                frames = SPANS[clip.id]
                assert clip.length == len(frames)
                assert [number(manifest, clip, i) for i in (0, clip.length - 1)] == [frames[0], frames[-1]]
                assert clip.tags.get("short") == ("yes" if len(frames) < 9 else None)
    problems = {c.id[12:]: (c.status, c.tags.get("problem")) for c in (*train.clips, *test.clips)}
    assert problems["E_000100_000107_A_0000_0001"][0] == "missing"
    assert problems["E_000007_000009_A_0004_0008"][0] == "partial"
    assert problems["E_000009_000010_A_0000_0000"] == (
        "unreadable",
        f"the JSON has no element A_0000_0000 in E_000009_000010 of {VIDEO}",
    )
    assert problems["E_000011_000012_A_0000_0000"][1] == f"the JSON has no event E_000011_000012 of {VIDEO}"
    vault = train.clips[0].tags
    assert (vault["event"], vault["set"], vault["video"]) == ("VT", "vault", VIDEO)
    assert (vault["start_seconds"], vault["end_seconds"]) == ("1.140", "3.540")


def test_finegym_a_csv_of_times_says_the_same(gym, tmp_path):
    by_json = plan_finegym(gym / "videos", gym / "annotations")
    with open(tmp_path / "times.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "start", "end"])
        for items in by_json.splits.values():
            writer.writerows([i.id, i.start, i.end] for i in items if i.unit == "seconds")
    by_csv = plan_finegym(gym / "videos", gym / "annotations", times=tmp_path / "times.csv")
    assert [i for s in by_csv.splits.values() for i in s if i.unit == "seconds"] == [
        i for s in by_json.splits.values() for i in s if i.unit == "seconds"
    ]
    assert sum(i.problem == "not in times.csv" for s in by_csv.splits.values() for i in s) == 2
    relative = "id,start,end\n" + "".join(f"{e},0.2,1.0\n" for e in (*TRAIN, *TEST))
    (tmp_path / "times.csv").write_text(relative)  # of the event, not of the video: does not fit the ids
    plan = plan_finegym(gym / "videos", gym / "annotations", times=tmp_path / "times.csv")
    agree = next(check for check in plan.checks if check.name == "times that agree with the id")
    assert (agree.found, agree.expected) == ("1", "9")


def test_finegym_without_times_or_clips_says_what_to_fetch(gym, tmp_path):
    lists = lists_only(gym, tmp_path / "lists")
    with pytest.raises(ConfigError, match=r"holds no finegym_annotation_info_v1.1.json[\s\S]*Fetch the JSON"):
        plan_finegym(gym / "videos", lists)
    plan = plan_finegym(gym / "videos", lists, allow_missing=True)
    outcome = run(plan, tmp_path / "out", allow_missing=True)
    assert "video files" in [check.name for check in outcome.failed]
    assert Counter(c.status for c in read(tmp_path / "out", "train").clips) == {"missing": 4}


def test_finegym_pre_cut_clips_are_whole_files(gym, tmp_path):
    lists = lists_only(gym, tmp_path / "lists")
    a, b, *_ = TRAIN
    small_video(tmp_path / f"subactions/{a}.mp4", 20)
    small_video(tmp_path / f"subactions/{b[:11]}/{b[12:27]}/{b[28:]}.mp4", 8)
    plan = plan_finegym(tmp_path / "subactions", lists)
    assert any(note.startswith("pre-cut clips, as whole files") for note in plan.notes)
    run(plan, tmp_path / "out", allow_missing=True)
    train = read(tmp_path / "out", "train").clips
    assert [(c.status, c.length, c.end, c.tags.get("short")) for c in train[:2]] == [
        ("ok", 20, None, None),
        ("ok", 8, None, "yes"),
    ]
    assert [c.status for c in train[2:]] == ["missing"] * 2


def test_finegym_spans_in_clips_of_events(gym, tmp_path):
    """Sources are missing, and there are clips of whole events, as mmaction2 cuts them; times count from the event."""
    element, event = f"{VIDEO}_E_000007_000009_A_0000_0001", f"{VIDEO}_E_000007_000009"
    first = shown(7.0, 9.0, RATE, 300)[0]
    (tmp_path / "events").mkdir()
    write_video(
        tmp_path / f"events/{event}.mp4", (videos.numbered_frame(first + i) for i in range(60)), fps=RATE
    )
    plan = plan_finegym(tmp_path / "events", gym / "annotations")
    assert any(note.startswith("4 elements are taken from clips of their event") for note in plan.notes)
    run(plan, tmp_path / "out", allow_missing=True)
    manifest = read(tmp_path / "out", "test")
    clip = next(clip for clip in manifest.clips if clip.id == element)
    begin, end = (number(manifest, clip, i) for i in (0, clip.length - 1))
    assert abs(begin - SPANS[element][0]) <= 1
    assert abs(end - SPANS[element][-1]) <= 1
    assert clip.tags["from_event"] == "yes"
    assert clip.tags["start_seconds"] == "7.200"  # in the source, all the same


def test_finegym_knows_version_1_0(gym, tmp_path):
    lists = lists_only(gym, tmp_path / "lists")
    (lists / "gym99_train_element_v1.1.txt").unlink()
    elements = (f"{VIDEO}_E_{i:06}_{i + 9:06}_A_0000_0001 {i % 99}\n" for i in range(20484))
    (lists / "gym99_train_org.txt").write_text("".join(elements))
    plan = plan_finegym(gym / "videos", lists, allow_missing=True)
    assert any("version 1.0; the paper uses 1.1" in note for note in plan.notes)


def test_finegym_overlaps_of_training_and_test_are_counted(gym, tmp_path):
    lists = tmp_path / "annotations"
    shutil.copytree(gym / "annotations", lists)
    changed = json.loads(json.dumps(JSON))
    changed[VIDEO]["E_000007_000009"]["segments"]["A_0001_0003"]["timestamps"][0][0] = 0.9
    (lists / "finegym_annotation_info_v1.1.json").write_text(json.dumps(changed))
    notes = plan_finegym(gym / "videos", lists).notes
    assert "1 test elements overlap in time with a training element of the same video" in notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shortid_E_000001_000006_A_0000_0002 0\n", r":1: .* is not `video_E_ssssss"),
        (f"{VIDEO}_E_000001_000006_A_0000_0002 99\n", r":1: label 99 is outside 0..98"),
        (f"{VIDEO}_E_000001_000006_A_0000_0002\n", r":1: "),
        (f"{VIDEO}_E_000001_000006_A_0000_0002 1\n" * 2, r":2: .* is listed before"),
        ("\n", "empty"),
    ],
)
def test_finegym_lines_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_elements(tmp_path / "list.txt", 99)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"timestamps": [[1.0, 2.0]], "segments": {"A_0000_0002": {}}}, "cannot be used (KeyError"),
        (
            {"timestamps": [], "segments": {"A_0000_0002": {"timestamps": [[0, 1]]}}},
            "cannot be used (IndexError",
        ),
        ({"timestamps": [[1, 2]], "segments": {"A_0000_0002": {"timestamps": [[1, 1]]}}}, "is no span"),
        (
            {"timestamps": [[9, 12]], "segments": {"A_0000_0002": {"timestamps": [[-1, 1]]}}},
            "'-1' is no time",
        ),
        ({"timestamps": [[1, 2]], "segments": []}, "the JSON has no element A_0000_0002"),
        ([], "cannot be used (TypeError"),
    ],
)
def test_finegym_damaged_entries_are_reported_one_by_one(gym, tmp_path, entry, message):
    lists = tmp_path / "annotations"
    shutil.copytree(gym / "annotations", lists)
    changed = {**JSON, VIDEO: {**JSON[VIDEO], "E_000001_000006": entry}}
    (lists / "finegym_annotation_info_v1.1.json").write_text(json.dumps(changed))
    problem = plan_finegym(gym / "videos", lists).splits["train"][0].problem
    assert message in problem
    (lists / "finegym_annotation_info_v1.1.json").write_text("{")
    with pytest.raises(ManifestError, match="not JSON"):
        plan_finegym(gym / "videos", lists)
