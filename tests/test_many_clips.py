"""Lists of hundreds of thousands of rows, where each row must not cost as much as its file, or the whole list, does."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmp.data import times
from vmp.data.columns import Clip, Clips, Columns
from vmp.data.manifest import Manifest
from vmp.data.times import write_steps
from vmp.datasets import Splits, _check_disjoint
from vmp.errors import ManifestError
from vmp.prepare import locate
from vmp.prepare.division import _leave_out_copies
from vmp.prepare.list_format import Row
from vmp.prepare.measure import Measured
from vmp.prepare.plan import DatasetPlan, Item
from vmp.prepare.rows import in_place_rows
from vmp.prepare.splits import Sample, by_ratio


def split_of(spans, path="v.mp4", frames=1000) -> Manifest:
    clips = [
        Clip(f"{path}{n}", path, 0, start=start, end=end, frames=frames)
        for n, (start, end) in enumerate(spans)
    ]
    return Manifest(Path("some.csv"), Path(), ("a", "b"), Clips.of(clips))


SPANS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 5)).map(lambda pair: (pair[0], sum(pair))), max_size=5
)


@settings(max_examples=100, deadline=None)
@given(SPANS, SPANS, st.booleans())
def test_shared_frames_are_found(trained, tested, whole):
    trained = [*trained, (3, None)] if whole else trained
    sets = [[set(range(a, 20 if b is None else b)) for a, b in spans] for spans in (trained, tested)]
    shared = sum(any(own & other for other in sets[0]) for own in sets[1])
    splits = Splits(split_of(trained, frames=20), split_of(tested, "./v.mp4", frames=20), None)
    if shared:
        with pytest.raises(ManifestError, match=rf": {shared} clip\(s\) are in "):
            _check_disjoint(splits)
    else:
        _check_disjoint(splits)


def test_clips_of_one_video_are_not_compared_in_pairs(monkeypatch):
    made, clip = [], Columns.clip
    monkeypatch.setattr(Columns, "clip", lambda self, row: made.append(row) or clip(self, row))
    spans = [(n, n + 9) for n in range(900)]
    splits = Splits(
        split_of(spans), split_of([(a + 10_000, b + 10_000) for a, b in spans], frames=20_000), None
    )
    _check_disjoint(splits)
    assert len(made) < 10 * len(spans)


def test_the_times_of_a_video_are_worked_out_once_for_all_its_clips(monkeypatch):
    """Twelve videos of uneven times, more than are remembered at once, whose clips come in turn."""
    read, calls = times.read_steps, []
    monkeypatch.setattr(times, "read_steps", lambda text: calls.append(text) or read(text))
    found = {}
    for n in range(12):
        at = np.cumsum(1 / 30 + np.random.default_rng(n).random(300) * 0.02)
        found[f"{n}.mp4"] = Measured("ok", frames=300, fps=30.0, steps=write_steps(at))
    items = [
        Item(id=f"{n}-{start}", path=f"{n}.mp4", label=0, start=start, end=start + 1, unit="seconds")
        for start in range(5)
        for n in range(12)
    ]
    plan = DatasetPlan(name="some", classes=("a", "b"), splits={"train": tuple(items)}, videos=Path())
    rows = in_place_rows(plan, found)["train"]
    assert [clip.id for clip in rows] == [item.id for item in items]
    assert all(clip.length == times.read_steps(clip.times).size for clip in rows)
    assert len([text for text in calls if text.count(" ") > 200]) == len(found)


def seconds(work, *arguments) -> float:
    """CPU time."""
    began = time.process_time()
    work(*arguments)
    return time.process_time() - began


def test_copies_are_left_out_in_one_pass():
    trained = [Row(f"list:{n}", f"{n}.mp4", "wave") for n in range(6000)]
    tested = [Row(f"list:{n}", f"copy{n}.mp4", "wave") for n in range(3000)]
    copies = {path: str(n) for n in range(3000) for path in (f"{n}.mp4", f"copy{n}.mp4")}
    splits = {"train": trained, "val": [], "test": tested}
    assert seconds(_leave_out_copies, splits, [], copies) < 1
    assert splits["train"] == trained[3000:]


def test_many_classes_are_split_as_fast_as_few():
    def samples(classes: int) -> list[Sample]:
        return [Sample(f"{n % classes}", f"{n}.mp4") for n in range(8000)]

    few, many = (seconds(by_ratio, samples(classes), (0.8, 0.1, 0.1)) for classes in (10, 1000))
    assert many < 4 * few


def test_folders_that_each_hold_a_video_of_one_name(tmp_path, monkeypatch):
    paths = [f"take{n}/video.mp4" for n in range(4000)]
    monkeypatch.setattr(locate, "find_videos", lambda root: {"video": paths})
    monkeypatch.setattr(locate, "_is_clip", lambda path: False)
    locator = locate.Locator(tmp_path)
    rows = [Row(f"list:{n}", os.path.splitext(path)[0], "wave") for n, path in enumerate(paths)]
    found: list[str] = []
    took = seconds(lambda: found.extend(locator.locate(row, tmp_path / "list.csv").path for row in rows))
    assert found == paths
    assert took < 1.5
