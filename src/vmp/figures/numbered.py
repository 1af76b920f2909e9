"""Draws the paper's figures by number."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vmp.errors import UserError
from vmp.figures.layers import describe, layers_of, slope_and_shift
from vmp.figures.selection import (
    OBJECT_CENTRIC,
    PAPER,
    FigureOptions,
    baseline_pairs,
    candidates,
    choose_clip_of,
    choose_clips,
    choose_layer,
    choose_run,
    folds_of,
    label,
    layer_pairs,
    missing_runs,
    plain_name,
    regularised_pair,
    shows_videos,
)
from vmp.runs.run import without_damaged

if TYPE_CHECKING:
    from vmp.layer import MotionPrompt


def draw(number: int, options: FigureOptions) -> Any:
    """Figure `number` as a matplotlib Figure.

    Raises:
        MissingRuns: it needs runs that do not exist.
        UserError: there is no such figure, or a video or run cannot be used.
    """
    if number not in FIGURES:
        raise UserError(
            f"figure {number}: must be one of {', '.join(map(str, FIGURES))} (2 is a drawing of the layer)"
        )
    from vmp.figures import canvas

    with canvas.style():
        return FIGURES[number](number, options)


def _motion_in_frames(number: int, options: FigureOptions) -> Any:
    """1: frame, difference, time-colour reordering, Taylor frame, attention and prompt."""
    from vmp.figures import motion_frames

    def pictures(name: str, frames: np.ndarray, made: list[np.ndarray]) -> list[np.ndarray]:
        if len(frames) < motion_frames.TERMS + 3:
            raise UserError(
                f"{name}: figure 1 takes {motion_frames.TERMS + 3} frames, and {len(frames)} are left there"
            )
        taylor = motion_frames.show_taylor(motion_frames.taylor_frame(frames))
        return [frames[1], made[0], motion_frames.time_color_reordering(frames)[0], taylor, *made[1:]]

    columns = ("frame", "difference D", "time-colour\nreordering", "Taylor frame", "attention f(D)", "prompt")
    return _draw_clips(options, pictures, columns, count=motion_frames.TERMS + 3, width=1.6)


def _family(number: int, options: FigureOptions) -> Any:
    """3: power normalisation functions, a(m), b(n), a surface before and after."""
    from vmp.figures.family import draw_family

    run = choose_run(options) if options.runs else None
    layer = choose_layer(options, run)
    if not (learned := slope_and_shift(layer)):
        raise UserError(f"{options.runs[0].folder}: {describe(layer)} has no slope and shift")
    slope, shift = (round(value, 2) for value in learned.values())
    clips = list(choose_clips(options, count=4, run=run).values())
    first = options.videos or (run and shows_videos(run))
    return draw_family(clips[0] if first else clips[-2], slope=slope, shift=shift)


def _curves(number: int, options: FigureOptions) -> Any:
    """4: slope and shift against epochs by λ; learned pairs."""
    from vmp.figures.curves import by_lambda, draw_slopes_and_shifts

    runs = list(without_damaged(candidates(options, PAPER[number]), lambda run: run.curve))
    if not by_lambda(runs):
        weights = [f"vmp.lambda={weight:g}" for weight in (0, 0.5, 2.5, 5, 10)]
        small = [f"dataset.camera=moving {weight}" for weight in weights]
        what = "runs with learned prompts that differ in λ"
        raise missing_runs(number, what, weights, small, "learned weighted")
    return draw_slopes_and_shifts(runs)


def _pairs_of_frames(number: int, options: FigureOptions) -> Any:
    """5: two consecutive frames, their difference, attention and prompt."""
    columns = ("frame t", "frame t+1", "difference D", "attention f(D)", "prompt")
    return _draw_clips(options, lambda _, frames, made: [*frames[:2], *made], columns, count=2, width=1.7)


def _draw_clips(
    options: FigureOptions,
    pictures: Callable[[str, np.ndarray, list[np.ndarray]], list[np.ndarray]],
    columns: Sequence[str],
    *,
    count: int,
    width: float,
) -> Any:
    """A grid with one row per clip, made of its name, `count` frames, and the [difference, attention, prompt] of the
    first two."""
    from vmp.figures.clips import to_clip
    from vmp.figures.panels import draw_grid, panel_rows, wrap

    run = choose_run(options)
    layer = choose_layer(options, run)
    rows, names = [], []
    for name, frames in choose_clips(options, count=count, run=run).items():
        made = [row[0] for row in panel_rows(to_clip(frames[:2]), layer)[1:]]
        rows.append(pictures(name, frames, made))
        names.append(wrap(name))
    title = "; ".join([*([run.title] if run else []), describe(layer), color_key(layer)])
    return draw_grid(rows, rows=names, columns=columns, title=title, width=width)


def _regularisation(number: int, options: FigureOptions) -> Any:
    """6, 12-16: attention and prompts of a clip without and with the regulariser."""
    from vmp.figures.clips import to_clip
    from vmp.figures.panels import draw_grid, panel_rows

    pair = regularised_pair(number, options)
    name, frames = choose_clip_of(pair[1], options, PAPER[number].action)
    rows: list[list[np.ndarray | None]] = []
    names: list[str] = []
    for run in pair:
        layer = next(iter(layers_of(run).values()))
        frame, difference, attention, prompt = panel_rows(to_clip(frames), layer)
        if not rows:
            rows, names = [list(frame), list(difference)], ["frame", "difference D"]
        rows += [list(prompt), list(attention)]
        learned = describe(layer).replace(", ", "\n")
        names += [f"prompt, λ = {run.lambda_:g}", f"attention\n{learned}"]
    title = f"{pair[1].title}: {name}\n{color_key(layer)}"
    return draw_grid(rows, rows=names, title=title, width=1.05)


def _layers(number: int, options: FigureOptions) -> Any:
    """7-9: similarity of layers between runs without prompts and runs with them."""
    from vmp.figures.similarity import compare_layers, draw_layers

    pairs = layer_pairs(number, options)
    found = {text: compare_layers(a, b, clips=options.clips) for text, (a, b) in pairs.items()}
    baselines = [a for a, _ in pairs.values()]
    title = baselines[0].title
    if any(run.title != title for run in baselines):
        title = f"{baselines[0].config['backbone']['name']}, without prompts vs. with prompts"
    return draw_layers(found, title=f"{title}; features over {options.clips} test clips")


def _per_class(number: int, options: FigureOptions) -> Any:
    """10, 11: accuracy by class of two runs, over all folds of their dataset; 10 draws a few classes."""
    from vmp.figures.comparison import class_accuracies, draw_class_accuracies

    a, b = baseline_pairs(number, options)[0]
    pairs = folds_of(a, b, options)
    before, after = (class_accuracies(*runs) for runs in zip(*pairs, strict=True))
    chosen = [name for name in before if name in after]
    if options.classes:
        wanted = {name.replace("_", " ") for name in options.classes}
        chosen = [name for name in chosen if name.replace("_", " ") in wanted]
        if not chosen:
            raise UserError(f"--classes {','.join(options.classes)}: {a.folder} was tested on none of them")
    elif number == 10:
        paper = [name for name in chosen if plain_name(name) in OBJECT_CENTRIC]
        chosen = paper or sorted(chosen, key=lambda name: -abs(after[name] - before[name]))[:4]
    return draw_class_accuracies(
        {name: before[name] for name in chosen},
        after,
        labels=(label(a), label(b)),
        title=a.title if len(pairs) < 2 else f"{a.title.replace('-fold1', '')}, {len(pairs)} folds",
    )


def _family_on_clips(number: int, options: FigureOptions) -> Any:
    """17, 18: power normalisation functions side by side: maps and surfaces, or attention and prompts."""
    from vmp.figures.family import draw_modulation, draw_prompts_of_family

    draw, run = draw_modulation if number == 17 else draw_prompts_of_family, choose_run(options)
    return draw(choose_clips(options, count=2, run=run), choose_layer(options, run))


def color_key(layer: "MotionPrompt") -> str:
    """What the colours of a figure mean."""
    from vmp.figures.panels import nothing_is

    key = "D: orange brighter, blue darker; attention: white 0, dark red 1"
    return f"{key}; prompt: {nothing_is(layer)} where it is 0"


FIGURES: dict[int, Callable[[int, FigureOptions], Any]] = {
    1: _motion_in_frames,
    3: _family,
    4: _curves,
    5: _pairs_of_frames,
    6: _regularisation,
    **dict.fromkeys((7, 8, 9), _layers),
    **dict.fromkeys((10, 11), _per_class),
    **dict.fromkeys((12, 13, 14, 15, 16), _regularisation),
    **dict.fromkeys((17, 18), _family_on_clips),
}
