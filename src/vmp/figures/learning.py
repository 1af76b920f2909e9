"""What runs with and without prompts learned, in one picture: accuracy, slope and shift over the epochs of every seed,
and the attention on clips before and after training (make demo)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.config import Config, MotionsDataset
from vmp.datasets import motions_of
from vmp.errors import DataError
from vmp.figures.canvas import COLORS, figure, save, style
from vmp.figures.clips import plain_frames
from vmp.figures.curves import line_of, plain_numbers, whole_epochs
from vmp.figures.layers import slope_and_shift
from vmp.figures.panels import fill_grid, panel_rows
from vmp.prompts import build_prompts
from vmp.runs.open import open_prompts
from vmp.runs.run import Run
from vmp.runs.score import clips_tested

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS, CANDIDATES = 4, 100  # prompts of a clip; the first test clips, to choose from
SIZE = 0.95  # inches


Arms = Mapping[str, Sequence[Run]]  # arm -> a run for each seed


def draw_learning(groups: Mapping[str, Arms], prompted: str, stem: Path) -> list[Path]:
    """Write `stem`.png.

    Args:
        groups: name -> the runs of one generated dataset with one prompt layer.
        prompted: the arm whose attention is drawn.

    Raises:
        UserError: a run is not finished, or its videos are missing.
    """
    with style():
        height = 3 * SIZE * len(groups)
        drawn = figure(COLUMNS * 2 * SIZE + 1.3, 2.5 + height + 0.3 * len(groups))
        parts = drawn.subfigures(
            1 + len(groups), 1, height_ratios=[2.3, *[height / len(groups) + 0.3] * len(groups)]
        )
        _draw_curves(parts[0], groups, prompted)
        for part, (name, arms) in zip(parts[1:], groups.items(), strict=True):
            _draw_attention(part, name, arms[prompted][0])
        return save(drawn, stem, kinds=("png",))


def _draw_curves(part: Any, groups: Mapping[str, Arms], prompted: str) -> None:
    axes = part.subplots(1, len(groups) + 2)
    colors = dict(zip(groups, COLORS[2:], strict=False))
    for axis, (name, arms) in zip(axes, groups.items(), strict=False):
        for (label, runs), color in zip(arms.items(), COLORS, strict=False):
            for number, run in enumerate(runs):
                epochs, values = line_of(run.curve, "val/top1")
                axis.plot(epochs, values, color=color, linewidth=1, label=label if not number else "_")
                axis.plot(epochs[-1:], [run.result["top1"]], "D", color=color, markersize=4, alpha=0.7)
        axis.set_title(f"{name}: top-1, %")
        axis.legend(loc="lower right")
    for axis, scalar in zip(axes[-2:], ("slope", "shift"), strict=True):
        for name, arms in groups.items():
            for number, run in enumerate(arms[prompted]):
                line = line_of(run.curve, f"vmp/{scalar}")
                axis.plot(*line, color=colors[name], linewidth=1.2, label=name if not number else "_")
        axis.set_title(f"learned {scalar}")
        plain_numbers(axis, least={"slope": 0.1, "shift": 0.01}[scalar])
        axis.legend()
    for axis in axes:
        axis.set_xlabel("epoch")
        whole_epochs(axis)
    part.suptitle("lines: validation; diamonds: the final test, on more clips", fontsize=7)


def _draw_attention(part: Any, name: str, run: Run) -> None:
    """Two test clips of a run: frames, attention before training and after it."""
    config, opened = run.checked_config, open_prompts(run.folder)
    (after,) = opened.prompts.values()
    before = _layer_before(run)
    rows: list[list[Any]] = [[], [], []]
    titles: list[str] = []
    for label, clip in two_clips(config, opened):
        shown = panel_rows(clip, after, columns=COLUMNS)
        rows[0] += list(shown[0])
        rows[1] += list(panel_rows(clip, before, columns=COLUMNS)[2])
        rows[2] += list(shown[2])
        titles += [label, *[""] * (COLUMNS - 1)]
    names = ["frame"]
    for when, layer in (("before", before), ("after", after)):
        learned = "\n".join(
            f"{letter} = {v:.2f}" for letter, v in zip("ab", slope_and_shift(layer).values(), strict=True)
        )
        names.append(f"attention\n{when}\n{learned}")
    fill_grid(part, rows, rows=names, columns=titles)
    part.suptitle(f"{name}, seed {config.seed}: attention, white 0, dark red 1", fontsize=8)


def _layer_before(run: Run) -> Any:
    """The layer as the run began with it: by its config, with m and n of the first row of its metrics."""
    import torch

    config = run.checked_config
    (layer,) = build_prompts(config).values()
    start = next(row for row in run.rows if row["kind"] == "start")
    for name, parameter in layer.power_norm.named_parameters():
        torch.nn.init.constant_(parameter, start[f"vmp/{name}"])
    return layer


def two_clips(config: Config, opened: Any) -> "list[tuple[str, Tensor]]":
    """Class and frames, (3, frames, H, W) uint8, of two test clips of different classes, as the model is tested
    on them: the two whose object stays in the picture longest.

    Raises:
        DataError: a clip cannot be read, or the dataset is not generated.
    """
    import torch

    if not isinstance(config.dataset, MotionsDataset):
        raise DataError(f"{config.dataset.name}: this picture needs clips of dataset=motions")
    spec = motions_of(config.dataset)
    clips = clips_tested(opened)
    order = sorted(
        range(min(CANDIDATES, len(clips))), key=lambda i: -min(plain_frames(spec, i), clips.shape.frames)
    )
    found: dict[str, Tensor] = {}
    for index in order:
        label = opened.classes[clips.present.clips[index].label].replace("_", " ")
        if label not in found and len(found) < 2:
            views = clips[index][1]
            if not isinstance(views, torch.Tensor):
                raise views
            found[label] = views[0]
    return list(found.items())
