"""Every wrong key or value fails with one message that says what is allowed, before any data is read."""

import pytest
from configs import ROOT, composed
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vmp.config import check_evaluate, check_start
from vmp.errors import ConfigError
from vmp.explain import explain
from vmp.overrides import hydra_arguments


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["vmp.lambda=-1"], "vmp.lambda = -1: must be greater than or equal to 0"),
        (["vmp.lambda=nan"], "vmp.lambda = nan: must be a finite number"),
        (["vmp.lambda=1e400"], "vmp.lambda = inf: must be a finite number"),
        (["vmp.lambda=abc"], "vmp.lambda = 'abc': must be a number"),
        (["vmp.lambda="], "vmp.lambda = ''"),
        (["output="], "output = '': must not be empty"),  # of a shell variable that is not set
        (["backbone.weights="], "backbone.weights = '': must not be empty"),
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
        (["vmp=oracle", "dataset=finegym"], "only the generator of dataset=motions knows what really moves"),
        (["vmp=maxexp", "vmp.exponent=0.5"], "at least 1 for maxexp"),
        (["dataset.camera=still"], "dataset.camera = 'still': must be 'static', 'moving' or 'both'"),
        (["dataset.train=0"], "dataset.train = 0"),
        (
            ["dataset=list"],
            "dataset.root: must be given: the folder that the paths in the lists are relative to, as in "
            "dataset.root=videos\n"
            "dataset.train: must be given: the list of the training clips.*dataset.train=train.csv\n"
            "dataset.val: must be given",
        ),
        (["dataset=folders"], "dataset.root: must be given: the folder that holds one folder per class"),
        (["dataset=manifest"], "dataset.folder: must be given: a folder of manifests"),
        (["dataset=custom"], "dataset.target: must be given: your function"),
        (["vmp=custom"], "vmp.target: must be given: your class"),
        (["backbone=custom"], "backbone.target: must be given: your class or function"),
        (["trainer.clips=???"], "trainer.clips: must be given: a value, as in trainer.clips=..."),
        (["trainer.deterministic='1'"], "trainer.deterministic = '1': must be true or false$"),
        (["trainer.tf32=maybe"], "trainer.tf32 = 'maybe': must be true, false or auto$"),
        (
            ["dataset=folders", "dataset.root=.", "dataset.ratio=[0.8,0.2]"],
            "number 3 is missing; give the shares of train, val and test, as in dataset.ratio=.0.8,0,0.2.",
        ),
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
        (["backbone.weights=none", "train.freeze=backbone"], "would freeze random weights"),
        (["backbone=c2d", "train.freeze=backbone_and_head", "vmp=none"], "leaves nothing to train"),
        (["train.freeze=all"], "train.freeze = 'all'"),
        (["backbone.weights=none", "train.batch_norm=frozen"], "would freeze random weights"),
        (["backbone=slowfast", "vmp=none", "vmp.placement=fast"], "no effect with vmp=none"),
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
        (["vmp.shift=0.1", "vmp.n=draw"], "vmp.n = draw and vmp.shift = 0.1 both set where the shift starts"),
        (["vmp.m=some"], "vmp.m = 'some': must be a number, or draw"),
        (["vmp.shift=0.1", "vmp.n=1"], "vmp.n = 1 and vmp.shift = 0.1 both set where the shift starts"),
        (["trainer.views=0x3"], "trainer.views"),
        (["data.degrade=blur"], "data.degrade = 'blur'"),
        (["dataset=hmdb51", "dataset.split=4"], "dataset.split = 4"),
        (["dataset=finegym", "+dataset.split=2"], "dataset.split = 2 has no effect with dataset finegym"),
        (
            ["dataset=surv_fight", "dataset.fold=1", "+dataset.set=2"],
            "set = 2 has no effect with dataset surv",
        ),
        (["backbone=x3d", "backbone.size=xxl"], "backbone.size = 'xxl'"),
        (["backbone.frames=0"], "backbone.frames = 0"),
        (["trainer.epochs=0"], "trainer.epochs = 0"),
        (["trainer.batch_size=0"], "trainer.batch_size = 0"),
        (["trainer.workers=-1"], "trainer.workers = -1"),
        (["trainer.device=tpu"], "trainer.device = 'tpu'"),
        (["optim.warmup=1"], "optim.warmup = 1"),
        (["optim.lr=0"], "optim.lr = 0"),
        (["optim.lr=-0.1"], "optim.lr = -0.1"),
        (["optim=sgd_cosine", "optim.momentum=0"], "nesterov = true needs"),
        (["optim=sgd_cosine", "optim.kind=adamw"], "nesterov = true needs"),
        (["optim.kind=adam"], "optim.kind = 'adam'"),
        (["optim=sgd_steps", "optim.at=[0,5]"], "as many entries"),
        (["+optim.at=[0,5]", "+optim.factors=[1,0.1]"], "have no effect with optim.schedule = cosine; use"),
        (["data.max_bad_fraction=2"], "data.max_bad_fraction = 2"),
        (["data.reader=vlc"], "data.reader = 'vlc'"),
        (["data.reader=torchcodec_cuda", "trainer.device=cpu"], "decodes on a GPU"),
        (["seed=-1"], "seed = -1"),
        (["tag='a/b'"], "tag = 'a/b'"),
        (["vmp.name='../../x'"], "vmp.name = '../../x'"),
        (["name='..'"], "name = '..'"),
        (["backbone=x3d", "backbone.crop=15"], "backbone.crop = 15"),
        (["vmp.patch=4"], "vmp.patch = 4 has no effect with vmp.form = pixel; add vmp.form=patch"),
        (["augment.rand_magnitude=20"], "rand_magnitude = 20 has no effect with augment.rand_ops = 0"),
        (["data.degrade_in=both"], "degrade_in = both has no effect with data.degrade = none"),
        (["vmp.lambda=-1", "optim.lr=0", "seed=-1"], "vmp.lambda = -1.*\n.*optim.lr = 0"),
    ],
)
def test_wrong_values_fail_with_key_value_and_what_is_allowed(overrides, said):
    with pytest.raises(ConfigError, match=said):
        composed(*overrides)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("vmp.lamda=3", "vmp.lamda: no such key; did you mean vmp.lambda?"),
        ("trainer.epoch=3", "trainer.epoch: no such key; did you mean trainer.epochs?"),
        (
            "optim.at=[0,1]",
            "optim.at: the file that was chosen from conf/optim has no such key; choose one that",
        ),
        ("epochs=3", "epochs: no such key; did you mean trainer.epochs?"),
        ("train.epochs=3", "train.epochs: no such key; did you mean trainer.epochs?"),
        ("frames=3", "frames: no such key; did you mean dataset.frames or backbone.frames?"),
        ("slope=3", "slope: no such key; did you mean vmp.slope?"),
        ("model=x3d", "model: no such key; did you mean backbone?"),
        ("datset=motions", "datset: no such key; did you mean dataset?"),
        ("vmp=lerned", "vmp=lerned: no such file in conf/vmp; did you mean vmp=learned? There are asinhe, "),
        ("vmp=null", "vmp=null: no such file in conf/vmp; there are asinhe, "),
        ("vmp=a+b", "vmp=a+b: no such file in conf/vmp; there are asinhe, "),
        ("backbone=resnet", "backbone=resnet: no such file in conf/backbone; there are c2d, custom, i3d, "),
        ("vmp.lambda=1,2", "vmp.lambda=1,2: several values make a sweep: add -m"),
        (
            "backbone.size=m",
            "backbone.size: the backbone that was chosen has no such key; it belongs to backbone=x3d",
        ),
        (
            "dataset.split=2",
            "the dataset that was chosen has no such key; it belongs to dataset=hmdb51 or ucf101",
        ),
        ("+vmp.lambda=2", "+vmp.lambda: the key exists already; leave the + out: vmp.lambda=..."),
        ("tag=lr${optm.lr}", "${optm.lr}: no such key; did you mean optim.lr?"),
    ],
)
def test_hydras_own_errors_are_explained(override, said):
    with pytest.raises((HydraException, OmegaConfBaseException)) as caught:
        composed(override)
    assert said in explain(caught.value)
    assert "\n" not in explain(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "run: must be given: the folder of a run, which train.py prints, as in run=outputs/.../seed0"),
        (["rn=x"], "rn: no such key; did you mean run?"),
        (["run=x", "trainer.views=10x3"], "trainer.views: no such key; did you mean views?"),
        (
            ["run=x", "vmp.lambda=2"],
            "vmp.lambda: a key of training, which a run is tested with as it was trained; there are checkpoint, ",
        ),
        (["run=x", "data.kep=2"], "data.kep: no such key; there are checkpoint, degrade"),
        (["run=x", "epochs=3"], "there are checkpoint, degrade, device, folder, "),
        (["run=x", "views=10"], "views = 10: must be TEMPORALxSPATIAL"),
        (["run=x", "where=speed"], "where = 'speed': must be TAG=WORD, TAG>NUMBER or TAG<NUMBER"),
        (["docs"], "docs: settings are written KEY=VALUE; a run's folder is run=docs"),
    ],
)
def test_evaluate_suggests_its_own_keys(arguments, said):
    with (
        pytest.raises((ConfigError, HydraException, OmegaConfBaseException)) as caught,
        initialize_config_dir(str(ROOT / "conf"), version_base="1.3"),
    ):
        check_evaluate(OmegaConf.to_container(compose("evaluate", hydra_arguments(arguments, "evaluate"))))
    assert said in explain(caught.value, "evaluate")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["init_from=nowhere"], "init_from = 'nowhere': no such run or checkpoint"),
        (
            ["backbone=c2d", "backbone.weights=no/file.pyth"],
            "neither a name .k400, k600, ssv2, howto100m, motions. nor a file",
        ),
        (["backbone=x3d", "backbone.weights=k600"], "Kinetics-600 weights of x3d_m are not public"),
    ],
)
def test_missing_start_weights_fail_before_anything_runs(overrides, said):
    with pytest.raises(ConfigError, match=said):
        check_start(composed(*overrides))
