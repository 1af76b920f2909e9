"""Clips in class folders or a CSV, with their splits, from files to manifests; and what is refused, by name."""

import csv
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from configs import ROOT, composed
from small_datasets import read, run, small_video

from vmp.cli import friendly
from vmp.datasets import find_splits
from vmp.errors import ConfigError, ManifestError
from vmp.prepare.division import divide
from vmp.prepare.folders import _ids, plan_folders, read_table, scan
from vmp.prepare.list_format import Row, sort_labels

TWO = ("wave/a.mp4", "wave/b.mp4", "kick/a.mp4", "kick/b.mp4")
SPLIT = ("train/wave/a.mp4", "train/kick/b.mp4", "test/wave/c.mp4")


def tree(root: Path, *paths: str, **texts: str) -> Path:
    """Files with their own name in them: different contents, and never opened as videos."""
    root.mkdir(parents=True, exist_ok=True)
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            file.mkdir(exist_ok=True)
        else:
            file.write_text(texts.get(path, path))
    return root


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Real videos of two classes, kick/3.mp4 being a copy of kick/2.mp4, with what people have beside their clips."""
    root = tmp_path_factory.mktemp("clips")
    for label in ("wave", "kick"):
        for n in range(4):
            small_video(root / label / f"{n}.mp4", frames=10 + n + 4 * (label == "wave"))
    shutil.copy(root / "kick/2.mp4", root / "kick/3.mp4")
    return tree(root, ".DS_Store", "wave/.a.mp4.part", "wave/Thumbs.db", "README.txt", "__MACOSX/wave/")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """data.root of the tests that measure videos, so that each is measured once."""
    return tmp_path_factory.mktemp("data")


def test_names_that_a_manifest_cannot_hold_are_refused(tmp_path):
    root = tree(tmp_path / "frames", "wave/a /img_1.jpg", "wave/b.mp4", "kick/a.mp4", "kick/b.mp4")
    plan, _ = plan_folders(root, ratio=(0.5, 0, 0.5))
    with pytest.raises(ManifestError, match="begins or ends with a blank; rename"):
        run(plan, tmp_path / "out")
    for n, name in enumerate((" wave", "wave ", "wave\u00a0")):
        root = tree(tmp_path / str(n), f"{name}/a.mp4", f"{name}/b.mp4", "kick/a.mp4", "kick/b.mp4")
        with pytest.raises(
            ManifestError, match=r"'.*': its name begins or ends with a blank; rename the fold"
        ):
            plan_folders(root, ratio=(0.5, 0, 0.5))


def test_parts_of_long_videos_are_read_where_they_are(tmp_path):
    small_video(tmp_path / "v/long.mp4", 40, fps=Fraction(1, 60))  # forty minutes
    rows = [f"long.mp4,{label},{120 * n},{120 * n + 60},{split}" for n, (label, split) in enumerate(EACH)]
    (tmp_path / "clips.csv").write_text("\n".join(["path,label,start,end,split", *rows]))
    given = [f"dataset.root={tmp_path}/v", f"dataset.csv={tmp_path}/clips.csv", f"data.root={tmp_path}/data"]
    train = find_splits(composed("dataset=folders", "trainer.batch_size=2", *given)).train
    assert [(clip.start, clip.end) for clip in train.clips] == [(0, 1), (2, 3)]


EACH = [(label, split) for split in ("train", "test") for label in ("kick", "wave")]


def test_ids_are_unique_whatever_suffixes_files_have():
    rows = [Row("list", path, "wave") for path in ("a.mp4", "a.avi", "a.mp4.mkv", "b.mp4", "b.mp4.mkv")]
    assert len(set(_ids(rows).values())) == len(rows)


def test_names_that_differ_in_a_blank_before_the_suffix_have_two_ids():
    rows = [Row("list", path, "wave") for path in ("a/clip.mp4", "a/clip .mp4", "a/other .mp4")]
    assert list(_ids(rows).values()) == ["a/clip.mp4", "a/clip .mp4", "a/other"]


def listed(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open(encoding="utf-8")))


def test_class_folders_by_fold_end_to_end(clips, data):
    """Over the folds each clip is tested once; a copy is never on the other side; split.csv reads back the same."""
    out, tested = data / "folders", []
    for fold in (1, 2):
        plan, home = plan_folders(clips, folds=2, fold=fold)
        run(plan, out)
        train, test = read(out, f"{home}/train"), read(out, f"{home}/test")
        assert train.classes == ("kick", "wave")
        assert {(c.path.split("/")[0]) for c in test.clips} == {"kick", "wave"}
        assert all(c.status == "ok" and train.classes[c.label] == c.path.split("/")[0] for c in test.clips)
        assert [c.id + ".mp4" for c in train.clips] == [c.path for c in train.clips]
        tested += [c.path for c in test.clips]
        together = [{"kick/2.mp4", "kick/3.mp4"} <= {c.path for c in part.clips} for part in (train, test)]
        assert sorted(together) == [False, True]
        again, other = plan_folders(clips, out / home / "split.csv")
        assert other != home or again.splits == plan.splits
        assert [sorted(i.path for i in part) for part in again.splits.values()] == [
            sorted(c.path for c in part.clips) for part in (train, test)
        ]
    assert sorted(tested) == sorted(f"{label}/{n}.mp4" for label in ("kick", "wave") for n in range(4))


def test_the_command_makes_them_once_and_for_each_fold(clips, data, capsys):
    def splits(*more: str):
        given = ["dataset=folders", f"dataset.root={clips}", "dataset.folds=2", "trainer.batch_size=2"]
        return find_splits(composed(*given, f"data.root={data}", *more))

    first, second = splits("dataset.fold=1"), splits("dataset.fold=2")
    assert f"the split is listed in {first.test.path.parent}/split.csv" in capsys.readouterr().out
    assert first.test.path.parent != second.test.path.parent
    assert first.val is None
    assert {c.id for c in first.test.clips} == {c.id for c in second.train.clips}
    assert len((data / "folders/measured.jsonl").read_text().splitlines()) == 8  # measured once
    few = splits("dataset.fold=1", "trainer.clips=2")
    assert (len(few.train.clips), few.classes) == (2, ("kick", "wave"))
    with pytest.raises(ConfigError, match=r"batch_size = 5: .* has 4 usable clips"):
        splits("dataset.fold=1", "trainer.batch_size=5")


def test_a_csv_with_groups_spans_and_a_split(clips, data):
    out = data / "folders"
    (clips / "parts.csv").write_text(
        "path,label,start,end,group,split\n"
        "wave/0.mp4,a,0,0.2,p,train\nwave/0.mp4,b,0.2,0.4,p,train\nkick/1.mp4,a,,,q,Validation\n"
        "kick/2.mp4,b,,,r,test\nkick/3.mp4,b,,,s,train\nkick/0.mp4,b,,,,unused\n"
    )
    plan, home = plan_folders(clips, Path("parts.csv"))  # looked for in the root
    said = run(plan, out).text
    assert "note    2 clip(s) have fewer than 9 frames, so that models see frames more than once" in said
    assert "wave/0@0-0.2: 5 frame(s)" in said
    train, val, test = (read(out, f"{home}/{split}").clips for split in ("train", "val", "test"))
    assert [(c.id, c.label, c.start, c.end) for c in train] == [
        ("wave/0@0-0.2", 0, 0, 5),
        ("wave/0@0.2-0.4", 1, 5, 10),
    ]
    assert [(c.id, c.tags) for c in (*val, *test)] == [("kick/1", {"group": "q"}), ("kick/2", {"group": "r"})]
    assert [(row["path"], row["split"]) for row in listed(out / home / "split.csv")] == [
        *[("kick/0.mp4", "unused"), ("kick/1.mp4", "val"), ("kick/2.mp4", "test")],
        *[("kick/3.mp4", "unused"), ("wave/0.mp4", "train"), ("wave/0.mp4", "train")],
    ]
    assert any("kick/3.mp4 is kick/2.mp4" in note for note in plan.notes)  # the copy of a tested clip


def test_spans_keep_all_their_digits(clips, data):
    """In ids, which must differ, and in split.csv, which may be a dataset.csv again."""
    spans = [("1234.5671", "1234.5678"), ("1234.5672", "1234.5681"), ("1000000.04", "1000000.08")]
    rows = [
        f"wave/0.mp4,{label},{start},{end},train\n" for label, (start, end) in zip("aab", spans, strict=True)
    ]
    (clips / "exact.csv").write_text("path,label,start,end,split\n" + "".join(rows) + "kick/1.mp4,a,,,val\n")
    plan, home = plan_folders(clips, Path("exact.csv"))
    ids = [item.id for item in plan.splits[f"{home}/train"]]
    assert ids == [f"wave/0@{start}-{end}" for start, end in spans]
    header, *table = plan.tables[f"{home}/split.csv"]
    assert [tuple(row[2:4]) for row in table if row[-1] == "train"] == spans
    assert header[2:4] == ["start", "end"]


def test_a_link_to_itself_and_names_that_cannot_be_encoded_end_with_one_message(tmp_path, capsys):
    root = tree(tmp_path, "kick/a.mp4", "wave/b.mp4")
    loop = root / "wave/loop.mp4"
    loop.symlink_to(loop)
    with pytest.raises(SystemExit, match="2"), friendly():
        plan_folders(root, ratio=(0.5, 0, 0.5))
    assert f"error: {loop}: cannot be read or written (Too many levels" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"), friendly():
        (root / "log.txt").write_text("caf\udce9", encoding="utf-8")
    assert "'caf\\udce9': cannot be encoded as utf-8" in capsys.readouterr().err


def test_folders_that_give_the_split(tmp_path):
    root = tree(tmp_path, *SPLIT, "valid/kick/d.MOV", "train/notes.md")
    plan, home = plan_folders(root)
    assert {name.split("/")[1]: [i.path for i in part] for name, part in plan.splits.items()} == {
        "train": ["train/kick/b.mp4", "train/wave/a.mp4"],
        "val": ["valid/kick/d.MOV"],
        "test": ["test/wave/c.mp4"],
    }
    assert plan.classes == ("kick", "wave")
    assert plan_folders(root, ratio=None)[1] == home
    with pytest.raises(
        ConfigError, match=r"dataset.ratio: the clips of .* are split already, by .*; leave it out"
    ):
        plan_folders(root, ratio=(0.8, 0, 0.2))


def test_a_group_stays_on_one_side_of_every_split(tmp_path):
    root = tree(tmp_path, *(f"{label}/{n}.mp4" for label in ("x", "y") for n in range(12)))
    lines = [f"{label}/{n}.mp4,{label},person {n // 2}" for label in ("x", "y") for n in range(12)]
    (root / "clips.csv").write_text("\n".join(["path,label,group", *lines]))
    rows = read_table(root, Path("clips.csv"))
    for more in ({"ratio": (0.5, 0.25, 0.25)}, {"folds": 3, "fold": 2}):
        parts = divide(root, rows, **more).splits
        groups = [{row.group for row in part} for part in parts.values()]
        assert len(set().union(*groups)) == sum(map(len, groups)) == 6
        assert divide(root, rows[::-1], **more).splits.keys() == parts.keys()
        assert {row.path for row in divide(root, rows[::-1], **more).splits["test"]} == {
            row.path for row in parts["test"]
        }


def grouped(tmp_path, *groups: str) -> list[Row]:
    """Rows of a CSV whose clips are of these groups, each group with two classes."""
    root = tree(tmp_path, *(f"{label}/{n}.mp4" for label in "xy" for n in range(len(groups))))
    lines = [f"{label}/{n}.mp4,{label},{group}" for label in "xy" for n, group in enumerate(groups)]
    (root / "clips.csv").write_text("\n".join(["path,label,group", *lines]), encoding="utf-8")
    return read_table(root, Path("clips.csv"))


def test_a_share_without_clips_is_noted(tmp_path):
    rows = grouped(tmp_path, "Ann", "Bo")
    (note,) = divide(tmp_path, rows, ratio=(0.5, 0.1, 0.4)).notes
    assert note.startswith(
        "val has no clip: its share of 4 clips in 2 group(s), which are not parted, is 0.1; raise"
    )
    assert not divide(tmp_path, rows, ratio=(0.5, 0, 0.5)).notes


@pytest.mark.parametrize("key", ["trainer.select=best", "train.patience=1"])
def test_what_needs_validation_names_the_ratio(clips, data, key):
    words = ("dataset=folders", f"dataset.root={clips}", f"data.root={data}", "trainer.batch_size=1", key)
    with pytest.raises(
        ConfigError, match=r"no validation split.* or give val a \(larger\) share in dataset.ratio"
    ):
        find_splits(composed(*words, "dataset.folds=2", "dataset.fold=1"), progress=False)


def test_a_group_is_one_however_its_accents_are_coded(tmp_path):
    rows = grouped(tmp_path, "Zo\xe9", "Zoe\u0301", " Zo\xe9 ", "Bo", "Cy", "Di")
    for seed in range(5):
        division = divide(tmp_path, rows, folds=2, fold=1, seed=seed)
        sides = {split for split, part in division.splits.items() for row in part if row.path[2] in "012"}
        assert len(sides) == 1
        assert not division.notes


def test_groups_that_differ_in_case_are_named_and_never_parted(tmp_path):
    rows = grouped(tmp_path, "Ann", "ann", "Bo", "Cy")
    notes, errors = set(), []
    for seed in range(10):
        try:
            notes.update(divide(tmp_path, rows, folds=2, fold=1, seed=seed).notes)
        except ManifestError as error:
            errors.append(str(error))
    [note] = notes
    assert "1 group(s) are spelt in several ways and count as different groups:\n  'Ann' and 'ann'\n" in note
    assert errors
    for error in errors:
        assert "1 group(s) have clips in several splits:\n  group 'Ann' and 'ann': x/" in error
        assert "Spell a group alike everywhere" in error


def test_class_folders_that_look_alike_are_named(tmp_path):
    root = tree(
        tmp_path, *(f"{name}/{clip}.mp4" for name in ("Walk", "walk", "\xe9", "e\u0301") for clip in "ab")
    )
    (note,) = plan_folders(root, folds=2, fold=1)[0].notes
    assert "'Walk' and 'walk'" in note
    assert "'e\u0301' and '\xe9'" in note
    root = tree(tmp_path / "good", *(f"{name}/{clip}.mp4" for name in ("walk", "walks") for clip in "ab"))
    assert not plan_folders(root, folds=2, fold=1)[0].notes


def test_labels_that_are_numbers_are_in_their_order(tmp_path):
    root = tree(tmp_path, *(f"{n}/{clip}.mp4" for n in (0, 2, 10) for clip in "ab"))
    assert plan_folders(root, folds=2, fold=1)[0].classes == ("0", "2", "10")
    assert sort_labels(["10.0", "0.0", "2.0"]) == ("0.0", "2.0", "10.0")  # as pandas writes them
    assert sort_labels(["b10", "b2", "7"]) == ("7", "b10", "b2")


def test_one_number_in_two_spellings_is_refused_where_labels_are_names(tmp_path):
    root = tree(tmp_path, *(f"{n}/{clip}.mp4" for n in ("1", "01", "2") for clip in "abc"))
    with pytest.raises(ManifestError, match=r"3 label\(s\)(.|\n)*label '1' of 1/a.mp4: other labels .* '01'"):
        plan_folders(root, folds=2, fold=1)
    lines = ["path,label", "1/a.mp4,1", "1/b.mp4,01", "1/c.mp4,01", "2/a.mp4,02", "2/b.mp4,02"]
    (root / "clips.csv").write_text("\n".join(lines))
    with pytest.raises(ManifestError, match=r"1 label\(s\)(.|\n)*clips.csv:2: label '1' of 1/a.mp4: .* '01'"):
        plan_folders(root, Path("clips.csv"), folds=2, fold=1)
    (root / "clips.csv").write_text("\n".join([*lines[:1], *lines[2:]]))
    assert plan_folders(root, Path("clips.csv"), folds=2, fold=1)[0].classes == ("01", "02")


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ((*TWO, "one/a.mp4"), r"class 'one' has one clip, one/a.mp4\nAdd clips"),
        ((*TWO, "none/"), r"none: an empty class, without any video.*remove the folder"),
        ((*TWO, "none/notes.txt"), r"none: an empty class"),
        ((*TWO, "kick/more/c.mp4"), r"kick/more: a folder in a class folder, kick; move its clips up"),
        ((*TWO, "kick/c.mp4.part"), r"kick/c.mp4.part: no video by its name.*\.avi"),
        (
            (*TWO, "kick/c.jpg", "wave/c.zip"),
            r"2 place(.|\n)*kick/c.jpg: no video(.|\n)*wave/c.zip: no video",
        ),
        ((*TWO, "stray.mp4"), r"1 video\(s\) in no class folder, such as stray.mp4"),
        ((*TWO, "train/kick/c.mp4"), r"holds train/ and kick/, wave/ side by side"),
        ((*SPLIT, "testing/kick/c.mp4"), r"test/, testing/ mean the same split"),
        ((*SPLIT, "val/c.mp4"), r"val/c.mp4: in no class folder"),
        ((*SPLIT, "val/"), r"val: holds no class folder"),
        ((*SPLIT, "test/jump/c.mp4"), r"class 'jump' is in test \(test/jump/c.mp4\) but not in train"),
        (("train/kick/a.mp4", "train/wave/a.mp4"), r"2 in train, 0 in val, 0 in test; wanted are"),
        (("kick/a.mp4", "kick/b.mp4"), r"one class, 'kick'; a classifier needs at least 2"),
        (("notes.txt",), r"holds no folder; wanted is DIR/<class>"),
        (("a.mp4",), r"in no class folder, such as a.mp4"),
    ],
)
def test_folders_that_are_ambiguous_are_refused(tmp_path, paths, said):
    root = tree(tmp_path, *paths)
    given = paths[0].startswith("train/")
    with pytest.raises(ManifestError, match=said):
        plan_folders(root, **({} if given else {"folds": 2, "fold": 1}))


HEAD = "path,label,group,split\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f"{HEAD}wave/a.mp4,w,,train\nkick/a.mp4,k,,trian\n",
            r"clips.csv:3: split 'trian'; allowed are train, val",
        ),
        (
            f"{HEAD}wave/a.mp4,w,,train\nkick/a.mp4,k,,\n",
            r"clips.csv:3: split is empty, and other rows have one",
        ),
        (
            f"{HEAD}wave/a.mp4,w,,\nwave/a.mp4,k,,\n",
            r"clips.csv:3: .* on line 2, too, there as 'w' and here as 'k'",
        ),
        (f"{HEAD}wave/a.mp4,w,,\nwave/a.mp4,w,,\n", r"clips.csv:3: wave/a.mp4 is on line 2, too; list each"),
        (
            f"{HEAD}wave/a.mp4,w,g,train\nkick/a.mp4,k,g,test\n",
            r"group 'g': wave/a.mp4 in train, kick/a.mp4 in test",
        ),
        (f"{HEAD}../a.mp4,w,,train\n", r"clips.csv:2: .*climbs out"),
        ("path,label,person\nwave/a.mp4,w,1\n", r"person not known; found path, label, person"),
        (
            "path,label,start,end,group\nwave/a.mp4,w,0,1,g\nwave/a.mp4,k,1,2,h\n",
            r"clips.csv:3: wave/a.mp4 in group 'h', and in 'g' before",
        ),
    ],
)
def test_tables_that_are_ambiguous_are_refused(tmp_path, text, said):
    root = tree(tmp_path, *TWO)
    (root / "clips.csv").write_text(text)
    with pytest.raises(ManifestError, match=said):
        plan_folders(
            root,
            root / "clips.csv",
            **({} if "split" in text and "train" in text else {"folds": 2, "fold": 1}),
        )


def test_the_same_file_under_two_labels_is_refused(tmp_path):
    root = tree(tmp_path, *TWO)
    shutil.copy(root / "wave/b.mp4", root / "kick/b.mp4")
    with pytest.raises(
        ManifestError, match=r"wave/b.mp4 as 'wave', kick/b.mp4 as 'kick'|kick/b.mp4 as 'kick', wave"
    ):
        plan_folders(root, folds=2, fold=1)


@pytest.mark.parametrize("text", ["", "<!DOCTYPE html><title>404</title>"])
def test_what_failed_downloads_leave_is_no_copy(tmp_path, text):
    names = ("wave/c.mp4", "kick/c.mp4", "kick/d.mp4")
    root = tree(tmp_path, *TWO, *names, **dict.fromkeys(names, text))
    plan, _ = plan_folders(root, folds=2, fold=1)
    assert len(plan.items) == 7
    assert not any("copies" in note for note in plan.notes)


def test_what_is_missing_is_named(tmp_path):
    root = tree(tmp_path / "clips", *TWO)
    with pytest.raises(ConfigError, match=r"dataset.root = .*none: no such folder; it holds DIR/<class>"):
        plan_folders(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"dataset.csv = x.csv: no such file, neither here nor in .*clips"):
        plan_folders(root, Path("x.csv"))
    with pytest.raises(
        ConfigError, match=r"4 clips, and nothing says which are tested.*ratio=\[0.8,0,0.2\].*folds=5"
    ):
        plan_folders(root)
    assert [row.label for row in scan(root)] == ["kick", "kick", "wave", "wave"]


def test_names_of_runs_have_the_fold():
    one = composed("dataset=folders", "dataset.root=.", "dataset.folds=5", "dataset.fold=3")
    assert one.folder.parts[1] == "folders-fold3"
    assert composed("dataset=folders", "dataset.root=.").folder.parts[1] == "folders"
    assert yaml.safe_load((ROOT / "conf/dataset/folders.yaml").read_text())["seed"] == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["dataset.folds=5", "dataset.fold=6"], "dataset.fold = 6: folds count from 1 to dataset.folds = 5"),
        (["dataset.folds=5"], "dataset.folds = 5, dataset.fold = null: give both"),
        (["dataset.fold=5"], "dataset.folds = null, dataset.fold = 5: give both"),
        (["dataset.folds=1", "dataset.fold=1"], "dataset.folds = 1: must be greater than or equal to 2"),
        (["dataset.folds=2", "dataset.fold=0"], "dataset.fold = 0: must be greater than or equal to 1"),
        (["dataset.ratio=[0.8,0.1,0.2]"], r"dataset.ratio = \[0.8, 0.1, 0.2\]: the shares .* must sum to 1"),
        (["dataset.ratio=[1,0,0]"], r"dataset.ratio = \[1, 0, 0\]: train, and val or test, must have"),
        (["dataset.ratio=[0,0,1]"], r"dataset.ratio = \[0, 0, 1\]: train, and val or test, must have"),
        (["dataset.ratio=0.8"], r"dataset.ratio = 0.8: must be a list"),
        (["dataset.ratio=[0.5,0,0.5]", "dataset.folds=2", "dataset.fold=1"], "are two splits; drop one"),
    ],
)
def test_keys_that_contradict_each_other(given, said):
    with pytest.raises(ConfigError, match=said):
        composed("dataset=folders", "dataset.root=.", *given)
