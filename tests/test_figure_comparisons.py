"""Two runs compared: layer by layer (Fig. 7-9), and clip by clip and class by class (Fig. 10, 11)."""

import math
from itertools import product
from math import comb

import numpy as np
import pytest
import torch
from drawn import both, changed_copy
from torch import nn

from vmp.errors import RunError
from vmp.figures import comparison, selection, similarity
from vmp.runs.open import open_run
from vmp.runs.run import Run

# --- layers --------------------------------------------------------------------------------------------------------


def small_net() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Conv3d(4, 4, 1), nn.AdaptiveAvgPool3d(1))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(4, 2))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = small_net()

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.backbone(clips.float() / 255)


def test_cosine_similarity():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])
    assert similarity.cosine(a, a) == 1
    assert similarity.cosine(a, -a) == -1
    assert similarity.cosine(a, b) == pytest.approx(24 / 25)
    assert similarity.cosine(a, 0 * a) == 0
    assert similarity.cosine(0 * a, 0 * a) == 1


def test_a_changed_layer_differs_in_weights_and_later_layers_in_features():
    a, b = Classifier().eval(), Classifier().eval()
    assert list(similarity.weights_by_layer(a.backbone)) == [
        "0.0",
        "0.1",
        "0.2",
    ]  # the projection is left out
    clips = [(c, c) for c in torch.randint(0, 256, (3, 3, 2, 5, 5), dtype=torch.uint8)]
    same = similarity.feature_similarity(a, b, clips)
    assert list(same) == ["0.0", "0.1", "0.2"]
    assert all(v == pytest.approx(1, abs=1e-12) for v in same.values())
    assert min(similarity.weight_similarity(a.backbone, b.backbone).values()) == pytest.approx(1)
    with torch.no_grad():
        b.backbone[0][1].weight[0] = -3.0
    weights = similarity.weight_similarity(a.backbone, b.backbone)
    assert weights["0.1"] < 0.99
    assert (weights["0.0"], weights["0.2"]) == pytest.approx((1, 1))
    x, y = (m.backbone[0][1] for m in (a, b))
    vectors = [torch.cat([m.weight, m.bias]).detach().numpy().astype(float) for m in (x, y)]
    by_hand = vectors[0] @ vectors[1] / math.prod(float(np.sqrt((v**2).sum())) for v in vectors)
    assert weights["0.1"] == pytest.approx(by_hand)
    features = similarity.feature_similarity(a, b, clips)
    assert features["0.0"] == pytest.approx(1)
    assert features["0.1"] < 0.99
    assert features["0.2"] < 0.999
    assert not any(m._forward_hooks for m in a.modules())


def test_a_run_is_similar_to_itself_and_both_runs_see_the_same_frames(two_runs):
    plain, prompted = both(two_runs)
    same = similarity.compare_layers(prompted, prompted, clips=3)
    assert all(v == pytest.approx(1) for kind in same.values() for v in kind.values())
    assert same["weights"].keys() == same["features"].keys()
    opened = [open_run(run.folder) for run in (plain, prompted)]
    for mine, other in similarity.paired_clips(*opened, 2):
        assert (mine.shape[1], other.shape[1]) == (4, 5)
        assert torch.equal(mine, other[:, 1:])
    differ = similarity.compare_layers(plain, prompted, clips=2)
    assert min(differ["features"].values()) < 0.999


# --- clips and classes ---------------------------------------------------------------------------------------------


def test_mcnemars_p_is_the_exact_binomial():
    for fixed, broken in product(range(8), range(8)):
        n = fixed + broken
        # every way that n coins can fall, counted
        uneven = sum(comb(n, heads) for heads in range(n + 1) if abs(2 * heads - n) >= abs(fixed - broken))
        assert comparison.mcnemar(fixed, broken) == pytest.approx(uneven / 2**n)
    assert comparison.mcnemar(0, 0) == 1
    assert comparison.mcnemar(2, 12) == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    assert 0 < comparison.mcnemar(4000, 4300) < 1


def test_accuracies_by_class_equal_those_of_the_result(two_runs):
    a, b = both(two_runs)
    pairing = comparison.pair(a, b)
    assert pairing.top1 == pytest.approx((a.result["top1"], b.result["top1"]), abs=1e-4)
    for run, side in ((a, "a"), (b, "b")):
        told = comparison.class_accuracies(run)
        assert told == {row["name"]: float(row["accuracy"]) for row in run.per_class}
        for change in comparison.class_changes(pairing, run.classes):
            assert getattr(change, side) == pytest.approx(told[change.name], abs=0.005)
    assert pairing.fixed - pairing.broken == pairing.right_b.sum() - pairing.right_a.sum()


def test_folds_of_a_dataset_are_drawn_together(two_runs, tmp_path):
    """Runs on two folds of one seed, of which the second tested every clip twice as often, and one of another seed."""
    places = {}
    for run in both(two_runs):
        for fold, seed, times in ((1, 0, 1), (2, 0, 2), (2, 1, 1)):
            place = places[run, fold, seed] = tmp_path / f"{run.folder.parent.name}-{fold}-{seed}"
            of_fold = {"dataset": {"kind": "prepared", "fold": fold}, "name": f"hands-fold{fold}"}
            changed_copy(run, place, seed=seed, **of_fold)
            header, *rows = (place / "per_class.csv").read_text().splitlines()
            cells = [row.split(",") for row in rows]
            doubled = [[a, b, str(times * int(c)), str(times * int(d)), e] for a, b, c, d, e in cells]
            (place / "per_class.csv").write_text("\n".join([header, *map(",".join, doubled)]) + "\n")
    plain, prompted = both(two_runs)
    a, b = (Run(places[run, 1, 0]) for run in (plain, prompted))
    found = selection.folds_of(a, b, selection.FigureOptions(outputs=tmp_path))
    assert found == [tuple(Run(places[run, fold, 0]) for run in (plain, prompted)) for fold in (1, 2)]
    assert selection.folds_of(plain, prompted, selection.FigureOptions(outputs=tmp_path)) == [
        (plain, prompted)
    ]
    other = Run(places[prompted, 2, 0])
    for row in plain.per_class:
        (same,) = (r for r in prompted.per_class if r["name"] == row["name"])
        right = [int(row["right"]), 2 * int(same["right"])]
        clips = [int(row["clips"]), 2 * int(same["clips"])]
        together = comparison.class_accuracies(plain, other)[row["name"]]
        assert together == pytest.approx(100 * sum(right) / sum(clips))


def test_clips_that_cannot_be_paired_are_an_error(two_runs, tmp_path):
    a, _ = both(two_runs)
    changes = (("labels", (",0,12,0,brighter,", ",0,12,1,brighter,")), ("no tested clip", ("val/", "other/")))
    for name, change in changes:
        other = tmp_path / name.split()[0]
        other.mkdir()
        for file in ("config.yaml", "classes.txt", "result.json", "predictions.csv"):
            text = (a.folder / file).read_text()
            (other / file).write_text(text.replace(*change) if file == "predictions.csv" else text)
        with pytest.raises(RunError, match=name):
            comparison.pair(a, Run(other))
    (tmp_path / "labels" / "classes.txt").write_text("x\ny\n")
    with pytest.raises(RunError, match="different classes"):
        comparison.pair(a, Run(tmp_path / "labels"))
    (tmp_path / "labels" / "classes.txt").write_text((a.folder / "classes.txt").read_text())
    for file in ("result.json", "predictions.csv"):
        (tmp_path / "labels" / file).unlink()
    with pytest.raises(RunError, match="not finished"):
        comparison.pair(a, Run(tmp_path / "labels"))
