"""Every shipped config composes; every wrong key or value is told in words, before any data is read."""

import re
import shlex
import shutil
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vmp.config import check, check_evaluate, check_start
from vmp.errors import ConfigError
from vmp.explain import explain
from vmp.overrides import hydra_arguments
from vmp.paper.planning import composer

ROOT = Path(__file__).resolve().parent.parent
GROUPS = {
    group.name: sorted(f.stem for f in group.glob("*.yaml"))
    for group in (ROOT / "conf").iterdir()
    if group.is_dir() and group.name not in ("table", "hydra")  # tables are read by vmp.paper.tables
}
GIVEN = {
    "list": ["dataset.root=.", "dataset.train=a", "dataset.val=b"],
    "manifest": ["dataset.folder=."],
}


def composed(*overrides: str):
    return check(composer(ROOT / "conf")(overrides))


@pytest.mark.parametrize(("group", "name"), [(g, n) for g, names in GROUPS.items() for n in names])
def test_every_file_in_conf_composes(group, name):
    composed(f"{group}={name}", *GIVEN.get(name, []))


@pytest.mark.parametrize(
    ("backbone", "vmp"), product(GROUPS["backbone"], ["learned", "none", "official", "gamma"])
)
def test_groups_compose_with_each_other(backbone, vmp):
    composed(f"backbone={backbone}", f"vmp={vmp}", "trainer=debug")


def test_the_recipe_follows_the_backbone():
    ours, official = composed(), composed("backbone=timesformer")
    assert (ours.optim.schedule, ours.trainer.epochs) == ("cosine", 8)
    o = official.optim
    assert (o.schedule, o.lr, o.ref_batch, o.nesterov, o.at) == ("steps", 0.005, 64, True, (0, 11, 14))
    assert (o.weight_decay, o.norm_weight_decay, official.trainer.epochs) == (1e-4, 1e-4, 25)
    assert composed("backbone=x3d").optim.weight_decay == 5e-5
    assert composed("backbone=c2d").optim.norm_weight_decay == 0
    assert composed("backbone=c2d", "recipe=timesformer").optim.schedule == "steps"
    assert composed("backbone=timesformer", "optim.lr=0.1").optim.lr == 0.1
    assert composed("backbone=timesformer", "trainer=debug").trainer.epochs == 2


# --- what the command line names wins ------------------------------------------------------------------------------


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
        pytest.param(None, None, None, marks=pytest.mark.slow),
    ],
)
def test_a_named_file_is_what_its_file_says_beside_every_recipe(recipe, optim, trainer):
    chosen = [(recipe, optim, trainer)]
    if recipe is None:
        chosen = list(product(GROUPS["recipe"], GROUPS["optim"], GROUPS["trainer"]))
    compose_one = composer(ROOT / "conf")
    for r, o, t in chosen:
        raw = compose_one([f"recipe={r}", f"optim={o}", f"trainer={t}"])
        assert raw["optim"] == file_of("optim", o), (r, o, t)
        assert as_in(raw["trainer"], file_of("trainer", t)), (r, o, t)


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
    assert (recipe["trainer"]["epochs"], recipe["trainer"]["batch_size"]) == (8, 6)
    assert (recipe["optim"]["kind"], recipe["trainer"]["amp"]) == ("adamw", "bf16")

    plain = with_mine("recipe=mine")
    assert (plain["optim"]["lr"], plain["optim"]["warmup"], plain["trainer"]["epochs"]) == (9, 0.5, 5)
    assert with_mine("recipe=mine", "optim=sgd_cosine")["optim"] == file_of("optim", "sgd_cosine")


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


# --- what a config comes to ----------------------------------------------------------------------------------------


def test_prompts_sit_where_they_are_put():
    assert composed().prompted == ("video",)
    assert composed("backbone=slowfast").prompted == ("slow", "fast")
    fast = composed("backbone=slowfast", "vmp.placement=fast")
    assert fast.prompted == ("fast",)
    assert fast.folder.parts[3] == "learned_lambda1_fast"
    assert composed("backbone=slowfast", "vmp=none").folder.parts[3] == "none"


def test_what_the_readme_promises():
    assert composed().vmp.kind == "learned"
    assert composed("vmp=none").vmp.kind == "none"
    assert composed("vmp.lambda=2.5").vmp.lambda_ == 2.5
    assert composed("dataset=motions", "dataset.camera=moving").name == "motions-moving"
    assert composed("backbone=x3d").backbone.key == "x3d_m"
    assert composed("trainer.epochs=3").trainer.epochs == 3
    official = composed("vmp=official").vmp
    assert (official.grey, official.m, official.n, official.lambda_) == ("bgr", 1.5410, -0.2934, 0.0)


def test_slope_and_shift_start_where_they_are_put():
    """Through Eq. 2, by the layer itself; they win over what a file or an experiment starts with."""
    from vmp.power_norm import LearnedPowerNorm

    v = composed("vmp.slope=12", "vmp.shift=-0.3", "vmp.beta=0.4").vmp
    assert (v.m, v.n) == (None, None)
    layer = LearnedPowerNorm(alpha=v.alpha, beta=v.beta, gamma=v.gamma, epsilon=v.epsilon, **v.start)
    assert layer.slope.item() == pytest.approx(12, rel=1e-5)
    assert layer.shift.item() == pytest.approx(-0.3, rel=1e-5)
    assert set(composed("vmp.shift=0").vmp.start) == {"n"}
    official = composed("vmp=official", "vmp.slope=12").vmp
    assert official.start == composed("vmp.slope=12").vmp.start | {"n": -0.2934}
    row = composed("experiment=hmdb51_x3d", "vmp.shift=0.1").vmp
    assert (row.m, row.n, row.shift) == (1.5410, None, 0.1)


def test_a_run_is_named_by_what_it_is():
    assert composed("vmp=quick").folder.parts[3] == "quick_lambda1"
    assert composed("trainer=debug", "tag=a").folder.name == "seed0-a-16clips"
    assert composed("vmp.lambda=2.5", "seed=3").folder == Path(
        "outputs/motions-static/tiny/learned_lambda2.5/seed3"
    )
    assert composed("backbone=timesformer", "backbone.weights=k600").folder.parts[2] == "timesformer-k600"
    assert composed("backbone=c2d", "backbone.weights=none").folder.parts[2] == "c2d"
    assert composed("backbone=c2d", "backbone.weights=x/y.pyth").folder.parts[2] == "c2d-file"
    head = composed("backbone=c2d", "train.freeze=all_but_head", "init_from=a/b")
    assert head.folder.parts[2:4] == ("c2d-run", "learned_lambda1_frozen_all_but_head")
    assert composed("vmp=none", "tag=demo").folder == Path("outputs/motions-static/tiny/none/seed0-demo")
    assert composed("vmp=gamma", "backbone=x3d", "backbone.size=s").folder.parts[2:4] == (
        "x3d_s-k400",
        "gamma_lambda0",
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["vmp.lambda=-1"], "vmp.lambda = -1: must be greater than or equal to 0"),
        (["vmp.lambda=nan"], "vmp.lambda = nan: must be a finite number"),
        (["vmp.lambda=1e400"], "vmp.lambda = inf: must be a finite number"),
        (["vmp.lambda=abc"], "vmp.lambda = 'abc': must be a number"),
        (["vmp.lambda="], "vmp.lambda = ''"),
        (["vmp.lambda=null"], "vmp.lambda = null: must be a number"),
        (["++vmp.lamda=1"], "vmp.lamda: no such key; did you mean vmp.lambda?"),
        (["+x=1"], "x: no such key"),
        (["vmp.placement=nowhere"], "vmp.placement = 'nowhere': must be 'default', 'slow', 'fast' or 'both'"),
        (["vmp.placement=fast"], "tiny has one pathway.*backbones with pathways: slowfast"),
        (["vmp.epsilon=0"], "vmp.epsilon = 0: must be greater than 0"),
        (["vmp.gamma=1"], "vmp.gamma = 1: must be less than 1"),
        (["vmp.alpha=0"], "vmp.alpha = 0"),
        (["vmp.grey=lab"], "vmp.grey = 'lab': must be 'rgb' or 'bgr'"),
        (["vmp=none", "vmp.lambda=1"], "no effect with vmp=none"),
        (["trainer.cudnn_benchmark=true", "trainer.deterministic=true"], "chooses kernels by time"),
        (["vmp=gamma", "vmp.lambda=1"], "no effect with vmp=gamma"),
        (["vmp=maxexp", "vmp.exponent=0.5"], "at least 1 for maxexp"),
        (["dataset.camera=still"], "dataset.camera = 'still': must be 'static' or 'moving'"),
        (["dataset.train=0"], "dataset.train = 0"),
        (["dataset=list"], "dataset.root: must be given"),
        (
            ["+backbone.size=m"],
            "backbone.size: the backbone that was chosen has no such key; .*x3d or timesformer",
        ),
        (["backbone=slowfast", "backbone.frames=30"], "a multiple of 4"),
        (["backbone=slowfast", "backbone.width=12"], "multiple of 8"),
        (["backbone=timesformer", "backbone.crop=100"], "multiple of the patch, 16"),
        (["backbone=timesformer", "backbone.dim=100"], "multiple of backbone.heads = 12"),
        (["backbone=timesformer", "vmp.placement=slow"], "timesformer has one pathway.*slowfast"),
        (["vmp.split=aligned"], "belongs to backbone=slowfast"),
        (["train.freeze=backbone"], "would freeze random weights"),
        (["backbone=c2d", "train.freeze=backbone_and_head", "vmp=none"], "leaves nothing to train"),
        (["train.freeze=all"], "train.freeze = 'all'"),
        (["train.batch_norm=frozen"], "would freeze random weights"),
        (["backbone=slowfast", "vmp=none", "vmp.placement=fast"], "no effect with vmp=none"),
        (["dataset=finegym", "dataset.split=2"], "only hmdb51 has splits"),
        (["backbone=timesformer", "backbone.heads=10"], "multiple of backbone.heads = 10"),
        (["backbone=timesformer", "backbone.patch=10"], "crop = 224: must be a multiple of the patch, 10"),
        (["backbone=timesformer", "backbone.attention=joint"], "published weights have divided attention"),
        (["backbone=c2d", "backbone.frames=1"], "at least 2"),
        (["backbone=timesformer", "backbone.flip_patch_embed=true", "init_from=x"], "has no effect"),
        (["trainer.views=10by3"], "trainer.views = '10by3': must be TEMPORALxSPATIAL.* as 10x3"),
        (["trainer.views=10"], "trainer.views = 10: must be TEMPORALxSPATIAL.* as 10x3"),
        (["trainer.device=gpu"], "must be auto, cpu, cuda or cuda:N.*; did you mean cuda?"),
        (["tag='a b'"], "tag = 'a b': must be one word of letters, digits.*, as a-b"),
        (["trainer.clips=4"], "trainer.clips = 4: fewer than one update, trainer.batch_size = 32"),
        (["optim=sgd_steps", "optim.at=5"], "optim.at = 5: must be a list, as in .1,2."),
        (["trainer.epochs=2.5"], "trainer.epochs = 2.5: must be a whole number"),
        (["vmp.slope=9"], "vmp.slope = 9: must be between 9.091 and 50, both excluded"),
        (["vmp.slope=50"], "vmp.slope = 50: must be between 9.091 and 50, both excluded"),
        (["vmp.alpha=10", "vmp.slope=18"], "vmp.slope = 18: must be between 18.18 and 100"),
        (["vmp.shift=0.6"], "vmp.shift = 0.6: must be between -0.6 and 0.6, both excluded"),
        (["vmp.shift=-2"], "vmp.shift = -2: must be between -0.6 and 0.6"),
        (["vmp.slope=12", "vmp.m=1"], "vmp.m = 1 and vmp.slope = 12 both set where the slope starts"),
        (["vmp.shift=0.1", "vmp.n=1"], "vmp.n = 1 and vmp.shift = 0.1 both set where the shift starts"),
        (["trainer.views=0x3"], "trainer.views"),
        (["data.degrade=blur"], "data.degrade = 'blur'"),
        (["dataset=hmdb51", "dataset.split=4"], "dataset.split = 4"),
        (["backbone=x3d", "backbone.size=xxl"], "backbone.size = 'xxl'"),
        (["backbone.frames=0"], "backbone.frames = 0"),
        (["trainer.epochs=0"], "trainer.epochs = 0"),
        (["trainer.batch_size=0"], "trainer.batch_size = 0"),
        (["trainer.workers=-1"], "trainer.workers = -1"),
        (["trainer.device=tpu"], "trainer.device = 'tpu'"),
        (["optim.warmup=1"], "optim.warmup = 1"),
        (["optim.lr=0"], "optim.lr = 0"),
        (["optim.lr=-0.1"], "optim.lr = -0.1"),
        (["optim.momentum=0"], "nesterov = true needs"),
        (["optim.kind=adamw"], "nesterov = true needs"),
        (["optim.kind=adam"], "optim.kind = 'adam'"),
        (["optim=sgd_steps", "optim.at=[0,5]"], "as many entries"),
        (["data.max_bad_fraction=2"], "data.max_bad_fraction = 2"),
        (["data.reader=vlc"], "data.reader = 'vlc'"),
        (["data.reader=torchcodec_cuda", "trainer.device=cpu"], "decodes on a GPU"),
        (["seed=-1"], "seed = -1"),
        (["tag='a/b'"], "tag = 'a/b'"),
        (["vmp.name='../../x'"], "vmp.name = '../../x'"),
        (["name='..'"], "name = '..'"),
        (["backbone=x3d", "backbone.crop=15"], "backbone.crop = 15"),
        (["vmp.lambda=-1", "optim.lr=0", "seed=-1"], "vmp.lambda = -1.*\n.*optim.lr = 0"),
    ],
)
def test_wrong_values_are_told(overrides, said):
    with pytest.raises(ConfigError, match=said):
        composed(*overrides)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("vmp.lamda=3", "vmp.lamda: no such key; did you mean vmp.lambda?"),
        ("trainer.epoch=3", "trainer.epoch: no such key; did you mean trainer.epochs?"),
        ("epochs=3", "epochs: no such key; did you mean trainer.epochs?"),
        ("train.epochs=3", "train.epochs: no such key; did you mean trainer.epochs?"),
        ("frames=3", "frames: no such key; did you mean dataset.frames or backbone.frames?"),
        ("slope=3", "slope: no such key; did you mean vmp.slope?"),
        ("model=x3d", "model: no such key; did you mean backbone?"),
        ("datset=motions", "datset: no such key; did you mean dataset?"),
        ("vmp=lerned", "vmp=lerned: no such file in conf/vmp; did you mean vmp=learned? There are asinhe, "),
        ("backbone=resnet", "backbone=resnet: no such file in conf/backbone; there are c2d, i3d, "),
        ("vmp.lambda=1,2", "vmp.lambda=1,2: several values make a sweep: add -m"),
        (
            "backbone.size=m",
            "backbone.size: the backbone that was chosen has no such key; it belongs to backbone=x3d",
        ),
        ("+vmp.lambda=2", "+vmp.lambda: the key exists already; leave the + out: vmp.lambda=..."),
        ("tag=lr${optm.lr}", "${optm.lr}: no such key; did you mean optim.lr?"),
    ],
)
def test_hydras_own_errors_are_made_friendlier(override, said):
    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        composed(override)
    assert said in explain(caught.value)
    assert "\n" not in explain(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "run: must be given"),
        (["rn=x"], "rn: no such key; did you mean run?"),
        (["run=x", "trainer.views=10x3"], "trainer.views: no such key; did you mean views?"),
        (["run=x", "epochs=3"], "there are checkpoint, degrade, device, folder, "),
        (["run=x", "views=10"], "views = 10: must be TEMPORALxSPATIAL"),
        (["run=x", "where=speed"], "where = 'speed': must be TAG=WORD, TAG>NUMBER or TAG<NUMBER"),
        (["docs"], "docs: settings are written KEY=VALUE; a run's folder is run=docs"),
    ],
)
def test_evaluate_proposes_its_own_keys(arguments, said):
    with (
        pytest.raises((ConfigError, HydraException, OmegaConfBaseException)) as caught,
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
    ):
        check_evaluate(OmegaConf.to_container(compose("evaluate", hydra_arguments(arguments, "evaluate"))))
    assert said in explain(caught.value, "evaluate")


# --- what was typed -------------------------------------------------------------------------------------------------

TEXTS = [
    "/données",
    "a (1).csv",
    "a=b",
    "~/x",
    "it's",
    "C:\\x\\",
    "\\'",
    "2026",
    "1e5",
    "true",
    "x#y",
    "[a]",
    "a  b",
    "é,",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_read_as_text(text):
    """By Hydra itself: what arrives is what was typed, `~` apart, which is a home for a path."""
    if "," in text:
        with pytest.raises(ConfigError, match="is this one text or several") as caught:
            hydra_arguments([f"init_from={text}"])
        (form,) = [part for part in shlex.split(str(caught.value).replace(";", " ")) if "init_from='" in part]
        assert check_composed([form]).init_from == text
        return
    home = str(Path(text).expanduser()) if text.startswith("~") else text
    config = check_composed(
        hydra_arguments([f"init_from={text}", "dataset=list", f"dataset.root={text}", *GIVEN["list"][1:]])
    )
    assert (config.init_from, config.dataset.root) == (home, home)


def check_composed(overrides: list[str]):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return check(OmegaConf.to_container(compose("train", overrides), resolve=True))


def test_a_comma_in_a_file_that_is_there_is_no_sweep(tmp_path):
    (tmp_path / "a,b.csv").touch()
    (word,) = hydra_arguments([f"init_from={tmp_path}/a,b.csv"])
    assert word == f"init_from='{tmp_path}/a,b.csv'"
    assert hydra_arguments(["-m", f"init_from={tmp_path}/é,x"]) == ["-m", f"init_from='{tmp_path}/é',x"]


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        (["vmp.lambda=0,1", "-m", "seed=0"], ["-m", "vmp.lambda=0,1", "seed=0"]),
        (["seed=0", "--config-dir", "x", "tag=a"], ["--config-dir", "x", "seed=0", "tag=a"]),
        (["seed=0", "--cfg", "job"], ["--cfg", "job", "--resolve", "seed=0"]),
        (["-m", "tag=2025,2026"], ["-m", "tag='2025','2026'"]),
        (["-m", "dataset.train=100,200"], ["-m", "dataset.train=100,200"]),
        (["tag=lr${optim.lr}", "backbone.weights=null"], ["tag=lr${optim.lr}", "backbone.weights=null"]),
        (["output='a b'", 'output="a, b"'], ["output='a b'", 'output="a, b"']),
        (["~experiment", "+x=1"], ["~experiment", "+x=1"]),
    ],
)
def test_options_may_stand_anywhere_and_overrides_stay(arguments, read):
    assert hydra_arguments(arguments) == read


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset=list"], "--dataset=list: no such option. .* dataset=list"),
        (["--epochs", "3"], "without dashes and blanks: epochs=3"),
        (["dataset", "=", "list"], "dataset: settings are written KEY=VALUE, without blanks"),
        (["motions"], "motions: settings are written KEY=VALUE"),
        (["optim.at=[0,5"], "Lists are written optim.at=.1,2."),
    ],
)
def test_what_is_no_override_is_told_with_the_form_that_works(arguments, said):
    with pytest.raises(ConfigError, match=said):
        hydra_arguments(arguments)


def train(*overrides: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *overrides], cwd=ROOT, capture_output=True, text=True, **options
    )


@pytest.mark.slow
def test_the_command_ends_with_one_message_and_code_2(tmp_path):
    """No traceback, no torch: told in little more time than Python and Hydra need to start."""
    (tmp_path / "classes.txt").write_text("a\nb\n")
    header = "id,path,label,frames\n"
    (tmp_path / "val.csv").write_text(header + "v,x.mp4,0,9\n")
    folder = ["dataset=manifest", f"dataset.folder={tmp_path}", f"output={tmp_path / 'out'}"]
    (tmp_path / "train.csv").write_text(header)
    cases = [
        (["vmp.lambda=-1"], "vmp.lambda = -1"),
        (["vmp.lamda=1"], "did you mean vmp.lambda?"),
        ([*folder], "no clips"),
    ]
    for overrides, said in cases:
        began = time.monotonic()
        done = train(*overrides)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert time.monotonic() - began < 20  # a hang, not a benchmark
    (tmp_path / "train.csv").write_text(header + "t,x.mp4,7,9\n")
    done = train(*folder)
    assert done.returncode == 2
    assert "train.csv:2: label 7 is outside 0..1" in done.stderr
    imported = subprocess.run(
        [sys.executable, "-c", "import sys, vmp.train, vmp.cli; print('torch' in sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert imported.stdout.strip() == "False"


def test_help_is_readable_and_needs_no_torch():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "train.py", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "python train.py vmp=none" in done.stdout
    listed = re.findall(
        r"^(\S+): (.*)", done.stdout.partition("groups")[2].partition("examples")[0], re.MULTILINE
    )
    assert {group: names.split(", ") for group, names in listed} == GROUPS
    assert not [
        line
        for line in done.stderr.splitlines()
        if line.split("|")[-1].strip() in ("torch", "torchvision", "cv2")
    ]


def test_make_help_lists_every_target():
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("setup", "demo", "test", "lint", "bench"):
        assert f"make {target}" in done.stdout


# --- groups of parameters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "decays"),
    [
        # backbone, norm layers, m and n
        (("backbone=c2d", "backbone.width=8"), {"rest": 1e-4, "norms": 0.0, "prompts": 1e-4}),
        (
            ("backbone=x3d", "backbone.size=xs", "backbone.width=8"),
            {"rest": 5e-5, "norms": 0.0, "prompts": 5e-5},
        ),
        (
            ("backbone=timesformer", "backbone.dim=24", "backbone.depth=1", "backbone.heads=3"),
            {"rest": 1e-4, "norms": 1e-4, "prompts": 1e-4},
        ),
        (("vmp.weight_decay=0", "vmp.lr_mult=10"), {"rest": 1e-4, "norms": 0.0, "prompts": 0.0}),
        (("optim=adamw_cosine", "vmp.weight_decay=0"), {"rest": 0.05, "norms": 0.0, "prompts": 0.0}),
    ],
)
def test_weight_decay_and_learning_rate_by_group(overrides, decays):
    from torch import nn

    from vmp.build import backbone_spec, build_model, build_optimizer

    config = composed(*overrides, "trainer.batch_size=16")
    model = build_model(config, 5, backbone_spec(config))
    optimizer = build_optimizer(config, model)
    if "optim=adamw_cosine" in overrides:
        assert type(optimizer).__name__ == "AdamW"
        assert optimizer.defaults["betas"] == (0.9, 0.999)
    else:
        assert type(optimizer).__name__ == "SGD"
        assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.9, True)
    norms = {
        id(p)
        for m in model.modules()
        if isinstance(m, nn.BatchNorm3d | nn.LayerNorm)
        for p in m.parameters(recurse=False)
    }
    prompts = {id(p) for p in model.prompts.parameters()}
    assert norms
    lr = config.optim.lr * 16 / (config.optim.ref_batch or 16)  # follows the batch
    seen = set()
    for group in optimizer.param_groups:
        for p in group["params"]:
            what = "norms" if id(p) in norms else "prompts" if id(p) in prompts else "rest"
            assert group["weight_decay"] == decays[what], what
            assert group["lr"] == pytest.approx(lr * (config.vmp.lr_mult if what == "prompts" else 1))
            seen.add(id(p))
    assert seen == {id(p) for p in model.parameters()}


# --- what a run starts from ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["init_from=nowhere"], "init_from = 'nowhere': no such run or checkpoint"),
        (
            ["backbone=c2d", "backbone.weights=no/file.pyth"],
            "neither a name .k400, k600, ssv2, howto100m. nor a file",
        ),
        (["backbone=x3d", "backbone.weights=k600"], "Kinetics-600 weights of x3d_m are not public"),
    ],
)
def test_what_a_run_starts_from_is_looked_for_first(overrides, said):
    with pytest.raises(ConfigError, match=said):
        check_start(composed(*overrides))


@pytest.mark.parametrize(
    ("backbone", "crops", "side", "crop"),
    [
        ("timesformer", 3, 224, 224),
        ("timesformer", 1, 256, 224),
        ("slowfast", 3, 256, 256),
        ("slowfast", 1, 256, 256),
        ("x3d", 1, 256, 256),
        ("tiny", 1, 64, 64),
    ],
)
def test_a_single_crop_is_cut_from_a_larger_picture(backbone, crops, side, crop):
    import torch

    from vmp.build import backbone_spec, build_model, clip_shape

    config = composed(f"backbone={backbone}")
    spec = backbone_spec(config)
    with torch.device("meta"):
        model = build_model(config, 5, spec)
    shape = clip_shape(config, spec, model, crops=crops)
    assert (shape.test_side, shape.test_crop) == (side, crop)
    frames = {"timesformer": 9, "slowfast": 33, "x3d": 17, "tiny": 9}[backbone]
    assert shape.frames == frames
