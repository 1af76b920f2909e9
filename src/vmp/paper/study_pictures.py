"""What the prompts of a study's runs look at: one clip as all arms see it; and clips that only an arm gets right, or
only its reference.

The runs must be on this machine, with their videos; recorded runs have no folder to draw from. The pictures show frames
of the videos, so those of clips that runs disagree on are not published, and the others only in miniature.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vmp.errors import UserError, VideoReadError
from vmp.figures.canvas import save, style
from vmp.figures.layers import layers_of
from vmp.figures.looks import Look, draw_looks, look_at
from vmp.figures.panels import draw_grid, panel_rows, wrap
from vmp.figures.worst import ClipDrawer
from vmp.paper.study import Study, StudyRun
from vmp.runs.open import Opened, open_run
from vmp.runs.run import Run
from vmp.runs.score import clips_tested, spread_clips

if TYPE_CHECKING:
    from vmp.data.dataset import TestClips

COLUMNS = 4  # moments of a clip
MOST = 3  # clips of each kind
TRIED = 24  # clips that one is chosen from


def draw_arms(study: Study, planned: Sequence[StudyRun], folder: Path) -> list[Path]:
    """One picture per set: frames of a tested clip, and the attention that each arm gives them; the files written.

    Each arm is drawn from its first finished run of the first fold, at the default setting. Arms without attention or
    with other frames, and sets without such runs here, are left out.
    """
    import torch

    written = []
    for chosen, of_set in study.sets.items():
        here: dict[str, Path] = {}
        for run in planned:
            place = run.set, run.fold, run.setting
            if place == (chosen, 1, study.default_setting) and run.planned.finished:
                here.setdefault(run.arm, run.planned.folder)
        seen: dict[str, tuple[Opened, torch.Tensor]] = {}
        at, name = -1, ""
        for arm, where in here.items():
            try:
                opened = open_run(where)
                clips = clips_tested(opened)
            except UserError as error:
                print(f"warning: no attention of {where}: {error}")
                continue
            if at < 0:
                at = _most_moving(clips)
                name = opened.classes[clips.present.clips[at].label]
            views = clips[at][1]
            if isinstance(views, torch.Tensor):
                seen[arm] = opened, views[0]
        if not any(opened.prompts or opened.model.inside for opened, _ in seen.values()):
            continue
        longest = max((clip[:3] for _, clip in seen.values()), key=lambda clip: clip.shape[1])
        rows: dict[str, Look] = {}
        for arm, (opened, clip) in seen.items():
            if torch.equal(clip[:3], longest[:, : clip.shape[1]]):
                label = study.arms[arm].label
                looks = look_at(opened, clip)
                for part, look in looks.items():
                    rows[f"{label}: on {part or 'pixels'}" if len(looks) > 1 else label] = look
        title = f"Attention by each arm, {of_set.label}\na test clip of class {name}; each row has a scale of its own"
        with style():
            written += save(draw_looks(longest, rows, title=title), folder / f"arms_{chosen}", kinds=("png",))
    return written


def _most_moving(clips: "TestClips") -> int:
    """The index of a clip with large differences in the middle, of TRIED that are spread over the split."""
    from vmp.layer import MotionPrompt

    layer, strength = MotionPrompt(), {}
    for index, view in spread_clips(clips, TRIED):
        h, w = (side // 4 for side in view.shape[2:])
        strength[index] = float(layer.differences(view[None, :3])[..., h:-h, w:-w].abs().mean())
    return max(strength, key=strength.__getitem__, default=0)


def draw_attention(study: Study, arm: str, planned: Sequence[StudyRun], folder: Path) -> list[Path]:
    """One picture per set: frames and attention of clips that an arm and its reference disagree on; the files written.

    Sets without such clips, or whose runs are not here, are left out.
    """
    reference = study.arms[arm].compared_with
    written = []
    for chosen, of_set in study.sets.items():
        here = {
            (run.arm, run.fold, run.seed): run.planned.folder
            for run in planned
            if run.set == chosen and run.setting == study.default_setting and run.planned.finished
        }
        pairs = [
            (here[arm, fold, seed], here[reference, fold, seed])
            for kind, fold, seed in here
            if kind == arm and reference and (reference, fold, seed) in here
        ]
        rows = list(_rows(pairs))
        if not rows:
            continue
        names, pictures = zip(*rows, strict=True)
        with style():
            title = f"{of_set.label}: {study.arms[arm].label}"
            drawn = draw_grid(pictures, rows=[wrap(name) for name in names], title=title, width=1.1)
            written += save(drawn, folder / f"attention_{chosen}", kinds=("png",))
    return written


def _rows(pairs: Sequence[tuple[Path, Path]]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Named rows of pictures, a row of frames and one of attention for each clip."""
    left = {"only with prompts": MOST, "only without": MOST}
    seen: set[str] = set()
    for mine, theirs in pairs:
        found = {
            kind: [id for id in ids if id not in seen] for kind, ids in disagreements(mine, theirs).items()
        }
        if not any(left[kind] and ids for kind, ids in found.items()):
            continue
        try:
            drawer = ClipDrawer(Run(mine), Run(mine).result)
        except UserError as error:
            print(f"warning: no pictures of {mine}: {error}")
            continue
        layer = next(iter(layers_of(Run(mine)).values()))
        for kind, ids in found.items():
            for name in ids[: left[kind]]:
                views = drawer.dataset[drawer.index[name]][1]
                if isinstance(views, VideoReadError):
                    continue
                frames, _, attention, _ = panel_rows(views[0], layer, columns=COLUMNS)
                label = drawer.dataset.present.clips[drawer.index[name]].label
                yield f"{Run(mine).classes[label]}, right {kind}", list(frames)
                yield "attention", list(attention)
                left[kind] -= 1
                seen.add(name)


def disagreements(mine: Path, theirs: Path) -> Mapping[str, list[str]]:
    """Ids of the clips that only one of two runs gets right."""
    a, b = Run(mine).correct, Run(theirs).correct
    shared = [name for name in a if name in b]
    return {
        "only with prompts": [name for name in shared if a[name] and not b[name]],
        "only without": [name for name in shared if b[name] and not a[name]],
    }
