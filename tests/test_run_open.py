"""One way in: who names the files of a run, and who loads the weights of one."""

import ast
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from runs import ROOT, Running, folder, overrides_for

from vmp.build import clip_shape
from vmp.config import check
from vmp.datasets import find_splits
from vmp.errors import ConfigError, RunError
from vmp.runs import records
from vmp.runs.attention import mean_attention, take_level
from vmp.runs.open import open_prompts, open_run
from vmp.runs.run import Run
from vmp.runs.score import find_split

SRC = ROOT / "src"
RUN_FILES = {value for name, value in vars(records).items() if name.endswith("_FILE")}
# a dataset's folder has a classes.txt of its own
ALLOWED = {("data", "classes.txt"), ("prepare", "classes.txt")}


def paths_in(source: Path) -> set[str]:
    """Names of run files that stand in string literals, alone or at the end of a path. Sentences do not count."""
    words = [node.value for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Constant)]
    paths = [word for word in words if isinstance(word, str) and " " not in word]
    return {path.rpartition("/")[2] for path in paths} & RUN_FILES


def test_only_runs_names_the_files_of_a_run():
    assert {"config.yaml", "result.json", "metrics.jsonl", "predictions.csv", "per_class.csv"} < RUN_FILES
    assert paths_in(SRC / "vmp/runs/records.py") == RUN_FILES
    for source in SRC.rglob("*.py"):
        room = source.relative_to(SRC / "vmp").parts[0] if SRC / "vmp" in source.parents else "plugins"
        named = {name for name in paths_in(source) if (room, name) not in ALLOWED}
        assert room == "runs" or not named, (
            f"{source} names {named}: call a function of vmp.runs.records or Run"
        )


def test_an_opened_run_has_the_model_that_was_tested(straight):
    opened = open_run(straight)
    scalars = {name: float(value) for name, value in opened.model.scalars().items()}
    recorded = Run(straight).result["scalars"]
    assert {**scalars, "attention": recorded["attention"]} == recorded
    assert not opened.model.training
    assert opened.classes == ("brighter", "darker")
    assert clip_shape(opened.config, opened.model).frames == opened.spec.frames + 1
    assert (straight / "checkpoints" / opened.checkpoint).is_dir()
    prompts = open_prompts(straight).prompts
    assert prompts.keys() == opened.prompts.keys() == {"video"}
    clip = torch.randint(0, 256, (1, 3, 5, 8, 8), dtype=torch.uint8)
    assert torch.equal(prompts["video"](clip).prompts, opened.prompts["video"](clip).prompts)


def mean_by_formula(folder: Path) -> float:
    """Mean of sigmoid(a (D - b)) over all pixels of the clips that the run was tested on, in float64."""
    opened, scalars = open_run(folder), Run(folder).result["scalars"]
    split = find_split(opened.config, *find_splits(opened.config, progress=False).tested)
    clips = split.test_clips(opened.config, opened.model)
    views = torch.cat([clips[i][1] for i in range(len(clips))]).double() / 255  # (N, 3, T + 1, H, W)
    grey = 0.299 * views[:, 0] + 0.587 * views[:, 1] + 0.114 * views[:, 2]
    logits = scalars["slope"] * (grey[:, 1:] - grey[:, :-1] - scalars["shift"])
    return float(torch.sigmoid(logits).mean())


def test_the_mean_attention_on_the_tested_clips_is_recorded_and_constant_attention_takes_it(
    straight, data, tmp_path
):
    recorded = Run(straight).result["scalars"]["attention"]
    assert recorded == pytest.approx(mean_by_formula(straight), rel=1e-5)
    assert mean_attention(straight) == {"video": recorded}
    old = tmp_path / "old"  # made before the mean was recorded, its checkpoints removed
    shutil.copytree(straight, old, ignore=shutil.ignore_patterns("checkpoints"))
    result = json.loads((old / "result.json").read_text())
    del result["scalars"]["attention"]
    (old / "result.json").write_text(json.dumps(result))
    assert mean_attention(old)["video"] == pytest.approx(recorded, rel=1e-6)

    words = [word for word in overrides_for(data, tmp_path / "out") if not word.startswith("vmp.")]
    Running([*words, "trainer.epochs=1", "vmp=constant", f"vmp.level='{straight}'"]).succeed()
    made = folder(tmp_path / "out", "constant_as_learned_lambda1_lambda0")
    assert Run(made).result["scalars"] == {"attention": pytest.approx(recorded, rel=1e-6)}
    opened = open_run(made)  # with the level of its checkpoint
    assert opened.model.prompts["video"].power_norm.level == pytest.approx(recorded, rel=1e-6)
    config = check({**Run(made).config, "vmp": {**Run(made).config["vmp"], "level": str(made)}})
    (made / "result.json").write_text(json.dumps({**Run(made).result, "scalars": {"slow/attention": 0.5}}))
    with pytest.raises(ConfigError, match="no attention on video there; it has slow"):
        take_level(config, opened.model)


def test_the_newest_runs_are_named_for_a_folder_of_runs(tmp_path):
    """Whatever their depth, and how many more there are."""
    for age, name in enumerate(("b/c/new", "second", "b/c/d/third", "a", "fifth", "b/sixth", "0")):
        (tmp_path / name).mkdir(parents=True)
        config = tmp_path / name / records.CONFIG_FILE
        config.write_text("")
        os.utime(config, (1e9 - age, 1e9 - age))
    named = "".join(f"\n  {tmp_path / name}" for name in ("b/c/new", "second", "b/c/d/third", "a", "fifth"))
    assert records.no_run(tmp_path).endswith(f"the newest first:{named}\n  ... and 2 more")


def test_what_cannot_be_opened_is_an_error(straight, tmp_path):
    with pytest.raises(RunError, match="no run there"):
        open_run(tmp_path)
    with pytest.raises(RunError, match=f"there are runs below it, the newest first:\n *{straight}"):
        open_run(straight.parent.parent)
    for name in (records.CONFIG_FILE, records.CLASSES_FILE):
        (tmp_path / name).write_bytes((straight / name).read_bytes())
    with pytest.raises(RunError, match=r"no such checkpoint in it yet \(last\)"):
        open_run(tmp_path)
    with pytest.raises(RunError, match=r"no such checkpoint in it yet \(best\)"):
        open_run(tmp_path, checkpoint="best")
    with pytest.raises(RunError, match="not finished"):
        open_prompts(tmp_path)
    shutil.copytree(straight / "checkpoints", tmp_path / "checkpoints")
    open_run(tmp_path)
    with open(tmp_path / records.CLASSES_FILE, "a") as classes:
        classes.write("another\n")
    with pytest.raises(
        RunError, match=r"does not fit the model of config.yaml and classes.txt:\n  size mismatch"
    ):
        open_run(tmp_path)
