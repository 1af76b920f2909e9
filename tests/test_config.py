"""Every shipped config composes; what wins over what; what a config comes to."""

import shutil
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path

import pytest
import yaml
from configs import ROOT, composed, raw
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from vmp.compose import composer

GROUPS = {
    group.name: sorted(f.stem for f in group.glob("*.yaml"))
    for group in (ROOT / "conf").iterdir()
    if group.is_dir()
    and group.name not in ("table", "study", "pretraining", "hydra")  # vmp.paper reads these
}
GIVEN = {
    "list": ["dataset.root=.", "dataset.train=a", "dataset.val=b"],
    "manifest": ["dataset.folder=."],
    "folders": ["dataset.root=."],
    "features": ["vmp.at=stages.1"],
}


def given(group: str, name: str) -> list[str]:
    """What a file needs beside its name."""
    return [f"{group}.target=a.b"] if name == "custom" and group != "recipe" else GIVEN.get(name, [])


@pytest.mark.parametrize(("group", "name"), [(g, n) for g, names in GROUPS.items() for n in names])
def test_every_file_in_conf_composes(group, name):
    composed(f"{group}={name}", *given(group, name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "vmp"), product(GROUPS["backbone"], ["learned", "none", "official", "gamma"])
)
def test_groups_compose_with_each_other(backbone, vmp):
    composed(f"backbone={backbone}", f"vmp={vmp}", "trainer=debug", *given("backbone", backbone))


def test_the_recipe_follows_the_backbone():
    ours, official = composed(), composed("backbone=timesformer")
    assert (ours.optim.schedule, ours.trainer.epochs) == ("cosine", 4)
    o = official.optim
    assert (o.schedule, o.lr, o.ref_batch, o.nesterov, o.at) == ("steps", 0.005, 64, True, (0, 11, 14))
    assert (o.weight_decay, o.norm_weight_decay, official.trainer.epochs) == (1e-4, 1e-4, 25)
    assert composed("backbone=x3d").optim.weight_decay == 5e-5
    assert composed("backbone=c2d").optim.norm_weight_decay == 0
    assert composed("backbone=c2d", "recipe=timesformer").optim.schedule == "steps"
    assert composed("backbone=timesformer", "optim.lr=0.1").optim.lr == 0.1
    assert composed("backbone=timesformer", "trainer=debug").trainer.epochs == 2


def file_of(group: str, name: str) -> dict:
    """A file of conf/ with the files of its group that it builds on, read without Hydra."""
    values = yaml.safe_load((ROOT / f"conf/{group}/{name}.yaml").read_text())
    below: dict = {}
    for base in values.pop("defaults", []):
        below |= file_of(group, base) if isinstance(base, str) and base != "_self_" else {}
    return below | values


def as_in(section: dict, values: dict) -> bool:
    return {key: section[key] for key in values} == values


@pytest.mark.parametrize(
    ("recipe", "optim", "trainer"),
    [
        ("tiny", "adamw_cosine", "default"),
        ("x3d", "adamw_cosine", "debug"),
    ],
)
def test_a_named_file_wins_over_a_recipe(recipe, optim, trainer):
    found = raw(f"recipe={recipe}", f"optim={optim}", f"trainer={trainer}")
    assert found["optim"] == file_of("optim", optim)
    assert as_in(found["trainer"], file_of("trainer", trainer))


@pytest.mark.slow
def test_a_named_file_wins_over_every_recipe():
    """Every two files of the three groups are together in some command."""
    trainers, pairs = GROUPS["trainer"], set()
    for (i, recipe), (j, optim) in product(enumerate(GROUPS["recipe"]), enumerate(GROUPS["optim"])):
        trainer = trainers[(i + j) % len(trainers)]
        test_a_named_file_wins_over_a_recipe(recipe, optim, trainer)
        pairs |= set(combinations((f"recipe={recipe}", f"optim={optim}", f"trainer={trainer}"), 2))
    sizes = [len(GROUPS[group]) for group in ("recipe", "optim", "trainer")]
    assert len(pairs) == sum(a * b for a, b in combinations(sizes, 2))


def test_recipes_set_no_key_of_an_optimizer():
    """They choose one of conf/optim, so that another choice is that file and nothing else."""
    for name in GROUPS["recipe"]:
        assert "optim" not in file_of("recipe", name)


@pytest.fixture
def with_mine(tmp_path):
    """Composes with an experiment and a recipe of the user's own, in a copy of conf/."""
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    (conf / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /optim: adamw_cosine\n  - override /backbone: timesformer\n"
        "  - _self_\ntrainer: {epochs: 50, amp: bf16}\noptim: {lr: 7}\n"
        "backbone: {weights: k600, attention: joint}\nvmp: {lambda: 3}\n"
    )
    (conf / "recipe/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /optim: sgd_cosine\n  - _self_\noptim: {lr: 9, warmup: 0.5}\n"
        "trainer: {epochs: 5, batch_size: 4, micro_batch: null, channels_last: false}\n"
    )
    compose_one = composer(conf)
    return lambda *overrides: compose_one(overrides)


def test_an_experiment_wins_over_recipes_and_the_command_line_over_both(with_mine, capsys):
    mine = with_mine("experiment=mine")
    assert mine["optim"] == file_of("optim", "adamw_cosine") | {"lr": 7}
    assert (mine["trainer"]["epochs"], mine["trainer"]["batch_size"], mine["vmp"]["lambda"]) == (50, 64, 3)
    assert capsys.readouterr().err == ""

    debug = with_mine("experiment=mine", "trainer=debug")
    assert as_in(debug["trainer"], file_of("trainer", "debug"))
    assert debug["optim"]["lr"] == 7
    assert "trainer.epochs is 2, not 50" in capsys.readouterr().err

    optim = with_mine("experiment=mine", "optim=sgd_steps", "optim.momentum=0.8")
    assert optim["optim"] == file_of("optim", "sgd_steps") | {"momentum": 0.8}
    assert with_mine("experiment=mine", "backbone=x3d")["backbone"] == file_of("backbone", "x3d")
    assert with_mine("experiment=mine", "vmp=official")["vmp"]["lambda"] == 0
    recipe = with_mine("experiment=mine", "recipe=tiny", "trainer.batch_size=6")
    assert (recipe["trainer"]["epochs"], recipe["trainer"]["batch_size"]) == (4, 6)
    assert (recipe["optim"]["kind"], recipe["trainer"]["amp"]) == ("adamw", "bf16")

    plain = with_mine("recipe=mine")
    assert (plain["optim"]["lr"], plain["optim"]["warmup"], plain["trainer"]["epochs"]) == (9, 0.5, 5)
    assert with_mine("recipe=mine", "optim=sgd_cosine")["optim"] == file_of("optim", "sgd_cosine")


def test_a_hydra_application_that_composes_keeps_its_own_state(with_mine):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        own = GlobalHydra.instance().hydra
        with_mine("experiment=mine")
        assert own is not None
        assert GlobalHydra.instance().hydra is own


@pytest.mark.slow
def test_a_sweep_over_files_names_them(tmp_path):
    """-m optim=A,B: each job is its file, on a backbone whose recipe brings another optimizer."""
    done = subprocess.run(
        [sys.executable, "tests/quick_train.py", "-m", "optim=adamw_cosine,sgd_steps", f"output={tmp_path}",
         "tag=${optim.schedule}"],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {
        path.parent.name: yaml.safe_load(path.read_text())["optim"] for path in tmp_path.rglob("config.yaml")
    }
    assert found == {
        "seed0-cosine": file_of("optim", "adamw_cosine"),
        "seed0-steps": file_of("optim", "sgd_steps"),
    }


def test_placement_chooses_the_prompted_pathways():
    assert composed().prompted == ("video",)
    assert composed("backbone=slowfast").prompted == ("slow", "fast")
    fast = composed("backbone=slowfast", "vmp.placement=fast")
    assert fast.prompted == ("fast",)
    assert fast.folder.parts[3] == "learned_lambda1_fast"
    assert composed("backbone=slowfast", "vmp=none").folder.parts[3] == "none"


def test_examples_of_the_readme():
    assert composed().vmp.kind == "learned"
    assert composed("vmp=none").vmp.kind == "none"
    assert composed("vmp.lambda=2.5").vmp.lambda_ == 2.5
    assert composed("dataset=motions", "dataset.camera=moving").name == "motions-moving"
    assert composed("backbone=x3d").backbone.key == "x3d_m"
    assert composed("trainer.epochs=3").trainer.epochs == 3
    official = composed("vmp=official").vmp
    assert (official.grey, official.start, official.lambda_) == ("bgr", {}, 0.0)


def test_slope_and_shift_start_where_the_config_says():
    """Through Eq. 2, by the layer itself; they win over what a file starts with."""
    from vmp.power_norm import LearnedPowerNorm

    v = composed("vmp.slope=12", "vmp.shift=-0.3", "vmp.beta=0.4").vmp
    assert (v.m, v.n) == (None, None)
    layer = LearnedPowerNorm(alpha=v.alpha, beta=v.beta, gamma=v.gamma, epsilon=v.epsilon, **v.start)
    assert layer.slope.item() == pytest.approx(12, rel=1e-5)
    assert layer.shift.item() == pytest.approx(-0.3, rel=1e-5)
    assert set(composed("vmp.shift=0").vmp.start) == {"n"}
    assert composed("vmp.m=draw", "vmp.n=0.5").vmp.start == {"m": "draw", "n": 0.5}


def test_the_folder_says_what_the_run_is():
    assert composed("vmp=quick").folder.parts[3] == "quick_lambda1"
    assert composed("trainer=debug", "tag=a").folder.name == "seed0-a-16clips"
    assert composed("vmp.lambda=2.5", "seed=3").folder == Path(
        "outputs/motions-static/tiny-motions/learned_lambda2.5/seed3"
    )
    assert composed("backbone=timesformer", "backbone.weights=k600").folder.parts[2] == "timesformer-k600"
    assert composed("backbone=c2d", "backbone.weights=none").folder.parts[2] == "c2d"
    assert composed("backbone=c2d", "backbone.weights=x/y.pyth").folder.parts[2] == "c2d-file"
    head = composed("backbone=c2d", "train.freeze=all_but_head", "init_from=a/b")
    assert head.folder.parts[2:4] == ("c2d-run", "learned_lambda1_frozen_all_but_head")
    assert composed("vmp=none", "tag=demo").folder == Path(
        "outputs/motions-static/tiny-motions/none/seed0-demo"
    )
    assert composed("vmp=gamma", "backbone=x3d", "backbone.size=s").folder.parts[2:4] == (
        "x3d_s-k400",
        "gamma_lambda0",
    )
