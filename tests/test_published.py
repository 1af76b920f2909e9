"""The small published collections, from names and folders as they come; their clips are stood in for by small files."""

from pathlib import Path

import pytest
from configs import composed
from small_datasets import run, small_video

from vmp.datasets import find_splits
from vmp.errors import ConfigError, ManifestError
from vmp.prepare.published import COLLECTIONS, INTERACTIONS, plan_collection


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return root


def interactions(root: Path) -> Path:
    """UT-Interaction's segmented sets: 20 sequences of six interactions, and names as published."""
    names = [(6 * (s - 1) + c, s, c) for s in range(1, 21) for c in range(6)]
    return touch(root, *(f"segmented_set{1 + (s > 10)}/{n}_{s}_{c}.avi" for n, s, c in names))


def hands(root: Path, *, table: bool) -> Path:
    """103 clips of 11 recordings, in folders of their split and class, or of their class with a CSV."""
    lines = ["path,label,group,split"]
    for number, (label, count) in enumerate(COLLECTIONS["handwash12"].per_class.items(), 1):
        trained = count - 2 - (count != 8)
        for k in range(count):
            recording = f"{(number + k) % 11 + 1:03}"
            path = f"{label}/HandWash_{recording}_A_{number:02}_G_01.mp4"
            split = "train" if k < trained else "val" if k < trained + 2 else "test"
            touch(root, path if table else f"{split}/{path}")
            lines.append(f"{path},{label},{recording},{split}")
    if table:
        (root / "clips.csv").write_text("\n".join(lines))
    return root


def test_ut_interaction_leaves_one_sequence_out(tmp_path):
    plan = plan_collection("ut_interaction", interactions(tmp_path))
    assert all(c.ok for c in plan.checks), plan.checks
    assert plan.classes == INTERACTIONS
    for part, first in (("set1", 1), ("set2", 11)):
        tested = []
        for fold in range(1, 11):
            items = plan.splits[f"{part}/fold{fold}/test"]
            assert {i.path.split("_")[-2] for i in items} == {str(first + fold - 1)}
            assert all(INTERACTIONS[int(i.path[-5])] == plan.classes[i.label] for i in items)
            train = {i.path for i in plan.splits[f"{part}/fold{fold}/train"]}
            assert train.isdisjoint(i.path for i in items)
            assert all(f"segmented_{part}/" in path for path in train)
            tested += [i.path for i in items]
        assert len(set(tested)) == len(tested) == 60
    (tmp_path / "segmented_set2" / "119_20_5.avi").unlink()
    failed = [c for c in plan_collection("ut_interaction", tmp_path).checks if not c.ok]
    assert [(c.name, c.expected, c.found) for c in failed] == [
        ("clips", "120", "119"),
        ("classes with their number of clips", "6", "5"),
    ]


def test_folds_by_recording_test_every_clip_once_and_the_published_split_stays(tmp_path):
    plan = plan_collection("handwash12", hands(tmp_path / "a", table=True))
    assert all(c.ok for c in plan.checks), plan.checks
    assert [len(plan.splits[f"published/{split}"]) for split in ("train", "val", "test")] == [69, 24, 10]
    assert any(note.startswith("published: 11 group(s) have clips in several splits") for note in plan.notes)
    tested = []
    for fold in range(1, 6):
        train, test = plan.splits[f"fold{fold}/train"], plan.splits[f"fold{fold}/test"]
        assert {i.tags["group"] for i in train}.isdisjoint(i.tags["group"] for i in test)
        assert {i.label for i in train} == set(range(12))
        assert (len(train) + len(test), 18 <= len(test) <= 23) == (103, True)
        tested += [i.path for i in test]
    assert len(set(tested)) == len(tested) == 103
    other = plan_collection("handwash12", hands(tmp_path / "b", table=False))
    assert all(c.ok for c in other.checks), other.checks
    for split in plan.splits:
        names = [{Path(i.path).name for i in one.splits[split]} for one in (plan, other)]
        assert names[0] == names[1] or split.startswith("fold"), split


def test_clips_of_handwash12_that_share_frames_are_tested_together(tmp_path):
    """By the table of pairs, written down anew: recordings 2 to 5 show the same in step 7, and 9 and 10 do."""
    plan = plan_collection("handwash12", hands(tmp_path, table=True))
    fold = {i.path: f for f in range(1, 6) for i in plan.splits[f"fold{f}/test"]}
    names = {(path.split("/")[0], path.split("_")[-5]): f for path, f in fold.items()}
    pairs = [("Step_7_Left", "23"), ("Step_7_Right", "34"), ("Step_7_Left", "45"), ("Step_6_Left", "35")]
    for label, two in pairs:
        assert names[label, f"00{two[0]}"] == names[label, f"00{two[1]}"], (label, two)
    assert len({f for (label, _), f in names.items() if label == "Step_1"}) == 5  # where none do


def test_scenes_and_splits_that_nothing_says_are_asked_for(tmp_path):
    clips = [f"{label}/{label}{n}.mp4" for label in ("Kickflip", "Ollie") for n in range(3)]
    with pytest.raises(
        ConfigError, match=r"6 clips, and nothing says which are trained on.*--csv.*path,label,split"
    ):
        plan_collection("skateboard", touch(tmp_path / "s", *clips))
    fights = [f"{label}/{n}.mp4" for label in ("fight", "noFight") for n in range(3)]
    with pytest.raises(ConfigError, match=r"nothing says which scene each shows.*path,label,group"):
        plan_collection("surv_fight", touch(tmp_path / "f", *fights))
    with pytest.raises(
        ManifestError, match=r"'Kickflip' is not a class of surv_fight, which has fight, noFight"
    ):
        plan_collection("surv_fight", tmp_path / "s")
    with pytest.raises(ConfigError, match=r"--csv .*none.csv: no such file"):
        plan_collection("skateboard", tmp_path / "s", tmp_path / "none.csv")
    with pytest.raises(
        ConfigError, match=r"--videos .*none: no such folder; it should hold the clips of skateboard"
    ):
        plan_collection("skateboard", tmp_path / "none")
    with pytest.raises(ConfigError, match=r"holds no clip of ut_interaction, such as 0_1_4.avi"):
        plan_collection("ut_interaction", tmp_path / "s")


@pytest.mark.slow
def test_a_collection_from_videos_to_training(tmp_path):
    """Two skateboard clips of each class: counts fail, and are allowed to; the config finds what was written."""
    lines = ["path,label,split"]
    for n in range(4):
        path = f"{'Ollie' if n % 2 else 'Kickflip'}/{n}.mp4"
        small_video(tmp_path / path, frames=10 + n)
        lines.append(f"{path},{path.split('/')[0]},{'train' if n < 2 else 'test'}")
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    done = run(plan_collection("skateboard", tmp_path), tmp_path / "data/skateboard", allow_missing=True)
    assert {check.name for check in done.failed} == {
        "clips",
        "classes with their number of clips",
        "train / val / test of the published split",
    }
    assert "source: SkateboardML, Zenodo record 3986905; licence: free for academic purposes" in done.text
    given = ["dataset=skateboard", f"data.root={tmp_path / 'data'}", "trainer.batch_size=2"]
    splits = find_splits(composed(*given))
    assert [c.id for c in splits.train.clips] == ["Kickflip/0", "Ollie/1"]
    assert [c.status for c in splits.test.clips] == ["ok", "ok"]


def test_names_and_folders_have_the_set_and_the_fold(tmp_path):
    for given, where in (
        (("dataset=handwash12",), "handwash12-published"),
        (("dataset=handwash12", "dataset.fold=3"), "handwash12-fold3"),
        (("dataset=ut_interaction", "dataset.set=2", "dataset.fold=7"), "ut_interaction-set2-fold7"),
        (("dataset=surv_fight",), "surv_fight-fold1"),
        (("dataset=skateboard",), "skateboard"),
    ):
        config = composed(*given, "data.root=d")
        assert config.folder.parts[1] == where
        assert Path(config.dataset.folder) == Path("d", *where.split("-"))
    root = f"data.root={tmp_path}"
    with pytest.raises(ConfigError, match=r"prepare.py handwash12 --videos DIR --out .*/handwash12"):
        find_splits(composed("dataset=handwash12", "dataset.fold=3", root))
    (tmp_path / "handwash12/fold1").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"dataset.fold = 6: .*handwash12 holds folds 1 to 1"):
        find_splits(composed("dataset=handwash12", "dataset.fold=6", root))
