"""The clips that a run got wrong with the highest scores, and pictures of what its prompt layers make of them.

Pictures need the run's videos, config and result, which has the learned scalars, but no checkpoint.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from vmp.config import Config, FoldersDataset, ListDataset, MotionsDataset
from vmp.data.present import digest, find_clips
from vmp.datasets import find_splits, motions_of
from vmp.errors import DataError, UserError
from vmp.figures.layers import slope_and_shift
from vmp.pathways import display_name
from vmp.runs.folder import check_same_data
from vmp.runs.open import open_prompts
from vmp.runs.run import Run
from vmp.runs.score import Split

COLUMNS, WIDTH, GAP = 6, 96, 4  # prompts in a strip, the width of each, the gap between two; pixels
QUALITY = 72  # of WebP
ROWS = ("frames", "differences", "attention", "prompts")


def worst_clips(run: Run, result: dict[str, Any], *, count: int) -> list[dict[str, Any]]:
    """The wrongly predicted clips of the tested split with the highest scores, as plain values.

    path, start and end are the file below the dataset's root and its frames [start, end), or None where older runs do
    not say. probability is the score as a mean over views in [0, 1], or None where logits were summed.
    """
    views = math.prod(result.get("views", ()))
    wrong = [row for row in run.predictions if row["predicted"] and row["label"] != row["predicted"]]
    wrong.sort(key=lambda row: (-float(row["score"]), row["id"]))
    return [
        {
            "id": row["id"],
            "path": row.get("path") or None,
            **{key: int(row[key]) if row.get(key) else None for key in ("start", "end")},
            "label": int(row["label"]),
            "predicted": int(row["predicted"]),
            "score": float(row["score"]),
            "probability": float(row["score"]) / views if result.get("reduce") == "probs" else None,
            "pictures": [],
        }
        for row in wrong[:count]
    ]


class ClipDrawer:
    """Draws clips of a run's tested split.

    Raises:
        UserError: its videos are missing or have changed, or another version of the project made the run.
    """

    def __init__(self, run: Run, result: dict[str, Any]) -> None:
        config, name = run.checked_config, str(result.get("split"))
        _check_there(config)
        manifest = dict(find_splits(config, progress=False).named()).get(name)
        if manifest is None:
            raise DataError(f"the dataset no longer has a {name} split.")
        try:
            present = find_clips(manifest, reader=config.data.reader, max_bad_fraction=1.0)
        except DataError:
            raise DataError(f"the videos are not at {manifest.root}.") from None
        check_same_data(run.folder, {name: digest(manifest, present)})
        opened = open_prompts(run.folder)
        self.model = opened.model
        self.dataset = Split(name, manifest, present).test_clips(config, opened.model)
        self.index = {clip.id: number for number, clip in enumerate(present.clips)}

    def draw(self, clip: str) -> list[tuple[dict[str, Any], bytes]]:
        """One strip per pathway: what it shows (pathway, slope, shift, rows, width, height) and a WebP. The only strip
        of a run without prompts has frames and differences.

        Raises:
            UserError: the clip is missing or cannot be read.
        """
        import torch

        from vmp.figures.panels import frames_of_pathway, panel_rows
        from vmp.layer import MotionPrompt

        if clip not in self.index:
            raise DataError(f"the video of {clip} is missing.")
        views = self.dataset[self.index[clip]][1]
        if not isinstance(views, torch.Tensor):
            raise DataError(f"{clip} cannot be read.")
        prompted = len(self.model.prompts) > 0
        layers: dict[str, Any] = dict(self.model.prompts.items()) or {"": MotionPrompt(m=0.0, n=0.0)}
        strips = []
        for pathway, layer in layers.items():
            own = frames_of_pathway(self.model, views[0], pathway)
            rows = panel_rows(own, layer, columns=COLUMNS)[: 4 if prompted else 2]
            picture = _strip(rows)
            about = {
                "pathway": display_name(pathway),
                "rows": ROWS[: len(rows)],
                "width": picture.shape[1],
                "height": picture.shape[0],
                **(slope_and_shift(layer, own) if prompted else {}),
            }
            strips.append((about, _webp(picture)))
        return strips


def _check_there(config: Config) -> None:
    """Raise DataError if the dataset would have to be made first, which a report does not do."""
    home = Path(config.data.root)
    where, there = home, True
    if isinstance(config.dataset, MotionsDataset):
        from vmp.data.motions import folder_name

        where = home / "motions" / folder_name(motions_of(config.dataset))
        there = (where / "train.csv").is_file()
    elif isinstance(config.dataset, ListDataset | FoldersDataset):
        where = Path(config.dataset.root)
        made = "folders" if isinstance(config.dataset, FoldersDataset) else config.dataset.name
        there = where.is_dir() and (home / made / "measured.jsonl").is_file()
    if not there:
        raise DataError(f"the videos are not at {where}.")


def _strip(rows: list[np.ndarray]) -> np.ndarray:
    """Join rows of pictures, each (columns, H, W, 3) uint8, into one (H', W', 4) with transparent gaps."""
    import cv2

    h, w = rows[0].shape[1:3]
    size = WIDTH, max(1, round(h * WIDTH / w))
    way = cv2.INTER_AREA if w > WIDTH else cv2.INTER_CUBIC
    lines = []
    for row in rows:
        pictures = [cv2.resize(x, size, interpolation=way) for x in row]
        solid = [cv2.cvtColor(x, cv2.COLOR_RGB2RGBA) for x in pictures]
        padded = [np.pad(x, ((0, GAP), (0, GAP), (0, 0))) for x in solid]
        lines.append(np.concatenate(padded, axis=1))
    return np.concatenate(lines)[:-GAP, :-GAP]


def _webp(picture: np.ndarray) -> bytes:
    """(H, W, 4) RGBA uint8 -> WebP."""
    import cv2

    bgra = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA)
    done, data = cv2.imencode(".webp", bgra, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    if not done:
        raise UserError("this OpenCV cannot write WebP.")
    return data.tobytes()
