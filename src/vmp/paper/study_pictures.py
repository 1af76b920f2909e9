"""What the prompts of a study's runs look at: clips that only they get right, and clips that only their reference does.

The runs must be on this machine, with their videos; recorded runs have no folder to draw from. The pictures show frames
of the videos, so they are not published.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from vmp.errors import UserError, VideoReadError
from vmp.figures.canvas import save, style
from vmp.figures.layers import layers_of
from vmp.figures.panels import draw_grid, panel_rows, wrap
from vmp.figures.worst import ClipDrawer
from vmp.paper.study import Study, StudyRun
from vmp.runs.run import Run

COLUMNS = 4  # moments of a clip
MOST = 3  # clips of each kind


def draw_attention(study: Study, arm: str, planned: Sequence[StudyRun], folder: Path) -> list[Path]:
    """One picture per set: frames and attention of clips that an arm and its reference disagree on; the files written.

    Sets without such clips, or whose runs are not here, are left out.
    """
    beside = study.arms[arm].beside
    written = []
    for chosen, of_set in study.sets.items():
        here = {
            (run.arm, run.fold, run.seed): run.planned.folder
            for run in planned
            if run.set == chosen and run.setting == study.default_setting and run.planned.finished
        }
        pairs = [
            (here[arm, fold, seed], here[beside, fold, seed])
            for kind, fold, seed in here
            if kind == arm and beside and (beside, fold, seed) in here
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
    a, b = (
        {row["id"]: row["label"] == row["predicted"] for row in Run(f).predictions} for f in (mine, theirs)
    )
    shared = [name for name in a if name in b]
    return {
        "only with prompts": [name for name in shared if a[name] and not b[name]],
        "only without": [name for name in shared if b[name] and not a[name]],
    }
