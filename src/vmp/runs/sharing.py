"""A trained model as a folder to give away: what `vmp push` uploads and `vmp.load("hf:...")` opens.

Notes:
- the folder has model.safetensors, config.yaml, classes.txt, result.json and README.md, the model card. It has no
  data, no predictions, no names of videos, no account of a tracker, and no path of the machine that it was made on;
- reading it executes nothing: the config is checked, the weights are read as tensors.
"""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from vmp.config.keys import is_path
from vmp.errors import RunError
from vmp.files import write_json, write_tensors, write_text
from vmp.runs.open import MODEL_FILE, Opened, is_shared, open_run
from vmp.runs.records import (
    CLASSES_FILE,
    CONFIG_FILE,
    RESULT_FILE,
    has_top5,
    read_config,
    read_weights,
)
from vmp.runs.run import read_run

CARD_FILE = "README.md"
FILES = (MODEL_FILE, CONFIG_FILE, CLASSES_FILE, RESULT_FILE, CARD_FILE)
# of result.json; what else it has is about the machine
TOLD = (
    *("split", "views", "reduce", "top1", "top5", "mean_class", "cross_entropy"),
    *("clips", "scalars", "commit"),
)


def write_shared(run: Path, folder: Path, *, name: str) -> list[Path]:
    """Write what others need of a finished run; returns the files.

    Args:
        folder: is made; files of these names in it are replaced.
        name: of the model, for the card: OWNER/NAME on the Hub, or the folder's.

    Raises:
        RunError: there is no run, it is not finished, or the folder has such files of something else, such as a run.
    """
    result = read_run(run).result
    if not is_shared(folder) and (others := [name for name in FILES if (folder / name).exists()]):
        raise RunError(
            f"{folder}: has a {others[0]} of something else, which would be replaced; choose a new or an empty folder"
        )
    opened = open_run(run)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "vmp_backbone": opened.config.backbone.key}
    write_tensors(folder / MODEL_FILE, opened.model.state_dict(), metadata)
    raw = {**_without_paths(read_config(run)), "output": "outputs", "logger": {"kind": "files"}}
    write_text(folder / CONFIG_FILE, OmegaConf.to_yaml(OmegaConf.create(raw)))
    write_text(folder / CLASSES_FILE, "".join(f"{one}\n" for one in opened.classes))
    told = {key: result[key] for key in TOLD if key in result}
    write_json(folder / RESULT_FILE, told)
    write_text(folder / CARD_FILE, _card(name, opened, told, read_weights(run)))
    return [folder / file for file in FILES]


def _without_paths(raw: dict[Any, Any], prefix: str = "") -> dict[Any, Any]:
    """A config with the last part of each path alone, also of those among the options of somebody's own parts."""

    def last(value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return _without_paths(value, f"{name}.")
        if isinstance(value, list):
            return [last(one, name) for one in value]
        path = isinstance(value, str) and (is_path(name) or value.startswith(("/", "~")))
        return Path(value).name if path else value

    return {key: last(value, f"{prefix}{key}") for key, value in raw.items()}


def _card(name: str, opened: Opened, told: dict[str, Any], weights: dict[str, Any]) -> str:
    """The model card: what was trained on what, its accuracies, slope and shift, and the licence of its start."""
    config = opened.config
    scalars = {k: v for k, v in told.get("scalars", {}).items() if k.endswith(("slope", "shift"))}
    learned = ", ".join(f"{key} {value:.4f}" for key, value in scalars.items()) or "none"
    clips = told.get("clips", {})
    counts = [f"{split}: {c['present']:,} clips" for split, c in clips.items() if isinstance(c, dict)]
    licence = weights.get("licence")
    start, source = "random weights", weights.get("source", "random")
    if source != "random":
        start = f"{Path(str(source)).name}, licence {licence or 'unknown'}"
    head = {
        "library_name": "video-motion-prompts",
        "pipeline_tag": "video-classification",
        "tags": ["video-motion-prompts", config.backbone.key],
        **({"license": str(licence).lower()} if licence else {}),
    }
    top5 = f"{told['top5']:.2f}" if has_top5(len(opened.classes)) else "–"
    row = f"| {config.backbone.key} | {config.vmp.kind} | {config.name} | {told['top1']:.2f} | {top5} |"
    address = f"hf:{name}" if "/" in name else name  # on the Hub, or a folder
    return f"""---
{OmegaConf.to_yaml(OmegaConf.create(head)).rstrip()}
---

# {name}

A video classifier, trained with the framework Video Motion Prompts.

| backbone | prompts | dataset | top-1 | top-5 |
|---|---|---|---|---|
{row}

- tested on {told["split"]}, {"x".join(map(str, told.get("views", [])))} views
- data: {"; ".join(counts) or "unknown"}
- slope and shift: {learned}
- start: {start}
- commit of the code: {told.get("commit") or "unknown"}

```python
import vmp

model = vmp.load("{address}")
print(model.predict("my.mp4").top(5))
```

The weights may be used as the licence of their start and of the training data allow.
"""
