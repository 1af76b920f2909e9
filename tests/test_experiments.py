"""conf/experiment/ against the paper's tables: each file composes to the cells of Table 1 that it stands for."""

import pytest
import yaml
from configs import CONF, composed

DATASETS = {"HMDB-51": "hmdb51", "FineGym": "finegym", "MPII Cooking 2": "mpii_cooking2"}
NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def table(number: int) -> dict:
    return yaml.safe_load((CONF / f"table/table{number}.yaml").read_text())


def cells() -> list[tuple[str, dict, dict, float]]:
    """(experiment, row, column, top-1 that the paper prints) of Table 1, its means left out."""
    found = []
    for row in table(1)["rows"]:
        if row.get("control"):  # not in the paper
            continue
        for column, printed in zip(table(1)["columns"], row["paper"], strict=True):
            if column.get("number") == "top1":
                found.append((f"{DATASETS[column['group']]}_{row['model']}", row, column, printed))
    return found


def best_of_table_7(dataset: str, model: str, overrides: list[str]) -> tuple[set[float], float] | None:
    """The λ with the best top-1, several where they tie, and that top-1."""
    columns = [column for column in table(7)["columns"] if column["dataset"] == dataset]
    for row in table(7)["rows"]:
        if row["model"] == model and row.get("overrides", []) == overrides and not row.get("control"):
            printed = zip(table(7)["columns"], row["paper"], strict=True)
            mine = [(top1, column["overrides"][0]) for column, top1 in printed if column in columns and top1]
            best = max(top1 for top1, _ in mine)
            return {float(o.removeprefix("vmp.lambda=")) for top1, o in mine if top1 == best}, best
    return None


def test_every_row_of_table_1_has_an_experiment_and_nothing_else_has():
    assert sorted({name for name, *_ in cells()}) == NAMES
    for name in NAMES:
        values = yaml.safe_load((CONF / f"experiment/{name}.yaml").read_text())
        assert set(values) - {"backbone"} == {"defaults", "recommended"}
        assert values.get("backbone", {"weights": "k600"}) == {"weights": "k600"}


@pytest.mark.parametrize(
    ("name", "row", "column", "printed"),
    [
        pytest.param(*each, id=f"{each[0]} {each[1]['label']} {each[2]['label']}".replace(" ", "-"))
        for each in cells()
    ],
)
def test_an_experiment_is_the_cell_of_table_1(name, row, column, printed):
    overrides = row.get("overrides", [])
    split = column["label"].removeprefix("Split ") if "Split" in column["label"] else None
    config = composed(f"experiment={name}", *overrides, *([f"dataset.split={split}"] if split else []))
    dataset = DATASETS[column["group"]]
    assert config.dataset.name == (f"{dataset}-split{split}" if split else dataset)
    assert config.backbone.name == row["model"].removesuffix("_k600")
    assert config.backbone.weights == ("k600" if row["model"].endswith("_k600") else "k400")
    epochs = 25 if config.backbone.name == "timesformer" else 30
    t = config.trainer
    assert (t.epochs, t.batch_size, t.micro_batch) == (epochs, 64, 8)

    if row.get("baseline"):
        assert config.vmp.kind == "none"
        return
    assert config.vmp.kind == "learned"
    assert config.vmp.start == {}  # the layer's default: where the authors' code starts
    placed = row["label"].partition("(")[2].removesuffix(")")
    assert (
        config.placement == {"slow-only": "slow", "fast-only": "fast", "slow&fast": "both", "": None}[placed]
    )
    if dataset == "hmdb51":
        assert config.vmp.lambda_ == 0.001  # Sec. E.2
    elif found := best_of_table_7(dataset, row["model"], overrides):
        weights, best = found
        assert config.vmp.lambda_ in weights
        assert printed == best  # Table 1 prints the best of Table 7
    else:  # Table 7 has no such row: TimeSformer's
        weights, _ = best_of_table_7(dataset, "timesformer_k600", [])
        assert config.vmp.lambda_ in weights


def test_what_is_typed_wins_over_an_experiment():
    assert composed("experiment=finegym_timesformer_k600", "vmp.lambda=1").vmp.lambda_ == 1
    assert composed("experiment=finegym_timesformer_k600", "vmp=none").vmp.lambda_ == 0
    assert composed("experiment=finegym_slowfast").vmp.lambda_ == 2  # both pathways
    assert composed("backbone=timesformer").vmp.lambda_ == 1  # no experiment
