"""Prompts, backbones and data of a user's own: what is wrong with them is said before training, and a run's folder
imports nothing by itself."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import composed, raw
from faults import no_traceback
from runs import Running, bright_or_dark, overrides_for

import vmp
from vmp import own, targets
from vmp.datasets import find_splits
from vmp.engine.dist import Processes
from vmp.engine.loggers import Log
from vmp.errors import ConfigError, RunError
from vmp.layer import MotionPrompt
from vmp.preflight import try_own_parts
from vmp.runs.folder import check_same_run, load_config
from vmp.runs.open import open_prompts, open_shared
from vmp.runs.records import write_records
from vmp.runs.sharing import write_shared
from vmp.train import _make_model

PARTS = """
from os import system
from pathlib import Path
import torch
from vmp import MotionPrompt

(Path(__file__).parent / "imported").touch()


class Gaussian(torch.nn.Module):
    def __init__(self, width=0.2, power=2.0):
        super().__init__()
        self.width = torch.nn.Parameter(torch.tensor(width))
        self.power = power

    def forward(self, d):
        return 1 - torch.exp(-((d.abs() / self.width) ** self.power))

    def scalars(self):
        return {"width": self.width.detach()}


class Root(Gaussian):
    def forward(self, d):
        return (d.abs() * self.width).sqrt()


class Pooled(Gaussian):
    def forward(self, d):
        return torch.nn.functional.avg_pool2d(super().forward(d), 2)


class Divided(Gaussian):
    def forward(self, d):
        return d / d


class Detached(Gaussian):
    def forward(self, d):
        return super().forward(d).detach()


class Broken(Gaussian):
    def forward(self, d):
        return d[:, :, :, :, 0]


class Steep(Gaussian):
    def scalars(self):
        return {"slope": self.width.detach()}


class Counted(Gaussian):
    def scalars(self):
        return {"width": self.width.expand(3)}


class Steps(Gaussian):
    def forward(self, d):
        return super().forward(d - d[:, [1, 0, *range(1, d.shape[1] - 1)]])


class Whole(MotionPrompt):
    pass


class Halved(MotionPrompt):
    def differences(self, clip):
        return super().differences(clip) / 2


class Inverted(MotionPrompt):
    def attention(self, clip):
        return 1 - super().attention(clip)


def Network(num_classes, more=0):
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.Linear(3, num_classes + more))
    return net


def headless(num_classes):
    return torch.nn.Flatten()


def lazy(num_classes):
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten(), torch.nn.LazyLinear(num_classes))


class Headed(torch.nn.Module):
    def __init__(self, num_classes, fault):
        super().__init__()
        self.head = torch.nn.Linear(3, num_classes)
        if fault == "aside":
            self.other = torch.nn.Linear(3, 2)
        self.fault = fault

    def forward(self, clips):
        if self.fault == "sizes":
            clips = clips.flatten(1)
        logits = self.head(clips if self.fault == "sizes" else clips.mean((2, 3, 4)))
        if self.fault == "detached":
            return logits.detach()
        if self.fault == "softmax" or self.fault == "tested" and not self.training:
            return logits.softmax(1)
        return logits if self.training or self.fault != "pair" else (logits, clips)


def number(**options):
    return 3


def rows(splits=("train", "val"), videos=12, table=False, empty=False):
    if table:  # a table of pandas is iterated by columns
        yield from ("split", "path", "label")
    for i in range(videos):
        more = {"start": float("nan")} if empty else {}
        yield {"split": splits[i % len(splits)], "path": f"train/{i:03}.mp4", "label": "ab"[i // 2 % 2], **more}


constant = 3
"""


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """The folder of a package `parts`, in the working folder; nothing is trusted."""
    monkeypatch.setattr(targets, "_trusted", set())
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "parts"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/__init__.py").touch()
    (tmp_path / "parts/all.py").write_text(PARTS)
    return tmp_path / "parts"


PROMPT, NETWORK = ("vmp=custom", "vmp.target=parts.all."), ("backbone=custom", "backbone.target=parts.all.")
SMALL = ("backbone.frames=4", "backbone.crop=16")


@pytest.mark.parametrize(
    ("chosen", "name", "more", "message"),
    [
        (PROMPT, "Gausian", (), "has no Gausian; did you mean Gaussian?"),
        (PROMPT, "constant", (), "is neither a class nor a function"),
        (PROMPT, "system", (), "is code of posix; it must be a class or a function that parts defines"),
        (PROMPT, "number", (), "must be a class of torch.nn.Module"),
        (NETWORK, "number", (), "made a int; it must be a torch.nn.Module"),
        (PROMPT, "Gaussian", ("vmp.options.wide=1",), "unexpected keyword argument 'wide'"),
        (PROMPT, "Pooled", (), "its attention has shape (2, 4, 8, 8); it must have shape (2, 4, 16, 16)"),
        (PROMPT, "Divided", (), "its attention is not finite on a clip with still regions"),
        (PROMPT, "Root", (), "the gradient of power_norm.width is not finite"),
        (PROMPT, "Steep", (), "scalars() has slope without shift"),
        (PROMPT, "Counted", (), "scalars() fails: "),
        (PROMPT, "Detached", (), "its attention does not depend on its parameters"),
        (PROMPT, "Broken", (), "fails on a clip of shape (2, 3, 5, 16, 16): IndexError: too many indices"),
        (NETWORK, "headless", (), "has no Linear that could be its head"),
        (NETWORK, "lazy", (), "the size of 2.weight, 2.bias is left open until a clip comes"),
        (NETWORK, "Network", ("backbone.options.more=1",), "it must have shape (2, 7): (clips, num_classes)"),
        (
            NETWORK,
            "Headed",
            ("backbone.options.fault=detached",),
            "its logits do not depend on its parameters",
        ),
        (
            NETWORK,
            "Headed",
            ("backbone.options.fault=aside",),
            "the logits do not depend on other, which is taken as its head",
        ),
        (
            NETWORK,
            "Headed",
            ("backbone.options.fault=softmax",),
            "its output consists of probabilities, which sum to 1; leave the softmax out",
        ),
        (
            NETWORK,
            "Headed",
            ("backbone.options.fault=tested",),
            "its output in evaluation mode consists of probabilities",
        ),
        (NETWORK, "Headed", ("backbone.options.fault=pair",), "its output in evaluation mode has type tuple"),
        (
            NETWORK,
            "Headed",
            ("backbone.options.fault=sizes",),
            "(2, 3, 4, 16, 16) (backbone.frames = 4 and backbone.crop = 16 give its size)",
        ),
    ],
)
def test_what_is_wrong_is_said_before_training(parts, chosen, name, more, message):
    with pytest.raises(ConfigError) as caught:
        try_own_parts(composed(chosen[0], chosen[1] + name, *more, *SMALL))
    assert message in str(caught.value)
    assert f"target = parts.all.{name}: " in str(caught.value)


def test_a_power_normalisation_over_several_times_starts_a_run(parts, tmp_path):
    c = composed(*PROMPT[:1], f"{PROMPT[1]}Steps", *SMALL, "backbone.weights=none")
    targets.trust("parts")
    alone, path = (
        Processes(1, 2, torch.device("cpu")),
        tmp_path / "log.txt",
    )  # not the first: it writes no weights.json
    assert _make_model(c, ("a", "b"), alone, Log(path), new=True)
    said = path.read_text()
    assert "the attention on a still pixel is 0.000" in said
    assert (
        "try a function that is larger there, unless still pixels are meant" in said
    )  # it has no vmp.m, which the paper's layer has


def test_errors_in_torch_name_the_line_that_called_it(parts):
    with pytest.raises(ConfigError) as caught:
        try_own_parts(composed(*NETWORK[:1], f"{NETWORK[1]}Headed", "backbone.options.fault=sizes", *SMALL))
    called = 1 + PARTS.splitlines().index(
        '        logits = self.head(clips if self.fault == "sizes" else clips.mean((2, 3, 4)))'
    )
    assert str(caught.value).endswith(f"({parts}/all.py:{called})")


def test_errors_while_importing_name_the_line(parts):
    (parts / "broken.py").write_text("import torch\n\n1 / 0\n")
    (parts / "reading.py").write_text("from pathlib import Path\n\nPath('absent').read_text()\n")
    for target, message in (
        ("parts.broken.A", f"ZeroDivisionError: division by zero ({parts}/broken.py:3)"),
        ("parts.reading.A", f"No such file or directory: 'absent' ({parts}/reading.py:3)"),
        ("parts.none.A", "No module named 'parts.none'"),
        ("absent", "no installed package declares that entry point of the group vmp.power_norms"),
        ("parts:all.A", "must be package.module.NAME, such as parts.all.A, or the name of an entry point"),
        (
            "parts/all.py:A",
            "vmp.target = 'parts/all.py:A': must be package.module.NAME, such as parts.all.A, or",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            try_own_parts(composed("vmp=custom", f"vmp.target={target}"))
        assert message in str(caught.value)
    assert str(parts.parent) not in sys.path


def test_installed_packages_import_nothing_of_the_working_folder(parts, tmp_path, monkeypatch):
    """Such as torchvision, which looks for accimage."""
    (tmp_path / "site").mkdir()
    text = "try:\n    import optional_part\nexcept ImportError:\n    optional_part = None\nclass Part: pass\n"
    (tmp_path / "site/a_package.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in ("a_package", "one_package", "optional_part", "second_part"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "optional_part.py").write_text("")
    (tmp_path / "one_package.py").write_text("import optional_part\nclass Part: pass\n")
    targets.trust("a_package", "one_package", "parts")
    targets.find("vmp", "a_package.Part")
    assert sys.modules["a_package"].optional_part is None
    targets.find("vmp", "one_package.Part")  # the user's own may
    targets.find("vmp", "parts.all.Gaussian")
    (tmp_path / "second_part.py").write_text("")
    (parts / "more.py").write_text("import second_part\nclass Part: pass\n")
    targets.find("vmp", "parts.more.Part")  # also once it is imported


def test_a_power_normalisation_and_a_layer_of_ones_own_are_used(parts):
    targets.trust("parts")
    layer = own.build_prompt("parts.all.Gaussian", {"width": 0.5, "power": 1.0}, mean=0.5, std=0.25)
    clip = torch.randint(0, 256, (2, 3, 4, 8, 8), dtype=torch.uint8)
    d = layer.differences(clip).double().numpy()
    torch.testing.assert_close(
        layer.attention(clip),
        torch.tensor(1 - np.exp(-abs(d) / 0.5)).float(),
        rtol=1e-4,
        atol=1e-5,
    )
    assert layer.mean == (0.5, 0.5, 0.5)
    whole = own.build_prompt("parts.all.Whole", {"alpha": 4.0}, mean=0.5, grey="bgr")
    assert (type(whole).__name__, whole.power_norm.alpha, whole.grey) == ("Whole", 4.0, "bgr")
    torch.testing.assert_close(whole(clip)[0], MotionPrompt(alpha=4.0, mean=0.5, grey="bgr")(clip)[0])
    paper = MotionPrompt(mean=0.5, std=0.25)
    d, slope, shift = paper.differences(clip), paper.slope, paper.shift
    for name, a in (  # what a subclass changes, its prompts and V show
        ("Halved", torch.sigmoid(slope * (d / 2 - shift))),
        ("Inverted", 1 - torch.sigmoid(slope * (d - shift))),
    ):
        prompts, v = own.build_prompt(f"parts.all.{name}", {"std": 0.25}, mean=0.5)(clip)
        torch.testing.assert_close(prompts, a[:, None] * (clip[:, :, 1:] / 255 - 0.5) / 0.25)
        torch.testing.assert_close(v, (a[:, 1:] - a[:, :-1]).square().mean())
    network = own.build_backbone("parts.all.Network", {}, num_classes=5)
    assert network.head_name == "2"


def test_other_options_of_ones_own_do_not_make_a_run_one_of_another_version(tmp_path):
    config = raw("backbone=custom", "backbone.target=parts.all.Network", "backbone.options.more=0")
    write_records(tmp_path, config, {}, ("a", "b"))
    (tmp_path / "result.json").write_text("{}")
    config["backbone"]["options"] = {}
    with pytest.raises(RunError, match=r"backbone.options.more: 0 -> \(absent\)") as caught:
        check_same_run(tmp_path, config)
    assert "version" not in str(caught.value)


def test_rows_are_lists_with_their_splits(parts):
    targets.trust("parts")
    texts = own.list_rows("parts.all.rows", {"videos": 3})
    assert texts == {
        "train": "path,label\ntrain/000.mp4,a\ntrain/002.mp4,b\n",
        "val": "path,label\ntrain/001.mp4,a\n",
    }
    # empty cells of pandas
    assert own.list_rows("parts.all.rows", {"videos": 2, "empty": True})["train"].endswith(
        "\ntrain/000.mp4,a,\n"
    )
    for options, message in (
        ({"splits": ["train", "other"]}, "split = 'other' of {'path': 'train/001.mp4', 'label': 'a'}"),
        ({"splits": ["train"]}, "has rows of train; train, and val or test, are needed"),
        ({"splits": 3}, "object of type 'int' has no len()"),
        ({"table": True}, "gave 'split' as a row; a row is a dict with split, path and label"),
    ):
        with pytest.raises(ConfigError) as caught:
            own.list_rows("parts.all.rows", options)
        assert message in str(caught.value)


def test_entry_points_are_names(parts, monkeypatch):
    """Of a distribution as pip would have installed it."""
    info = parts.parent / "parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vmp.power_norms]\ngaussian = parts.all:Gaussian\n")
    monkeypatch.syspath_prepend(str(parts.parent))
    with pytest.raises(ConfigError, match=r"would import parts\.all and call Gaussian\(\)"):
        targets.find("vmp", "gaussian")
    with pytest.raises(ConfigError, match=r"call Gaussian\(width=0.5\)"):
        own.build_prompt("gaussian", {"width": 0.5})
    assert not (parts / "imported").exists()
    chosen = composed("vmp=custom", "vmp.target=gaussian")  # typed by the user: trusted
    try_own_parts(chosen)
    assert chosen.vmp.name == "gaussian"
    with pytest.raises(ConfigError, match=r"\(there are: gaussian\)"):
        targets.find("vmp", "gausian")


def test_trust_is_of_packages(parts):
    assert targets.take_trust(["a", "trust=parts,others", "b"]) == ["a", "b"]
    assert targets.find("vmp", "parts.all.Gaussian").__name__ == "Gaussian"
    for word in ("trust=parts.all", "trust=", "trust=a b"):
        with pytest.raises(ConfigError, match="must be the name of a package, without dots"):
            targets.take_trust([word])
    with pytest.raises(ConfigError, match="Python's own library"):
        targets.take_trust(["trust=os"])


@pytest.mark.slow
def test_a_run_of_somebody_else_imports_nothing_until_its_package_is_trusted(parts, tmp_path, capsys):
    data, out = bright_or_dark(tmp_path / "data"), tmp_path / "out"
    words = overrides_for(data, out, "vmp=custom", "vmp.target=parts.all.Gaussian", "trainer.epochs=1")
    mine = [
        "dataset=custom",
        "dataset.target=parts.all.rows",
        f"dataset.root={data}",
        f"data.root={tmp_path}/made",
    ]
    mine += [
        "vmp=none",
        f"output={out}",
        *(w for w in words if w.startswith(("trainer", "backbone", "optim"))),
    ]
    for typed in (words, mine):
        done = Running(typed, cwd=tmp_path, environment={"OMP_NUM_THREADS": "1"}).succeed()
    run, listed = out / "manifest/tiny/Gaussian_lambda1/seed0", out / "rows/tiny/none/seed0"
    shared = tmp_path / "shared"
    targets.trust("parts")
    write_shared(run, shared, name="mine")
    width = json.loads((run / "result.json").read_text())["scalars"]["width"]
    assert width != 0.2
    for name in [name for name in sys.modules if name.partition(".")[0] == "parts"]:
        del sys.modules[name]
    targets._trusted.clear()
    (parts / "imported").unlink()

    attempts = {
        "load": lambda: vmp.load(run),
        "prompts": lambda: open_prompts(run),
        "shared": lambda: open_shared(shared),
        "data": lambda: find_splits(load_config(listed)),
    }
    for attempt in attempts.values():
        with pytest.raises(ConfigError, match=r"would import parts\.all and call .*trust=parts"):
            attempt()
    done = Running([f"run={run}", "device=cpu"], script="evaluate.py", cwd=tmp_path).wait()
    assert "trust=parts" in no_traceback(done)
    assert not (parts / "imported").exists()

    assert vmp.load(run, trust="parts").model.scalars()["width"].item() == pytest.approx(width)
    assert (parts / "imported").exists()
    for attempt in attempts.values():
        attempt()
    assert open_prompts(run).prompts["video"].power_norm.width.item() == pytest.approx(width)
    Running([f"run={listed}", "device=cpu", "trust=parts"], script="evaluate.py", cwd=tmp_path).succeed()


def test_search_paths_of_hydra_hold_files_of_ones_own(tmp_path):
    (tmp_path / "vmp").mkdir()
    (tmp_path / "vmp/mine.yaml").write_text("defaults: [learned, _self_]\nalpha: 4.0\nname: mine\n")
    (tmp_path / "vmp/none.yaml").write_text("kind: surprise\n")
    where = f"hydra.searchpath=[{tmp_path}]"
    mine = composed(where, "vmp=mine", "vmp.lambda=2", "trainer=debug")
    assert (mine.vmp.alpha, mine.vmp.lambda_, mine.trainer.epochs) == (4.0, 2.0, 2)
    assert composed(where, "vmp=none").vmp.kind == "none"  # the project's own files come first
    (tmp_path / "primary.yaml").write_text(
        f"defaults: [train, {{override vmp: mine}}, _self_]\nseed: 5\nhydra: {{searchpath: [{tmp_path}]}}\n"
    )
    done = Running(
        [f"--config-dir={tmp_path}", "--config-name=primary", "vmp=mine", "--cfg", "job"], cwd=Path(tmp_path)
    ).wait()
    assert "seed: 5" in done.stdout, done.stderr
    assert "alpha: 4.0" in done.stdout
