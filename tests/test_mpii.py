"""MPII Cooking 2 from a small tree with the traps of the real one."""

import shutil

import pytest
from small_datasets import matlab_file, number, plan_cooking, read, run

from vmp.errors import ConfigError, ManifestError
from vmp.prepare.mpii import plan_mpii, read_sequences


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in place", pytest.param("cut", marks=pytest.mark.slow)])
def test_mpii_intervals(mpii, tmp_path, how):
    plan = plan_cooking(mpii)
    checks = {check.name: check for check in plan.checks}
    assert (checks["intervals"].found, checks["verbs"].found) == ("11", "4")
    assert checks["intervals whose verb is set"].ok
    assert checks["frames a second"].ok
    assert checks["subjects in two splits"].ok
    assert checks["classes"].found.startswith("3, with 64 that differ: ")
    notes = "\n".join(plan.notes)
    assert "2 intervals of verbs that are no classes" in notes
    assert "2 intervals share file, verb and start" in notes
    assert "sequences without an interval: s21-d60" in notes
    run(plan, tmp_path, allow_missing=True, how=how, short_side=None)
    train, val, test = (read(tmp_path, split) for split in ("train", "val", "test"))
    names = train.classes
    spans = {}
    for manifest in (train, val, test):
        for clip in manifest.clips:
            if clip.status == "ok":
                spans[clip.id] = (
                    names[clip.label],
                    number(manifest, clip),
                    number(manifest, clip, clip.length - 1),
                )
    film, again = "s07-d72-cam-002", "s07-d72-cam-002/000011-000025-cut apartV"
    assert spans == {
        f"{film}/000001-000020-cutV": ("cutV", 0, 19),
        f"{film}/000011-000030-cut apartV": ("cut apartV", 10, 29),
        again: ("cut apartV", 10, 24),
        f"{again}-2": ("cut apartV", 10, 24),
        "s21-d21-cam-002/000040-000060-gatherV": ("gatherV", 39, 59),
        "s22-d23-cam-002/000060-000060-cutV": ("cutV", 59, 59),
        "s22-d23-cam-002/000002-000061-gatherV": ("gatherV", 1, 59),  # ends one frame after the file
    }
    assert train.clips[-1].status == "missing"
    assert train.clips[0].tags["objects"] == "carrot knife"
    assert val.clips[0].tags["objects"] == "cutting-board"
    assert (train.clips[0].tags["subject"], train.clips[0].tags["dish"]) == ("s07", "d72")
    assert train.clips[0].fps == pytest.approx(29.4)


def test_mpii_as_the_authors_read_it(mpii):
    ours, theirs = plan_cooking(mpii), plan_cooking(mpii, frame_base=0)
    for a, b in zip(ours.splits["train"], theirs.splits["train"], strict=True):
        assert (a.start + 1, a.end + 1) == (b.start, b.end)


def test_mpii_training_on_the_validation_subject(mpii):
    own, both = plan_cooking(mpii).splits, plan_cooking(mpii, train_on_val=True).splits
    assert list(both) == ["train", "test"]
    assert both["train"] == own["train"] + own["val"]
    assert {item.tags["subject"] for item in both["train"]} == {"s07", "s08", "s21"}


def test_mpii_files_of_another_kind(mpii, tmp_path):
    lists = mpii / "experimentalSetup"
    with pytest.raises(ConfigError, match=r"--mat .*no such file; fetch annos/attributesAnnotations"):
        plan_mpii(mpii / "videos", tmp_path / "none.mat", lists)
    (tmp_path / "v5.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(600))
    with pytest.raises(ManifestError, match=r"v5.mat: cannot be read as a MATLAB 7.3 file"):
        plan_mpii(mpii / "videos", tmp_path / "v5.mat", lists)
    import h5py

    with h5py.File(matlab_file(tmp_path / "a.mat"), "r+") as file:
        del file["annos/iaMat"]
    with pytest.raises(ManifestError, match=r"has no annos/iaMat; it must be .* of MPII Cooking 2"):
        plan_mpii(mpii / "videos", tmp_path / "a.mat", lists)
    with h5py.File(matlab_file(tmp_path / "b.mat"), "r+") as file:
        turned = file["annos/iaMat"][()].T
        del file["annos/iaMat"]
        file["annos/iaMat"] = turned
    with pytest.raises(ManifestError, match=r"iaMat is \(11, 6\), not \(6, 11\)"):
        plan_mpii(mpii / "videos", tmp_path / "b.mat", lists)
    rows = [("s07-d72-cam-002", "cutV", 9, 3, ())]
    with pytest.raises(ManifestError, match="interval 1, s07-d72-cam-002 cutV: frames 9 to 3 are no span"):
        plan_mpii(mpii / "videos", matlab_file(tmp_path / "c.mat", rows), lists)


def test_mpii_lists_of_another_kind(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no sequencesTrainAttr.txt"):
        read_sequences(tmp_path)
    for name in ("TrainAttr", "Val", "Test"):
        (tmp_path / f"sequences{name}.txt").write_text("s07-d72\nseven\n")
    with pytest.raises(ManifestError, match=r"sequencesTrainAttr.txt:2: 'seven' is not a sequence"):
        read_sequences(tmp_path)


def test_mpii_a_subject_in_two_splits_is_found(mpii, tmp_path):
    shutil.copytree(mpii / "experimentalSetup", tmp_path / "lists")
    (tmp_path / "lists/experimentalSetup/sequencesTest.txt").write_text("s22-d23\ns07-d11\n")
    plan = plan_mpii(mpii / "videos", mpii / "annos.mat", tmp_path / "lists")
    assert next(check for check in plan.checks if check.name == "subjects in two splits").found == "s07"
