"""The paper's tables: their files, the cells and runs they expand to, and the tables written out."""

import csv
import hashlib
import io
import json
import os
import re

import pytest
from configs import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vmp.errors import ConfigError, RunError
from vmp.formats import format_signed
from vmp.paper.planning import PlannedEvaluation, Planner, plan_cells
from vmp.paper.rendering import (
    FilledTable,
    describe_provenance,
    escape_latex,
    format_gain,
    to_csv,
    to_latex,
    to_markdown,
)
from vmp.paper.reproduce import Request
from vmp.paper.tables import cells, load_profile, load_table, matches
from vmp.paper.values import CellValue, read_values
from vmp.runs.folder import check_same_run

TABLES = range(1, 9)
PROFILES = ("paper", "mini")


def table_of(number: int, **options):
    return load_table(ROOT / f"conf/table/table{number}.yaml", **options)


def runs_of(numbers, profile: str, seeds=(0,), output="outputs", only=()):
    """Every run of these tables, with the runs that they start from."""
    planner, out = Planner(output=output), []
    for number in numbers:
        table = table_of(number)
        for cell in cells(table, load_profile(profile)):
            for seed in seeds if cell.run and matches(cell, table, only) else ():
                source = planner.source(cell, seed)
                run = source.run if isinstance(source, PlannedEvaluation) else source
                while run:
                    out.append(run)
                    run = run.start
    return out


# --- the files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", TABLES)
def test_each_table_file_expands_to_all_of_its_cells(number):
    table = table_of(number)
    assert table.number == number
    for profile in PROFILES:
        all_cells = cells(table, load_profile(profile))
        assert len(all_cells) == len(table.rows) * len(table.columns)
        for cell in all_cells:
            assert (cell.run is None) == (cell.printed is None or bool(cell.mean_of))
            if cell.printed is None:
                assert number == 7


def test_printed_means_match_the_splits_and_best_numbers_agree_between_tables():
    one, seven = table_of(1), table_of(7)
    for row in one.rows:
        assert abs(sum(row.paper[:3]) / 3 - row.paper[3]) < 0.11, row.label
    k600 = one.rows[-1].paper
    assert max(seven.rows[0].paper[:5]) == k600[6]
    assert max(seven.rows[0].paper[5:]) == k600[4]
    assert table_of(2).rows[0].paper[2:4] == table_of(3).rows[0].paper[6:7] + table_of(3).rows[1].paper[6:7]
    assert table_of(5).rows[0].paper[:2] == (one.rows[-2].paper[4], one.rows[-1].paper[4])


def test_errors_in_a_table_file_name_the_file_and_the_key(tmp_path):
    text = (ROOT / "conf/table/table1.yaml").read_text(encoding="utf-8")
    wrong = tmp_path / "table1.yaml"
    wrong.write_text(text.replace("number: top5", "number: top6"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"table1\.yaml:\n  columns\.5\.number"):
        load_table(wrong)
    wrong.write_text(text.replace("75.4, 76.2, 76.9,", "75.4, 76.2,"), encoding="utf-8")
    with pytest.raises(ConfigError, match="'SlowFast' has 7 printed numbers for 8 columns"):
        load_table(wrong)
    with pytest.raises(ConfigError, match=r"nano\.yaml: no such profile; there are: mini, paper"):
        load_profile("nano")


@pytest.mark.parametrize("profile", PROFILES)
def test_table_1_is_70_runs(profile):
    tasks = {cell.run for cell in cells(table_of(1), load_profile(profile)) if cell.run}
    assert len(tasks) == 70


# --- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
def test_all_cells_compose_and_only_equal_runs_share_a_folder(profile):
    kept = {}
    runs = [*runs_of(range(1, 8), profile), *runs_of([4], profile, seeds=(1,))]
    for run in runs:
        other = kept.setdefault(run.folder, run)
        assert other.raw == run.raw, (other.label, run.label)
    different = {json.dumps(run.raw, sort_keys=True) for run in runs}
    assert len(different) == len(kept) == (119 if profile == "paper" else 122)


def test_tables_share_equal_runs():
    one = {run.folder for run in runs_of([1], "paper", only=["mpii", "k600"])}
    assert one <= {run.folder for run in runs_of([2], "paper")}
    assert one <= {run.folder for run in runs_of([5], "paper", only=["mpii"])}


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
def test_quick_composing_gives_what_hydra_composes(profile):
    for run in runs_of([2], profile)[:4]:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            assert OmegaConf.to_container(compose("train", list(run.arguments)), resolve=True) == run.raw


def test_a_run_that_starts_from_another_names_it():
    frozen = [r for r in runs_of([2], "paper") if "backbone_and_head" in str(r.folder)]
    assert {r.config.init_from for r in frozen} == {"outputs/mpii_cooking2/timesformer-k600/none/seed0"}
    assert {r.config.tag for r in frozen} == {"from-baseline"}


def test_a_wrong_override_of_the_user_is_an_error():
    planner = Planner(output="outputs", extra=["trainer.epochs=0"])
    cell = cells(table_of(2), load_profile("mini"))[0]
    with pytest.raises(ConfigError, match=r"trainer\.epochs = 0"):
        planner.source(cell, 0)


def test_only_selects_cells_by_words():
    table = table_of(1)
    all_cells = cells(table, load_profile("paper"))

    def count(*words):
        return sum(bool(cell.run) and matches(cell, table, words) for cell in all_cells)

    assert (count(), count("TimeSformer"), count("x3d", "finegym", "top-1")) == (98, 28, 2)
    assert count("timesformer_k600", "vmp=none") == 7
    assert count("nothing") == 0


def test_controls_are_rows_of_the_miniature_and_constant_attention_waits_for_the_learned_one():
    mini, counts = load_profile("mini"), {}
    assert mini.controls
    assert not load_profile("paper").controls
    for number in (1, 7):
        table = table_of(number, controls=True)
        all_cells = cells(table, mini)
        assert [r for r in table.rows if not r.control] == list(table_of(number).rows)
        controls = [c for c in all_cells if table.rows[c.row].control and c.run]
        assert {c.run.dataset for c in controls} == {"finegym", "mpii_cooking2"}
        assert not any(c.printed or c.mean_of for c in controls)
        counts[number] = len({c.run for c in controls if not table.rows[c.row].baseline})
        of_paper = {c.run for c in cells(table_of(number), mini)}
        for cell in controls:
            constant = "vmp=constant" in cell.run.own
            assert constant == bool(cell.run.level_from)
            assert not constant or cell.run.level_from in of_paper
    assert counts == {1: 21, 7: 6}  # of 70 and 48
    planner = Planner(output="outputs")
    cell = next(c for c in controls if c.run.level_from)
    runs, _ = plan_cells([cell], planner, [1])
    *_, learned, constant = runs
    assert learned.config.vmp.kind == "learned"
    assert learned in constant.needs
    assert constant.config.vmp.level == str(learned.folder)
    assert constant.config.seed == learned.config.seed == 1


def test_control_rows_have_no_number_of_the_paper_and_say_not_run():
    mini, table = load_profile("mini"), table_of(1, controls=True)
    all_cells = cells(table, mini)
    filled = FilledTable(table, mini, all_cells, {cell.place: CellValue() for cell in all_cells})
    notes = describe_provenance(filled, command="x", seeds=[0])
    text = to_markdown(filled, notes)
    hmdb, moving = (
        text.partition(f"## {group}\n")[2].partition("## ")[0].splitlines()
        for group in ("HMDB-51", "FineGym")
    )
    assert moving.count("| control: true motion | – | not run | – | not run |") == 3  # C2D, I3D, TimeSformer
    assert hmdb.count("| control: true motion |" + " – |" * 8) == 3
    rows = [row for row in csv.DictReader(io.StringIO(to_csv(filled))) if "control" in row["row"]]
    assert len(rows) == 3 * (3 * 4 + 2)  # the camera moves in one of the two sets
    assert {(row["paper"], row["ours"], row["paper_gain"]) for row in rows} == {("", "not run", "")}
    assert sum("not in the paper" in note for note in notes) == 1


# --- numbers and how they are written --------------------------------------------------------------------------------


def finish(run, *, top1: float, **changes: object) -> None:
    """Write a run's folder as a finished run leaves it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    clips = {"expected": 300, "present": 299, "missing": 1, "unreadable": 0}
    result = {
        "split": "test",
        "top1": top1,
        "top5": 90.0,
        "clips": {"test": clips},
        "commit": "abc",
        **changes,
    }
    (run.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(dict(run.raw))))
    (run.folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def half_run(tmp_path):
    """Table 1 with some cells of X3D finished: three seeds of split 1 and of FineGym, one of splits 2 and 3."""
    table, profile = table_of(1), load_profile("paper")
    all_cells = cells(table, profile)
    planner = Planner(output=str(tmp_path))
    for cell in all_cells:
        row, column = table.rows[cell.row], table.columns[cell.column]
        if not cell.run or row.model != "x3d":
            continue
        for seed in range(3 if column.dataset in ("hmdb51_split1", "finegym") else 1):
            if column.dataset != "mpii_cooking2":
                finish(planner.source(cell, seed), top1=60 + 5 * bool(row.gain) + seed + cell.column)
    few = [c for c in all_cells if table.rows[c.row].model in ("x3d", "c2d")]
    values = read_values(few, planner, range(3))
    return FilledTable(table, profile, few, values)


def test_mean_range_difference_and_clips(half_run):
    table, few, values = half_run.table, half_run.cells, half_run.values
    prompted = next(r for r, row in enumerate(table.rows) if row.model == "x3d" and row.gain)
    value = values[prompted, 0]
    assert value.by_seed == {0: 65, 1: 66, 2: 67}
    assert (value.mean, value.clips, value.commits) == (66, (299, 300), ["abc"])
    assert len(values[prompted, 3].found) == 1  # all three splits of seed 0 only
    assert values[prompted, 3].mean == pytest.approx(66)
    cell = next(c for c in few if (c.row, c.column) == (prompted, 0))
    assert half_run.our_text(cell) == "66.0 [65.0–67.0] (↑5.0)"
    assert half_run.paper_text(cell) == "75.8 (↑0.8)"
    assert half_run.difference(cell) == pytest.approx(66 - 75.8)


def test_a_cell_without_a_run_says_not_run(half_run):
    not_run = next(c for c in half_run.cells if half_run.table.rows[c.row].model == "c2d")
    assert half_run.our_text(not_run) == "not run"
    assert half_run.difference(not_run) is None
    assert half_run.value(not_run).mean is None


def test_the_papers_numbers_never_appear_in_our_column(half_run):
    rows = list(csv.DictReader(io.StringIO(to_csv(half_run))))
    ours = {row["ours"] for row in rows if row["ours"] != "not run"}
    assert len(rows) == len(half_run.cells)
    assert ours
    assert ours.isdisjoint(row["paper"] for row in rows)
    for row in rows:
        assert (row["ours"] == "not run") == (row["seeds"] == "0") == (row["runs"] == "")
    seven = next(r for r in rows if r["row"] == "X3D +VMPs" and r["column"] == "HMDB-51, Split 1")
    assert (seven["ours"], seven["seeds"]) == ("66", "3")
    assert (seven["clips"], seven["clips_expected"], seven["commit"]) == ("299", "300", "abc")


def cells_of(number: int, profile: str, *words: str):
    table = table_of(number)
    return table, [c for c in cells(table, load_profile(profile)) if c.run and matches(c, table, words)]


def test_gains_are_over_the_baseline_of_the_same_seeds(tmp_path):
    """Prompts add one point on each seed; the baseline of seed 1 is missing."""
    table, (base, prompted) = cells_of(1, "paper", "c2d", "finegym", "top-1")
    planner = Planner(output=str(tmp_path))
    for seed, top1 in enumerate((40, 30, 20)):
        finish(planner.source(prompted, seed), top1=top1 + 1)
        if seed != 1:
            finish(planner.source(base, seed), top1=top1)
    values = read_values([base, prompted], planner, range(4))
    filled = FilledTable(table, load_profile("paper"), [base, prompted], values)
    assert filled.gain(prompted) == pytest.approx(1)
    assert filled.our_text(prompted) == "31.0 [21.0–41.0] {3 of 4 seeds} (↑1.0)"
    assert filled.our_text(base) == "30.0 [20.0–40.0] {2 of 4 seeds}"
    notes = describe_provenance(filled, command="x", seeds=range(4))
    assert "2 of these cells lack seeds, and say how many they have." in notes


def test_runs_with_another_config_are_not_read(tmp_path):
    _, (base, prompted) = cells_of(1, "paper", "c2d", "finegym", "top-1")
    finish(Planner(output=str(tmp_path), extra=["trainer.epochs=3"]).source(base, 0), top1=99)
    values = read_values([base, prompted], Planner(output=str(tmp_path)), [0])
    assert values[base.place].mean is None
    assert values[base.place].reason == "another config"
    assert values[prompted.place].reason == "not run"


def test_runs_on_other_clips_than_most_do_not_count(tmp_path):
    _, chosen = cells_of(1, "paper", "finegym", "top-1")
    planner = Planner(output=str(tmp_path))
    for number, cell in enumerate(chosen[:4]):
        run = planner.source(cell, 0)
        finish(run, top1=70)
        data = {"train": "a", "test": "b" if number != 2 else "c"}
        (run.folder / "data.json").write_text(json.dumps(data))
    values = read_values(chosen[:5], planner, [0])
    said = [values[c.place].reason for c in chosen[:5] if not values[c.place].found]
    assert said == ["other data", "not run"]


def test_runs_whose_start_was_trained_again_do_not_count_and_are_not_taken_for_finished(tmp_path):
    """A table would compare a baseline from one set of weights with prompts from another."""
    _, (base, *_) = cells_of(1, "paper", "c2d", "finegym", "top-1")
    planner = Planner(output=str(tmp_path / "runs"))
    run = planner.source(base, 0)
    finish(run, top1=70)
    (tmp_path / "w").write_bytes(b"first")
    start = {"source": str(tmp_path / "w"), "sha256": hashlib.sha256(b"first").hexdigest()}
    (run.folder / "weights.json").write_text(json.dumps(start))
    assert read_values([base], planner, [0])[base.place].mean == 70
    (tmp_path / "w").write_bytes(b"second")
    assert read_values([base], planner, [0])[base.place].reason == "other weights"
    with pytest.raises(RunError, match=r"holds other weights now") as caught:
        plan_cells([base], planner, [0])
    assert str(run.folder) in str(caught.value)
    assert hashlib.sha256(b"second").hexdigest() in str(caught.value)
    (tmp_path / "w").unlink()  # to save space, for instance
    assert read_values([base], planner, [0])[base.place].mean == 70


def test_half_done_runs_and_unpublished_lists_are_reported(tmp_path):
    table, (base, prompted) = cells_of(1, "paper", "c2d", "finegym", "top-1")
    planner, profile = Planner(output=str(tmp_path)), load_profile("paper")
    run = planner.source(base, 0)
    finish(run, top1=70)
    result = json.loads((run.folder / "result.json").read_text())
    result["clips"]["train"] = {"expected": 100, "present": 98}
    (run.folder / "result.json").write_text(json.dumps(result))
    half = planner.source(prompted, 0).folder
    (half / "checkpoints/step_1").mkdir(parents=True)
    values = read_values([base, prompted], planner, [0])
    filled = FilledTable(table, profile, [base, prompted], values)
    assert filled.our_text(prompted) == "half done"
    below = describe_provenance(filled, command="x", seeds=[0])
    assert "finegym: trained on 98 of 100 clips." in below
    assert "finegym: the published list has 26,320 training clips: not these data." in below


def test_a_table_names_the_command_that_made_it(tmp_path):
    request = Request(
        table=1,
        profile="mini",
        seeds=3,
        only=("c2d", "top-1"),
        overrides=("trainer.epochs=1", "optim.lr=0.1"),
    )
    command = request.command("table1")
    assert command == "make table1 PROFILE=mini SEEDS=3 ONLY='c2d top-1' SET='trainer.epochs=1 optim.lr=0.1'"
    plain = Request(table=4).command("table4")
    assert plain == "make table4"
    filled = FilledTable(table_of(4), load_profile("paper"), [], {})
    below = describe_provenance(filled, command=plain, seeds=[0], overrides=request.overrides)
    assert "Not the recipe as it stands: trainer.epochs=1 optim.lr=0.1 was given for all runs." in below


@pytest.mark.parametrize("override", ["vmp.lambda=0.5", "seed=5", "tag=x", "init_from=outputs/x"])
def test_keys_that_a_table_sets_cannot_be_overridden_for_all_runs(override):
    _, (cell, *_) = cells_of(7, "mini", "timesformer")
    with pytest.raises(ConfigError, match=f"{override.partition('=')[0]}: the table sets this itself"):
        Planner(output="outputs", extra=[override]).source(cell, 0)


@pytest.mark.parametrize("override", ["dataset.split=1", "dataset=ucf101", "backbone=x3d"])
def test_an_override_cannot_put_one_dataset_or_model_into_all_cells(override):
    """With dataset.split=1 the three columns of splits, and their mean, were of split 1."""
    _, (*_, cell) = cells_of(1, "paper", "c2d", "split 2")
    with pytest.raises(ConfigError, match=f"{override.partition('=')[0]}: the table sets this itself"):
        Planner(output="outputs", extra=[override]).source(cell, 0)
    values = read_values([cell], Planner(output="outputs", extra=[override]), [0])
    assert values[cell.place].reason == "not run"


def test_overrides_may_be_wrong_for_cells_that_were_not_chosen(tmp_path):
    """Memory formats are for convolutions: TimeSformer refuses channels_last, and is not run."""
    planner = Planner(output=str(tmp_path), extra=["trainer.channels_last=true"])
    _, (convolutional, *_) = cells_of(1, "paper", "c2d", "finegym", "top-1")
    _, (other, *_) = cells_of(1, "paper", "timesformer", "finegym", "top-1")
    finish(planner.source(convolutional, 0), top1=70)
    with pytest.raises(ConfigError, match="channels_last"):
        planner.source(other, 0)
    values = read_values([convolutional, other], planner, [0])
    assert values[convolutional.place].mean == 70
    assert values[other.place].reason == "not run"


def test_an_override_that_only_other_models_have_loses_no_number(tmp_path):
    """backbone.blocks is no key of TimeSformer: Hydra itself says so, while it composes."""
    planner = Planner(output=str(tmp_path), extra=["backbone.blocks=1"])
    _, (convolutional, *_) = cells_of(1, "paper", "c2d", "finegym", "top-1")
    _, (other, *_) = cells_of(1, "paper", "timesformer", "finegym", "top-1")
    finish(planner.source(convolutional, 0), top1=70)
    with pytest.raises(
        ConfigError, match=r"finegym timesformer vmp=none:\nbackbone\.blocks: the backbone that"
    ):
        planner.source(other, 0)
    values = read_values([convolutional, other], planner, [0])
    assert values[convolutional.place].mean == 70
    assert values[other.place].reason == "not run"


def test_keys_of_the_run_that_a_run_starts_from_cannot_be_overridden_either():
    """That of `VMPs + frozen Baseline` is without prompts, and would be trained with them."""
    _, (cell, *_) = cells_of(2, "paper", "frozen", "baseline", "top-1")
    assert not any(override.startswith("vmp") for override in cell.run.own)
    with pytest.raises(ConfigError, match="vmp: the table sets this itself"):
        Planner(output="outputs", extra=["vmp=learned"]).source(cell, 0)


def test_markdown_and_latex(half_run):
    all_cells = cells(half_run.table, half_run.profile)
    values = {cell.place: half_run.values.get(cell.place, CellValue()) for cell in all_cells}
    filled = FilledTable(half_run.table, half_run.profile, all_cells, values)
    notes = describe_provenance(filled, command="make table1", seeds=[0, 1, 2])
    text = to_markdown(filled, notes)
    assert "12 of 112 cells were run, seeds 0, 1, 2." in text
    assert "hmdb51_split1: tested on 299 of 300 clips." in text
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    latex = to_latex(filled, notes)
    lines = [line for line in latex.splitlines() if not line.startswith("%")]
    assert r"+VMPs (slow\&fast)" in latex
    assert not any(re.search(r"(?<!\\)[%#_]", line) for line in lines)
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 3


def test_latex_escape():
    assert escape_latex("50% a_b & λ ±1 {x} \\") == (r"50\% a\_b \& $\lambda$ $\pm$1 \{x\} \textbackslash{}")


def test_signs():
    assert [format_signed(v) for v in (0.04, -0.04, 1.25, -2.0)] == ["0.0", "0.0", "+1.2", "−2.0"]
    assert [format_gain(v) for v in (0.5, -0.5, 0.01)] == [" (↑0.5)", " (↓0.5)", " (0.0)"]


def test_verbs_are_read_from_runs_and_from_evaluations(tmp_path):
    table, profile = table_of(6), load_profile("mini")
    planner = Planner(output=str(tmp_path))
    sample, total = cells(table, profile)[:2]
    run, test = planner.source(total, 0), planner.source(sample, 0)
    finish(run, top1=50)
    (run.folder / "per_class.csv").write_text("class,name,clips,right,accuracy\n0,move_left,30,12,40.00\n")
    values = read_values([sample, total], planner, [0])
    assert values[0, 1].mean == 40
    assert values[0, 0].mean is None  # tested on all clips but not on the chosen ones
    test.folder.mkdir(parents=True)
    finish_test = {"split": "test", "clips": {"expected": 15, "present": 15}, "top1": 0, "top5": 0}
    (test.folder / "result.json").write_text(json.dumps(finish_test))
    (test.folder / "per_class.csv").write_text("class,name,clips,right,accuracy\n0,move_left,15,3,20.00\n")
    assert read_values([sample], planner, [0])[0, 0].mean == 20
    old = (run.folder / "result.json").stat().st_mtime - 10
    os.utime(test.folder / "result.json", (old, old))  # older than the run: of an earlier run in that folder
    assert read_values([sample], planner, [0])[0, 0].mean is None
    then = {"run_finished": "2026-11-30 12:00:00"}  # in any order of times, as after a copy
    (test.folder / "result.json").write_text(json.dumps(finish_test | then))
    os.utime(test.folder / "result.json", (old, old))
    finish(run, top1=50, finished="2026-11-30 12:00:00")
    assert read_values([sample], planner, [0])[0, 0].mean == 20
    finish(run, top1=50, finished="2026-11-30 13:00:00")
    assert read_values([sample], planner, [0])[0, 0].mean is None


def test_runs_that_name_other_runs_move_with_the_folder_of_all(tmp_path):
    """The outputs of another machine, or a renamed folder: init_from and vmp.level name runs inside of it."""
    all_cells = [cell for cell in cells(table_of(1, controls=True), load_profile("mini")) if cell.run]
    chosen = [next(cell for cell in all_cells if getattr(cell.run, name)) for name in ("start", "level_from")]
    here, there = (Planner(output=str(tmp_path / name)) for name in ("here", "there"))
    for cell in chosen:
        finish(here.source(cell, 0), top1=50)
    (tmp_path / "here").rename(tmp_path / "there")
    moved = read_values(chosen, there, [0])
    assert [value.mean for value in moved.values()] == [50, 50]
    run = there.source(chosen[0], 0)
    with pytest.raises(RunError, match=r"init_from: <output>/.* -> /another/run"):
        check_same_run(run.folder, dict(run.raw) | {"init_from": "/another/run"})
