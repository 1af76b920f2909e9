"""Kinetics, UCF-101 and Something-Something v2 from small lists in the official formats, with real videos."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
import videos
from configs import composed
from small_datasets import number, read, run, small_video

from vmp.datasets import find_splits
from vmp.errors import ConfigError, ManifestError
from vmp.prepare.official import plan_official


def failed(plan) -> dict[str, tuple[str, str]]:
    return {c.name: (c.expected, c.found) for c in plan.checks if not c.ok}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


# --- Kinetics ------------------------------------------------------------------------------------------------------

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
CUT, WHOLE, GONE = "-abc_DEF-12", "_whole-vid_", "goneGONEgon"


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory) -> Path:
    """One clip that was cut, one whole video with two spans, one video that left YouTube."""
    home = tmp_path_factory.mktemp("kinetics")
    (home / "videos/train").mkdir(parents=True)
    videos.numbered_video(home / f"videos/train/{CUT}_000417_000427.mp4", 20)
    videos.numbered_video(home / f"videos/{WHOLE}.mkv", 60, fps=10)
    train = f'zumba,{CUT},417,427,train,0\n"massaging person\'s head",{WHOLE},1,3,train,0\nzumba,{GONE},0,10,train,0\n'
    write(home / "lists/kinetics400/train.csv", HEADER + train)
    write(home / "lists/kinetics400/validate.csv", HEADER + f"zumba,{WHOLE},3,5,val,0\n")
    write(home / "lists/kinetics400/test.csv", "youtube_id,time_start,time_end,split\nx,0,10,test\n")
    return home


@pytest.mark.slow
def test_kinetics_clips_that_were_cut_and_spans_of_whole_videos(kinetics, tmp_path):
    plan = plan_official("kinetics400", kinetics / "videos", kinetics / "lists")
    assert plan.classes == ("massaging person's head", "zumba")
    assert failed(plan) == {
        "classes": ("400", "2"),
        "clips in train": ("at least 219,782", "3"),
        "clips in val": ("at least 18,035", "1"),
        "class names": ("those of weights=k400", "others"),
    }
    assert any("test.csv: says no labels and is not used" in note for note in plan.notes)
    assert run(plan, tmp_path).written == ()
    done = run(plan, tmp_path, allow_missing=True)
    assert [path.name for path in done.written] == ["train.csv", "val.csv"]
    train, val = read(tmp_path, "train"), read(tmp_path, "val")
    status = {c.id: c.status for c in train.clips}
    assert status == {
        f"zumba/{CUT}_000417_000427": "ok",
        f"massaging person's head/{WHOLE}_000001_000003": "ok",
        f"zumba/{GONE}_000000_000010": "missing",
    }
    cut, span = train.clips[0], train.clips[1]
    assert (cut.start, cut.end, cut.frames) == (0, None, 20)
    assert (span.start, span.end, number(train, span)) == (
        10,
        30,
        10,
    )  # seconds 1 to 3 at 10 frames per second
    assert number(val, val.clips[0]) == 30


def test_kinetics_test_set_with_labels_and_clips_on_two_sides(tmp_path):
    lists = tmp_path / "lists"
    rows = f"zumba,{CUT},417,427,train,0\nabseiling,{WHOLE},1,3,train,0\n"
    for name in ("train", "val", "test"):
        write(lists / f"{name}.csv", HEADER + rows)
    plan = plan_official("kinetics700", tmp_path, lists)
    assert set(plan.splits) == {"train", "val", "test"}
    assert failed(plan)["clips on two sides of the split"] == ("0", "2")
    assert failed(plan)["clips in test"] == ("at least 64,260", "2")
    quoted = HEADER.strip().replace("label", '"Label"')
    write(lists / "test.csv", f"{quoted}\nzumba,{CUT},417,427,test,0\n")
    assert len(plan_official("kinetics700", tmp_path, lists).splits["test"]) == 1
    write(lists / "val.csv", HEADER + f"zoomba,{CUT},417,427,val,0\n")
    with pytest.raises(ManifestError, match=r"val.csv:2: 'zoomba' is not one of the 2 classes"):
        plan_official("kinetics700", tmp_path, lists)
    (lists / "val.csv").unlink()
    with pytest.raises(
        ConfigError, match=r"holds no validate.csv or val.csv or kinetics_val.csv; fetch the lists"
    ):
        plan_official("kinetics700", tmp_path, lists)


def kinetics_lists(folder: Path, label: str = "zumba") -> Path:
    write(folder / "train.csv", HEADER + f"zumba,{WHOLE},1,3,train,0\n{label},{WHOLE},3,4,train,0\n")
    write(folder / "val.csv", HEADER + f"zumba,{WHOLE},4,5,val,0\n")
    return folder


def test_a_label_does_not_lead_out_of_the_folder_of_clips(tmp_path):
    write(tmp_path / f"videos/{WHOLE}.mkv", "")
    lists = kinetics_lists(tmp_path / "lists", "../../../up")
    plan = plan_official("kinetics700", tmp_path / "videos", lists)
    with pytest.raises(ManifestError, match=r"clip '../../../up/_whole-vid_\S+': cannot name a file"):
        run(plan, tmp_path / "a/b", how="cut", allow_missing=True)
    assert {p.name for p in tmp_path.iterdir()} == {"a", "lists", "videos"}


def test_lists_are_not_overwritten_nor_mixed_nor_mistaken(tmp_path):
    lists = kinetics_lists(tmp_path / "data")
    plan = plan_official("kinetics700", tmp_path, lists)
    before = (lists / "train.csv").read_bytes()
    with pytest.raises(
        ConfigError, match=r"train.csv, \S*val.csv would be replaced .*; choose another --out"
    ):
        run(plan, lists, allow_missing=True)
    assert (lists / "train.csv").read_bytes() == before
    write(lists / "test.csv", "")
    run(plan_official("kinetics700", tmp_path, lists), lists / "out", allow_missing=True)
    again = plan_official("kinetics700", tmp_path, lists)  # not from its own manifests
    assert again.splits == plan.splits
    kinetics_lists(lists / "copy")
    assert plan_official("kinetics700", tmp_path, lists).splits == plan.splits
    kinetics_lists(lists / "kinetics700_2020", "abseiling")
    with pytest.raises(
        ConfigError, match=r"holds .*train.csv and .*2020/train.csv, which differ; name the folder"
    ):
        plan_official("kinetics700", tmp_path, lists)


# --- UCF-101 -------------------------------------------------------------------------------------------------------


def ucf_lists(home: Path, classes: str = "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n") -> Path:
    """As published: \\r\\n in training lists, no number in test lists, a file name that differs from its class."""
    write(home / "ucfTrainTestlist/classInd.txt", classes)
    names = [("ApplyEyeMakeup", "ApplyEyeMakeup"), ("HandstandPushups", "HandStandPushups")]
    for split, tested in ((1, "g01"), (2, "g08"), (3, "g15")):
        paths = [
            (number, group, f"{folder}/v_{stem}_{group}_c01.avi")
            for number, (folder, stem) in enumerate(names, 1)
            for group in ("g01", "g08", "g15")
        ]
        train = "".join(f"{path} {number}\r\n" for number, group, path in paths if group != tested)
        test = "".join(f"{path}\n" for _, group, path in paths if group == tested)
        write(home / f"ucfTrainTestlist/trainlist{split:02}.txt", train)
        write(home / f"ucfTrainTestlist/testlist{split:02}.txt", test)
    return home


@pytest.mark.slow
def test_ucf101_in_three_splits(tmp_path):
    lists = ucf_lists(tmp_path / "lists")
    for group in ("g01", "g08", "g15"):
        small_video(
            tmp_path / f"UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_{group}_c01.avi", codec="mpeg4", crf=5
        )
        small_video(
            tmp_path / f"UCF-101/HandstandPushups/v_HandStandPushups_{group}_c01.avi", codec="mpeg4", crf=5
        )
    plan = plan_official("ucf101", tmp_path / "UCF-101", lists)
    assert plan.classes == ("ApplyEyeMakeup", "HandstandPushups")
    assert {name for name, _ in failed(plan).items()} == {
        "classes",
        *(f"clips in split{n}/{part}" for n in (1, 2, 3) for part in ("train", "test")),
    }
    assert failed(plan)["clips in split2/train"] == ("9,586", "4")
    done = run(plan, tmp_path / "data/ucf101", allow_missing=True)
    assert len(done.written) == 6
    test = read(tmp_path / "data/ucf101", "split2/test")
    assert [(c.id, c.label, c.status, c.frames) for c in test.clips] == [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01", 0, "ok", 12),
        ("HandstandPushups/v_HandStandPushups_g08_c01", 1, "ok", 12),
    ]
    given = ["dataset=ucf101", "dataset.split=3", f"data.root={tmp_path / 'data'}", "trainer.batch_size=2"]
    splits = find_splits(composed(*given))
    assert {c.tags["group"] for c in splits.test.clips} == {"g15"}
    assert len(splits.train.clips) == 4
    assert find_splits(composed(*given, "dataset.name=mine")) == splits


def test_a_dataset_under_another_name_is_prepared_as_what_it_is(tmp_path):
    for dataset in ("kinetics400", "hmdb51", "surv_fight"):
        config = composed(f"dataset={dataset}", "dataset.name=mine", f"data.root={tmp_path}")
        with pytest.raises(
            ConfigError, match=rf"mine is not prepared(.|\n)* {dataset} .*--out .*/{dataset}\n"
        ):
            find_splits(config)


def test_ucf101_lists_that_contradict_each_other(tmp_path):
    (tmp_path / "videos").mkdir()
    lists = ucf_lists(tmp_path / "lists")
    first = lists / "ucfTrainTestlist/trainlist01.txt"
    text = first.read_text()
    write(first, text.replace("g08_c01.avi 2", "g08_c01.avi 1"))
    with pytest.raises(ManifestError, match=r"trainlist01.txt:3: .*HandStandPushups_g08_c01.avi 1' is not"):
        plan_official("ucf101", tmp_path / "videos", lists)
    write(first, text.replace("g15", "g01"))
    plan = plan_official("ucf101", tmp_path / "videos", lists)
    assert failed(plan)["groups on two sides of split1"] == ("0", "2")
    with pytest.raises(ManifestError, match=r"classInd.txt: classes are numbered from 1 without gaps"):
        plan_official(
            "ucf101", tmp_path / "videos", ucf_lists(lists, "1 ApplyEyeMakeup\n3 HandstandPushups\n")
        )


# --- Something-Something v2 ----------------------------------------------------------------------------------------


def entry(id: str, template: str) -> dict[str, object]:
    return {"id": id, "label": "putting a cup on a table", "template": template, "placeholders": ["a cup"]}


@pytest.mark.slow
def test_something_something_by_template(tmp_path):
    labels = tmp_path / "labels"
    write(
        labels / "labels.json", json.dumps({"Putting something on a surface": "1", "Closing something": "0"})
    )
    train = [entry("78687", "Putting [something] on a surface"), entry("3", "Closing [something]")]
    write(labels / "train.json", json.dumps(train))
    write(labels / "validation.json", json.dumps([entry("9", "Closing [something]")]))
    write(labels / "test-answers.csv", "12;Putting something on a surface\n")
    clips = tmp_path / "20bn-something-something-v2"
    clips.mkdir()
    for id in ("78687", "3", "9", "12"):
        videos.numbered_video(clips / f"{id}.webm", 12, fps=Fraction(12), codec="libvpx-vp9")
    plan = plan_official("ssv2", clips, labels)
    assert plan.classes == ("Closing something", "Putting something on a surface")
    assert failed(plan) == {
        "classes": ("174", "2"),
        "clips in train": ("168,913", "2"),
        "clips in val": ("24,777", "1"),
        "clips in test": ("27,157", "1"),
    }
    run(plan, tmp_path / "out", allow_missing=True)
    for split, wanted in (("train", [("78687", 1), ("3", 0)]), ("val", [("9", 0)]), ("test", [("12", 1)])):
        found = read(tmp_path / "out", split)
        assert [(c.id, c.label) for c in found.clips] == wanted
        assert {(c.status, c.frames, c.fps) for c in found.clips} == {("ok", 12, 12)}
    assert number(read(tmp_path / "out", "train"), read(tmp_path / "out", "train").clips[0], 7) == 7
    write(labels / "train.json", json.dumps([entry("7", "Opening [something]"), {"id": 3}]))
    with pytest.raises(ManifestError, match=r"train.json, entry 2: has no id"):
        plan_official("ssv2", clips, labels)
    write(labels / "train.json", json.dumps([entry("7", "Opening [something]")]))
    with pytest.raises(
        ManifestError, match=r"train.json, entry 1: 'Opening something' is not one of the 2 classes"
    ):
        plan_official("ssv2", clips, labels)
    write(labels / "train.json", "<html>")
    with pytest.raises(ManifestError, match=r"train.json: not JSON"):
        plan_official("ssv2", clips, labels)


@pytest.mark.parametrize("name", ["kinetics700", "ssv2", "ucf101"])
def test_configs_name_what_prepare_writes(name, tmp_path):
    config = composed(f"dataset={name}", f"data.root={tmp_path}")
    assert Path(config.dataset.folder) == tmp_path / name / ("split1" if name == "ucf101" else "")
    assert (config.dataset.flip == 0) == (name == "ssv2")
    with pytest.raises(
        ConfigError, match=rf"prepare(.py)? {name} --annotations DIR --videos DIR --out .*{name}"
    ):
        find_splits(config)
