"""docs/get_started.md: every command, run in a folder with videos as the page describes them."""

import itertools
import shlex
from pathlib import Path

import pytest
from configs import composed
from runs import Running

from vmp.data.motions import Motions, make_motions

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/get_started.md").read_text(encoding="utf-8")
OWN, HMDB51 = PAGE.split("\n## SlowFast or TimeSformer on HMDB-51\n")


def commands_in(text: str, *programs: str) -> list[str]:
    return [
        line.strip() for line in text.splitlines() if line.startswith(tuple(f"    {p} " for p in programs))
    ]


COMMANDS = commands_in(OWN, "python")


def test_every_run_on_hmdb51_has_a_config_and_a_folder():
    found = []
    for line in commands_in(HMDB51, "python", "torchrun"):
        words = shlex.split(line, comments=True)
        given = [
            word for word in words[words.index("train.py") + 1 :] if "=" in word and "launcher" not in word
        ]
        choices = [
            [f"{key}={one}" for one in values.split(",")]
            for key, _, values in (w.partition("=") for w in given)
        ]
        configs = [composed(*each) for each in itertools.product(*choices)]
        assert {config.trainer.amp for config in configs} == {"none"}
        found.append(len({config.folder for config in configs}))
    assert found == [1, 1, 1, 1, 6]  # the last is a sweep


@pytest.mark.slow
def test_every_command_of_the_page_works(tmp_path):
    made = make_motions(tmp_path / "made", Motions(train=20, val=10, test=10), progress=False)
    videos = sorted(made.rglob("*.mp4"))
    for i, path in enumerate(videos[:20]):
        name = f"{'jump' if i % 2 else 'run'}/{'abcdefghij'[i // 2]}.mp4"
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "videos" / name)

    def run(script: str, *arguments: str) -> str:
        done = Running(
            [*arguments],
            script=script,
            cwd=tmp_path,
            environment={"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        ).wait(280)
        assert done.returncode == 0, (script, arguments, done.stderr[-2000:])
        return done.stdout

    assert len(COMMANDS) == 6
    printed = {}
    for command in COMMANDS:
        _, script, *arguments = shlex.split(command)
        if "-m" in arguments:  # one seed and one epoch are enough here
            arguments = [word.replace("seed=0,1", "seed=0") for word in arguments] + ["trainer.epochs=1"]
        printed[Path(script).stem] = run(script, *arguments)
    (split,) = (tmp_path / "data/folders").glob("*/split.csv")
    assert [split.read_text().count(f",{part}\n") for part in ("train", "val", "test")] == [16, 4, 0]
    for name in ("vmp=none", "vmp=learned", "top-1", "done"):
        assert name in printed["train"]
    assert "<html" in (tmp_path / "report.html").read_text()
    assert "d.mp4" in printed["predict"]
    assert "top-1" in printed["evaluate"]
