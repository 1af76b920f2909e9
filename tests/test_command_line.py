"""What a person types: text, lists and options are read as meant, errors end with code 2, --help is complete."""

import errno
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vmp.cli import absolute, friendly, parser_of
from vmp.config import check
from vmp.errors import ConfigError
from vmp.files import write_text
from vmp.overrides import hydra_arguments

ROOT = Path(__file__).resolve().parent.parent
GIVEN = {
    "list": ["dataset.root=.", "dataset.train=a", "dataset.val=b"],
    "manifest": ["dataset.folder=."],
    "folders": ["dataset.root=."],
}
GROUPS = {
    group.name: sorted(f.stem for f in group.glob("*.yaml"))
    for group in (ROOT / "conf").iterdir()
    if group.is_dir()
    and group.name not in ("table", "study", "pretraining", "hydra")  # vmp.paper reads these
}


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


def test_a_comma_in_the_name_of_an_existing_file_is_no_sweep(tmp_path):
    (tmp_path / "a,b.csv").touch()
    (word,) = hydra_arguments([f"init_from={tmp_path}/a,b.csv"])
    assert word == f"init_from='{tmp_path}/a,b.csv'"
    assert hydra_arguments(["-m", f"init_from={tmp_path}/é,x"]) == ["-m", f"init_from='{tmp_path}/é',x"]


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        (["vmp.lambda=0,1", "-m", "seed=0"], ["-m", "vmp.lambda=0,1", "seed=0"]),
        (["seed=007", "tag=007", "optim.lr=0.10"], ["seed=7", "tag=007", "optim.lr=0.10"]),
        (["-m", "seed=00,01,10"], ["-m", "seed=0,1,10"]),
        (["seed=0", "--config-dir", "x", "tag=a"], ["--config-dir", "x", "seed=0", "tag=a"]),
        (["seed=0", "--cfg", "job"], ["--cfg", "job", "--resolve", "seed=0"]),
        (["-m", "tag=2025,2026"], ["-m", "tag='2025','2026'"]),
        (["-m", "dataset.train=100,200"], ["-m", "dataset.train=100,200"]),
        (["tag=lr${optim.lr}", "backbone.weights=null"], ["tag=lr${optim.lr}", "backbone.weights=null"]),
        (["output='a b'", 'output="a, b"'], ["output='a b'", 'output="a, b"']),
        (["~experiment", "+x=1"], ["~experiment", "+x=1"]),
        (["vmp=null", "logger=1"], ["vmp='null'", "logger='1'"]),  # names of files, of which there are none
        (["-m", "vmp=none,null", "experiment=glob(*)"], ["-m", "vmp=none,'null'", "experiment=glob(*)"]),
    ],
)
def test_options_may_stand_anywhere_and_overrides_keep_their_order(arguments, read):
    assert hydra_arguments(arguments) == read


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset=list"], "--dataset=list: no such option. .* dataset=list"),
        (["--epochs", "3"], "without dashes and blanks: trainer.epochs=3"),
        (["dataset", "=", "list"], "dataset: settings are written KEY=VALUE, without blanks"),
        (["motions"], "motions: settings are written KEY=VALUE"),
        (["optim.at=[0,5"], "Lists are written optim.at=.1,2."),
        (["vmp=['none', learned]"], "a list; name one file of conf/vmp .*: -m vmp=none,learned"),
        (["logger=[wandb,tensorboard]"], "a list; name one file of conf/logger"),
    ],
)
def test_words_that_are_no_overrides_fail_with_the_form_that_works(arguments, said):
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


def test_ctrl_c_while_hydra_is_imported_shows_no_traceback(monkeypatch, capsys):
    class Interrupted:
        def find_spec(self, name, *_):
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "hydra.errors")
    monkeypatch.setattr(sys, "meta_path", [Interrupted()])
    with pytest.raises(SystemExit) as ended, friendly():
        raise AssertionError
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_server_of_files_that_fails_shows_no_traceback(capsys):
    for fault in (errno.ESTALE, errno.EIO):
        with pytest.raises(SystemExit, match="2"), friendly():
            raise OSError(fault, os.strerror(fault), "/share/a.mp4")
        assert f"/share/a.mp4: cannot be read or written ({os.strerror(fault)})" in capsys.readouterr().err


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with pytest.raises(SystemExit, match="2"), friendly():
        write_text(tmp_path / "out", "")
    assert f"{tmp_path / 'out'}: cannot be read or written (Is a directory)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [("train", ["--config-dir", "conf", "vmp=mine"]), ("study", ["conf/vmp/mine.yaml", "dry=1"])],
)
def test_a_config_file_in_another_encoding_shows_no_traceback(tmp_path, script, name, words):
    (tmp_path / "conf/vmp").mkdir(parents=True)
    (tmp_path / "conf/vmp/mine.yaml").write_bytes("name: März\n".encode("latin-1"))
    place = str(tmp_path / "conf")
    code, _, errors = script(name, *(word.replace("conf", place, word != "--config-dir") for word in words))
    assert code == 2
    assert "a config file is not UTF-8" in errors
    assert "after 'name: M'" in errors


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


def test_a_home_folder_behind_an_equals_sign_is_expanded():
    """No shell expands the ~ in --out=~/x."""
    parser = parser_of("Do something.")
    command = parser.add_subparsers().add_parser("one")
    command.add_argument("--out", type=Path)
    command.add_argument("--to", type=absolute)
    options = parser.parse_args(["one", "--out=~/x", "--to=~/y"])
    assert (options.out, options.to) == (Path.home() / "x", Path.home() / "y")
