"""One way in: who names the files of a run, and who loads the weights of one."""

import ast
from pathlib import Path

import pytest
import torch
from runs import ROOT

from vmp.build import clip_shape
from vmp.errors import RunError
from vmp.runs import records
from vmp.runs.open import open_prompts, open_run
from vmp.runs.run import Run

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
    assert scalars == Run(straight).result["scalars"]
    assert not opened.model.training
    assert opened.classes == ("brighter", "darker")
    assert clip_shape(opened.config, opened.spec, opened.model).frames == opened.spec.frames + 1
    assert (straight / "checkpoints" / opened.checkpoint).is_dir()
    prompts = open_prompts(straight).prompts
    assert prompts.keys() == opened.prompts.keys() == {"video"}
    clip = torch.randint(0, 256, (1, 3, 5, 8, 8), dtype=torch.uint8)
    assert torch.equal(prompts["video"](clip).prompts, opened.prompts["video"](clip).prompts)


def test_what_cannot_be_opened_is_an_error(straight, tmp_path):
    with pytest.raises(RunError, match="no run there"):
        open_run(tmp_path)
    for name in (records.CONFIG_FILE, records.CLASSES_FILE):
        (tmp_path / name).write_bytes((straight / name).read_bytes())
    with pytest.raises(RunError, match=r"no such checkpoint in it yet \(last\)"):
        open_run(tmp_path)
    with pytest.raises(RunError, match=r"no such checkpoint in it yet \(best\)"):
        open_run(tmp_path, checkpoint="best")
    with pytest.raises(RunError, match="not finished"):
        open_prompts(tmp_path)
