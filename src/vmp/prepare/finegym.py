"""FineGym, Gym99 v1.1 (Shao et al. 2020): 26,320 and 8,521 elements of 180 competition videos.

Notes:
- an element's id `VVVVVVVVVVV_E_ssssss_eeeeee_A_ssss_eeee` holds the video's 11 characters, which may be `_` and `-`,
  and times rounded down to the second: spans come from the annotation JSON, ids only confirm them;
- times of an element are relative to the start of its event; some elements end after their event;
- an event's `segments` may be null;
- two classes have the same name: classes are told apart by id, and by a word added to these two names;
- version 1.0 has 20,484 training elements, and scripts in circulation still fetch it;
- training and test elements come from the same videos by design, and may touch or overlap;
- source videos are .mp4, .mkv and .webm of different rates, found by stem. Where a source is missing, a clip of the
  event takes its place, and times count from the start of the event.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vmp.data.manifest import NUMBER, raise_faults, read_annotation, read_csv
from vmp.errors import ConfigError, ManifestError
from vmp.prepare.plan import Check, DatasetPlan, Item, check_equal, first_of, read_lines, shipped_classes
from vmp.prepare.videos import find_path, find_videos

TRAIN, TRAIN_V10, TEST = 26320, 20484, 8521
VIDEOS = {"train": 155, "test": 65}
PAGE = "https://sdolivia.github.io/FineGym/"
LISTS = {  # the first one found is taken; mmaction2's names come last
    "train": (
        *("gym99_train_element_v1.1.txt", "gym99_train_element_v1.0.txt", "gym99_train_element.txt"),
        *("gym99_train_org.txt", "gym99_train.txt"),
    ),
    "test": ("gym99_val_element.txt", "gym99_val_element_v1.1.txt", "gym99_val_org.txt", "gym99_val.txt"),
}
JSONS = ("finegym_annotation_info_v1.1.json", "finegym_annotation_info_v1.0.json", "annotation.json")
_ELEMENT = re.compile(r"[A-Za-z0-9_-]{11}_E_\d{6}_\d{6}_A_\d{4}_\d{4}")
_SETS = (  # how many classes in a row belong to each set
    *((6, "vault"), (11, "FX_leap_jump_hop"), (7, "FX_turns"), (7, "FX_front_salto"), (10, "FX_back_salto")),
    *((12, "BB_leap_jump_hop"), (4, "BB_turns"), (8, "BB_flight_salto"), (4, "BB_flight_handspring")),
    *((5, "BB_dismounts"), (15, "UB_circles"), (5, "UB_flight_same_bar"), (2, "UB_transition_flight")),
    (3, "UB_dismounts"),
)
SETS = tuple(name for count, name in _SETS for _ in range(count))  # class id -> set


class Seconds(NamedTuple):
    """A span of the source video. event: when the event begins that it is part of; None: a CSV does not say."""

    start: float
    end: float
    event: float | None = None


Times = dict[str, Seconds | str]  # element -> when it is, or why that is not known


def plan_finegym(
    videos: Path, annotations: Path, *, times: Path | None = None, allow_missing: bool = False
) -> DatasetPlan:
    """Spans of source videos where the times are known, else whole files that were cut before.

    Args:
        videos: folder with source videos by id, or with clips named like their element.
        annotations: folder with the two lists and the annotation JSON, at any depth.
        times: CSV with the columns id,start,end, in seconds from the start of the source, instead of the JSON.
        allow_missing: continue without times and clips; every element then counts as missing.
    """
    classes = shipped_classes("gym99")
    found = find_videos(videos)
    lists = {split: read_elements(_list_file(annotations, split), len(classes)) for split in LISTS}
    elements = [element for part in lists.values() for element in part]
    cut = {element: path for element in elements if (path := _cut_clip(found, element))}
    file = _times_file(annotations, times)
    if not file and not cut and not allow_missing:
        raise ConfigError(
            f"--annotations {annotations}: holds no {JSONS[0]}, which says when each element begins and ends, and "
            f"--videos {videos} no clips that are named like elements ({elements[0]}.mp4). Fetch the JSON from "
            f"{PAGE}, or give a CSV with the columns id,start,end with --times, or a folder of pre-cut clips."
        )
    have_sources = any(name in found for element in elements for name in _sources(element))
    known = read_times(file, elements) if file and (have_sources or not cut) else None

    def item(element: str, label: int) -> Item:
        video, _ = _sources(element)
        tags = {"video": video, "event": classes[label][1:3], "set": SETS[label]}
        whole = Item(id=element, path=cut.get(element, f"{element}.mp4"), label=label, tags=tags)
        return whole if known is None else _part_of_source(whole, known[element], found)

    splits = {split: tuple(item(*entry) for entry in part.items()) for split, part in lists.items()}
    checks = _check_lists(lists, len(classes))
    if known is None:
        notes = [_note_whole_files(cut)]
    else:
        unused = f"; {len(cut):,} pre-cut clips not used" if cut else ""
        notes = [f"spans of source videos, from {file}{unused}", *_note_spans(splits)]
        checks += _check_times(known, len(elements))
    if len(lists["train"]) == TRAIN_V10:
        notes.append(f"lists of version 1.0; the paper uses 1.1: fetch {LISTS['train'][0]} from {PAGE}")
    return DatasetPlan(
        name="finegym",
        classes=classes,
        splits=splits,
        videos=videos,
        checks=tuple(checks),
        notes=tuple(notes),
        options={"times": str(file) if known is not None else None},
    )


def _times_file(annotations: Path, times: Path | None) -> Path | None:
    """The file that says when elements begin and end, if there is one. ConfigError where `times` does not exist."""
    if times and not times.is_file():
        raise ConfigError(f"--times {times}: no such file; it is a CSV with the columns id,start,end")
    return times or first_of(annotations, JSONS, pattern=r"finegym_annotation_info.*\.json")


def _sources(element: str) -> tuple[str, str]:
    """Stems of the files that an element may be a part of: its video, and a clip of its event."""
    return element[:11], element[:27]


def _part_of_source(item: Item, span: Seconds | str, found: dict[str, list[str]]) -> Item:
    """The item as a span of its video, or of a clip of its event where only that is found."""
    video, event = _sources(item.id)
    item = replace(item, path=find_path(found, video, f"{video}.mp4"))
    if isinstance(span, str):
        return replace(item, problem=span)
    start, end, began = span
    tags = item.tags | {"start_seconds": f"{start:.3f}", "end_seconds": f"{end:.3f}"}
    item = replace(item, start=start, end=end, unit="seconds", tags=tags)
    if began is None or video in found or event not in found:
        return item
    tags = tags | {"from_event": "yes"}
    return replace(item, path=found[event][0], start=start - began, end=end - began, tags=tags)


def _note_whole_files(cut: Mapping[str, str]) -> str:
    if cut:
        return "pre-cut clips, as whole files; some in circulation are cut at whole seconds and hold neighbours too"
    return f"no annotation JSON: no span is known. Fetch {JSONS[0]} from {PAGE}"


def _note_spans(splits: Mapping[str, tuple[Item, ...]]) -> list[str]:
    """Notes on the elements whose spans are inexact, or shared by training and test."""
    notes = []
    if from_events := sum("from_event" in item.tags for part in splits.values() for item in part):
        notes.append(
            f"{from_events:,} elements are taken from clips of their event, whose sources are missing: their "
            "first frame is as exact as these were cut"
        )
    if shared := _count_overlaps(splits["train"], splits["test"]):
        notes.append(f"{shared:,} test elements overlap in time with a training element of the same video")
    return notes


def read_elements(path: Path, classes: int) -> dict[str, int]:
    """The label of each element of a list file, in the order of the file. ManifestError has file:line of each fault."""
    labels: dict[str, int] = {}
    faults: list[str] = []
    for number, line in read_lines(path):
        name, _, label = line.rpartition(" ")
        element = re.sub(r"\.(mp4|mkv|webm|avi)$", "", name.strip())
        if not _ELEMENT.fullmatch(element) or not re.fullmatch(r"[0-9]{1,3}", label):
            faults.append(f"{path}:{number}: {line[:80]!r} is not `video_E_ssssss_eeeeee_A_ssss_eeee label`")
        elif int(label) >= classes:
            what = f"label {label} is outside 0..{classes - 1}; Gym288 lists are not read"
            faults.append(f"{path}:{number}: {what}")
        elif element in labels:
            faults.append(f"{path}:{number}: {element} is listed before")
        else:
            labels[element] = int(label)
    raise_faults(faults)
    if not labels:
        raise ManifestError(f"{path}: empty; a line is `element label`. Fetch it again from {PAGE}")
    return labels


def read_videos(annotations: Path) -> set[str]:
    """The YouTube ids of the videos that the lists are about."""
    classes = len(shipped_classes("gym99"))
    return {
        element[:11] for split in LISTS for element in read_elements(_list_file(annotations, split), classes)
    }


def read_times(path: Path, elements: list[str]) -> Times:
    """When elements begin and end, from the annotation JSON or a CSV with the columns id,start,end, or why not.

    Raises ManifestError where the file cannot be used at all.
    """
    if path.suffix.lower() == ".csv":
        rows: dict[str, dict[str, str]] = {}
        for line, row in read_csv(path, required=("id", "start", "end")):
            if rows.setdefault(row["id"], row) is not row:
                raise ManifestError(f"{path}:{line}: {row['id'][:80]} is listed before")
        return {e: _times_of_row(rows.get(e), path) for e in elements}
    try:
        annotations = json.loads(read_annotation(path), object_pairs_hook=_refuse_repeated_keys)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: not JSON ({error}); fetch it again from {PAGE}") from None
    if not isinstance(annotations, dict):
        raise ManifestError(f"{path}: must be an object with one key per video; fetch it from {PAGE}")
    return {e: _times_in(annotations, e) for e in elements}


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"the key {twice!r} occurs twice")
    return found


def _times_of_row(row: Mapping[str, str] | None, path: Path) -> Seconds | str:
    if row is None:
        return f"not in {path.name}"
    if NUMBER.fullmatch(row["start"]) and NUMBER.fullmatch(row["end"]):
        with suppress(ValueError):
            return _ordered(Seconds(float(row["start"]), float(row["end"])))
    return f"{path.name} has no times for it: {row['start'][:40]!r}, {row['end'][:40]!r}"


def _times_in(annotations: Mapping[str, Any], element: str) -> Seconds | str:
    video, event, part = _split(element)
    if video not in annotations:
        return f"the JSON has no video {video}"
    try:
        entry = annotations[video].get(event)
        if entry is None:
            return f"the JSON has no event {event} of {video}"
        stages = (entry["segments"] or {}).get(part)
        if stages is None:
            return f"the JSON has no element {part} in {event} of {video}"
        began = _number(entry["timestamps"][0][0])
        times = stages["timestamps"]
        return _ordered(Seconds(began + _number(times[0][0]), began + _number(times[-1][1]), began))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        return f"the JSON's entry for {event} of {video} cannot be used ({type(error).__name__}: {error})"


def _split(element: str) -> tuple[str, str, str]:
    """The parts of an element's id: video, event and element."""
    return element[:11], element[12:27], element[28:]


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e9:
        raise ValueError(f"{str(value)[:40]!r} is no time in seconds from 0 up")
    return float(value)


def _ordered(span: Seconds) -> Seconds:
    if not 0 <= span.start < span.end < 1e9:
        raise ValueError(f"{span.start} to {span.end} is no span")
    return span


def _agrees(element: str, span: Seconds) -> bool:
    """Whether a start lies within the two seconds that the rounded-down times of the id leave."""
    return -1e-3 <= span.start - int(element[14:20]) - int(element[30:34]) < 2 + 1e-3


def _cut_clip(found: dict[str, list[str]], element: str) -> str | None:
    """A pre-cut clip: `element.mp4` in any folder, or video/E_.../A_....mp4."""
    if element in found:
        return found[element][0]
    video, event, part = _split(element)
    nested = (p for p in found.get(part, ()) if p.split("/")[-3:-1] == [video, event])
    return next(nested, None)


def _check_times(known: Times, elements: int) -> list[Check]:
    usable = {element: span for element, span in known.items() if isinstance(span, Seconds)}
    agree = sum(_agrees(element, span) for element, span in usable.items())
    return [
        check_equal("elements with times", elements, len(usable)),
        check_equal("times that agree with the id", len(usable), agree),
    ]


def _check_lists(lists: dict[str, dict[str, int]], classes: int) -> list[Check]:
    checks: list[Check] = []
    for split, count in (("train", TRAIN), ("test", TEST)):
        part = lists[split]
        checks += [
            check_equal(f"elements in {split}", count, len(part)),
            check_equal(f"classes in {split}", classes, len(set(part.values()))),
            check_equal(f"source videos of {split}", VIDEOS[split], len({element[:11] for element in part})),
        ]
    return [*checks, check_equal("elements in both", 0, len(lists["train"].keys() & lists["test"].keys()))]


def _count_overlaps(train: tuple[Item, ...], test: tuple[Item, ...]) -> int:
    """How many test items share time with a training item of their video."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for item in train:
        if item.end is not None:
            spans.setdefault(item.path, []).append((item.start, item.end))
    return sum(
        any(item.start < end and start < item.end for start, end in spans.get(item.path, ()))
        for item in test
        if item.end is not None
    )


def _list_file(annotations: Path, split: str) -> Path:
    where = f"--annotations {annotations}"
    if not annotations.is_dir():
        raise ConfigError(f"{where}: no such folder; it should hold the lists from {PAGE}")
    file = first_of(annotations, LISTS[split])
    if not file:
        raise ConfigError(f"{where}: holds no {LISTS[split][0]}; fetch it from {PAGE}")
    return file
