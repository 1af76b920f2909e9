"""vmp.load: a trained model in Python, with predictions, features and attention for any video.

Notes:
- no code from a run's folder is executed: configs are checked, weights are read as tensors, and code that a config
  names is imported only from packages that the caller trusts;
- torch's settings of the process stay as they are: what a run's config says of TF32 and cuDNN is for the commands;
- videos are read and scored as by `vmp predict`, with the frames, crops and views of the run or of the published
  protocol.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from vmp.build import clip_shape
from vmp.config import check, check_start, parse_views
from vmp.errors import ConfigError, DataError, UserError
from vmp.overrides import Source, quote
from vmp.runs.hub import PREFIX, fetch
from vmp.runs.open import Opened, is_shared, open_published, open_run, open_shared
from vmp.runs.run import read_run
from vmp.runs.score import Split, score
from vmp.runs.videos import as_split, measure_video, measure_videos, read_clip
from vmp.targets import trust as allow

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from vmp.engine.dist import Processes
    from vmp.layer import MotionPrompt

Video = str | Path  # a file, or a folder of numbered frames


@dataclass(frozen=True)
class Prediction:
    """probabilities: (classes,). If the backbone sums logits over views, they are the softmax of the mean logits."""

    video: str
    frames: int
    fps: float
    reader: str
    views: tuple[int, int]  # temporal x spatial
    classes: tuple[str, ...]
    probabilities: np.ndarray

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Classes and probabilities, best first."""
        best = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[c], float(self.probabilities[c])) for c in best]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top(1)[0][0]


@dataclass(frozen=True)
class Attention:
    """A layer's attention on the T + 1 frames of one clip that it sees.

    frames: (T + 1, S, S, 3) uint8.
    numbers: the numbers of these frames in the video.
    difference: D, (T, S, S), in [-1, 1].
    attention: f(D), (T, S, S), in [0, 1].
    """

    video: str
    frames: np.ndarray
    numbers: tuple[int, ...]
    difference: np.ndarray
    attention: np.ndarray
    layer: "MotionPrompt"

    def draw(self, *, columns: int = 5) -> Any:
        """Frames, differences, attention and prompts as a matplotlib Figure."""
        from vmp.figures.clips import to_clip
        from vmp.figures.panels import draw_rows, panel_rows

        clip = to_clip(self.frames)
        rows = panel_rows(clip, self.layer, columns=columns)
        return draw_rows(rows, self.layer, clip, title=Path(self.video).name)


class TrainedModel:
    """A run's model or a published one, in evaluation mode on its device; `vmp.load` makes it.

    model: uint8 clips (B, 3, frames, S, S) -> an output with `logits` (B, classes).
    config: the checked config of the run.
    spec: input sizes and test protocol.
    notes: remarks, such as the licence of published weights, or that a run is not finished.
    prompts: pathway -> its layer, with `slope` and `shift`; empty without prompts.
    views: temporal x spatial views of a test.
    """

    def __init__(self, opened: Opened, processes: "Processes") -> None:
        self._opened, self._processes = opened, processes
        self.model, self.config, self.spec = opened.model, opened.config, opened.spec
        self.classes, self.notes = opened.classes, opened.notes
        self.prompts: dict[str, MotionPrompt] = opened.prompts
        self.views: tuple[int, int] = opened.config.trainer.views or opened.spec.views
        self.device = processes.device
        # a user's videos are read as they are, and no copy of them is kept
        as_they_are = {"max_bad_fraction": 1.0, "degrade": "none", "keep": 0}
        data = opened.config.data.model_copy(update=as_they_are)
        self._for_videos = opened.config.model_copy(update={"data": data})

    @property
    def stages(self) -> list[str]:
        """Names of stages for `features`: the backbone's children in order, with containers expanded.

        Every dotted name of `model.backbone.named_modules()` works, too."""
        from torch import nn

        def parts(prefix: str, module: nn.Module) -> Iterator[str]:
            for name, child in module.named_children():
                if isinstance(child, nn.ModuleList | nn.ModuleDict | nn.Sequential):
                    yield from parts(f"{prefix}{name}.", child)
                else:
                    yield prefix + name

        return list(parts("", self.model.backbone))

    def __repr__(self) -> str:
        learned = ", ".join(f"{name} {value.item():.3f}" for name, value in self.model.scalars().items())
        return (
            f"TrainedModel({self.config.backbone.key}, {len(self.classes)} classes, vmp={self.config.vmp.kind}"
            f"{', ' + learned if learned else ''}, on {self.device})"
        )

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a sequence, too
        self, videos: Video, *, batch_size: int | None = ..., views: Any = ..., fps: float = ...
    ) -> Prediction: ...
    @overload
    def predict(
        self, videos: Sequence[Video], *, batch_size: int | None = ..., views: Any = ..., fps: float = ...
    ) -> list[Prediction]: ...
    def predict(
        self, videos: Any, *, batch_size: int | None = None, views: Any = None, fps: float = 0.0
    ) -> Any:
        """Predict the class of a video, or of each video of a list, in its order.

        Args:
            batch_size: number of videos decoded and scored at a time; None: as many as have 32 views together.
            views: "TEMPORALxSPATIAL", such as "10x3"; None: as tested or published.
            fps: frame rate of frame folders, which do not store it.

        Raises:
            DataError: some videos cannot be read; the message names them.
            UserError: views or batch_size are not allowed.
        """
        paths = _as_paths(videos)
        found, bad = self.predict_readable(paths, batch_size=batch_size, views=views, fps=fps)
        if bad:
            raise DataError(f"{len(bad)} of {len(paths)} video(s) cannot be read:\n{_unreadable(bad)}")
        return found[0] if isinstance(videos, str | Path) else found

    def predict_readable(
        self,
        videos: Sequence[Video],
        *,
        batch_size: int | None = None,
        views: Any = None,
        fps: float = 0.0,
        keep: Callable[[Prediction], None] = lambda one: None,
    ) -> tuple[list[Prediction], dict[str, str]]:
        """Like `predict`, but returns predictions of readable videos and, for the others, name -> reason.

        keep: called with each prediction as soon as it is made, for a caller that may be interrupted.
        """
        views = check_views(views) or self.views
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size = {batch_size}: must be at least 1")
        paths = _as_paths(videos)
        if not paths:
            return [], {}
        measured, bad = measure_videos(paths, fps=fps)
        if not measured:
            raise DataError("no video could be read:\n" + _unreadable(bad))
        split = as_split(self._opened, [(path, measured[path]) for path in paths if path in measured])
        found: list[Prediction] = []

        def add(indices: Sequence[int], scores: "Tensor") -> None:
            for index, row in zip(indices, scores.numpy(), strict=True):
                mean = row.astype(np.float64) / (views[0] * views[1])
                if self.spec.reduce != "probs":
                    mean = np.exp(mean - mean.max())
                    mean /= mean.sum()
                clip, reader = split.present.clips[index], split.present.readers[index]
                found.append(Prediction(clip.id, clip.frames, clip.fps, reader, views, self.classes, mean))
                keep(found[-1])

        scored = score(
            self.model,
            split,
            config=self._for_videos,
            views=views,
            processes=self._processes,
            workers=0,
            at_once=batch_size,
            scored=add,
        )
        assert scored  # of a single process
        return found, bad | {split.present.clips[i].id: reason for i, reason in scored.bad.items()}

    def features(
        self,
        videos: "Video | Sequence[Video] | Tensor",
        *,
        stage: str | None = None,
        views: Any = None,
        fps: float = 0.0,
    ) -> Any:
        """The feature vector in front of the classification head, or the output of another stage of the backbone.

        Args:
            videos: one video or several, or uint8 clips (B, 3, frames, S, S) as `model` takes them.
            stage: a name in `stages`; None: the input of the head, averaged over positions.
            views: views of videos; None: the test views for the vector, and the centre view for a stage.

        Returns:
            float32 on the CPU. Without a stage, vectors averaged over views: (features,) for one video, (B, features)
            for several or for clips. With a stage, its output with one row per view; a list of these for several
            videos, and a list of tensors for a stage with several pathways.

        Raises:
            UserError: no such stage, or one that is not called once for a clip; clips of another shape; no videos.
            DataError, VideoReadError: a video cannot be read.
        """
        from torch import Tensor, stack

        self._module(stage)  # before anything is read
        if isinstance(videos, Tensor):
            shape = clip_shape(self.config, self.model)
            size = (shape.channels, shape.frames)
            if videos.ndim != 5 or videos.shape[1:3] != size:
                more = ", one more than the backbone takes" if self.prompts else ""
                raise UserError(
                    f"clips {tuple(videos.shape)}: must be (B, {size[0]}, {size[1]}, S, S): {size[1]} frames{more}"
                )
            return self._run(videos, stage)
        views = check_views(views) or ((1, 1) if stage else self.views)
        paths = _as_paths(videos)
        if not paths:
            raise UserError("features of no videos: name one at least")
        measured, bad = measure_videos(paths, fps=fps)
        if bad:
            raise DataError(f"{len(bad)} of {len(paths)} video(s) cannot be read:\n{_unreadable(bad)}")
        found = []
        split = as_split(self._opened, [(path, measured[path]) for path in paths])
        for clips, weights in self._views(split, views):
            out = self._run(clips, stage)
            found.append(out if stage else (out * weights[:, None]).sum(dim=0) / weights.sum())
        if isinstance(videos, str | Path):
            return found[0]
        return found if stage else stack(found)

    def attention(
        self, video: Video, *, start: int = 0, pathway: str | None = None, fps: float = 0.0
    ) -> Attention:
        """The attention on the centre crop of the clip that begins with frame `start`.

        Args:
            pathway: slow or fast, if the backbone has these; None: the first pathway with prompts.

        Raises:
            UserError: the pathway has no prompts, or too few frames follow.
            VideoReadError: the video cannot be read.
        """
        import torch

        if pathway not in (None, *self.prompts) or not self.prompts:
            raise UserError(
                f"pathway {pathway}: there are prompts on {', '.join(self.prompts) or 'none (vmp=none)'}"
            )
        key = pathway or next(iter(self.prompts))
        layer, taken = self.prompts[key], self._opened.frames_of(key)
        clip = read_clip(self._opened, Path(video), measure_video(Path(video), fps=fps), start=start)
        seen = clip.pixels[:, taken]  # (3, T + 1, S, S)
        with torch.no_grad():
            batch = seen[None].to(self.device)
            difference, attention = layer.differences(batch)[0], layer.attention(batch)[0]
        return Attention(
            video=str(video),
            frames=seen.permute(1, 2, 3, 0).numpy(),
            numbers=tuple(int(n) for n in clip.numbers[taken]),
            difference=difference.cpu().numpy(),
            attention=attention.cpu().numpy(),
            layer=layer,
        )

    def _module(self, stage: str | None) -> "nn.Module":
        """The stage; None: the head."""
        if stage is None:
            return self.model.backbone.get_submodule(str(self.model.backbone.head_name))
        named = dict(self.model.backbone.named_modules())
        if not stage or stage not in named:
            raise UserError(f"stage {stage!r}: the {self.config.backbone.key} has {', '.join(self.stages)}")
        return named[stage]

    def _run(self, clips: "Tensor", stage: str | None) -> Any:
        """Run the model, and return the output of a stage, or without one the input of the head, (B, features)."""
        import torch
        from torch.nn.modules.conv import _ConvNd

        module, caught = self._module(stage), list[Any]()
        if stage is None:
            handle = module.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        else:
            handle = module.register_forward_hook(lambda _, inputs, output: caught.append(output))
        try:
            with torch.no_grad():
                self.model(clips.to(self.device))
        finally:
            handle.remove()
        if len(caught) != 1:
            raise UserError(
                f"stage {stage or 'head'}: is called {len(caught)} times for a clip, not once; choose another stage"
            )
        if isinstance(caught[0], list | tuple):
            return [part.float().cpu() for part in caught[0]]
        found: Tensor = caught[0].float().cpu()
        if stage or found.dim() == 2:
            return found
        # a Linear has its features in the last place, a convolution in the second
        return (
            found.flatten(2).mean(dim=2) if isinstance(module, _ConvNd) else found.flatten(1, -2).mean(dim=1)
        )

    def _views(self, split: Split, views: tuple[int, int]) -> "Iterator[tuple[Tensor, Tensor]]":
        """The distinct views of each video, (V, 3, frames, S, S), with their weights."""
        data = split.test_clips(self._for_videos, self.model, views=views)
        for index in range(len(data)):
            _, clips, weights = data[index]
            if isinstance(clips, Exception):
                raise clips
            yield clips, weights


def load(
    run: str | Path | None = None,
    *,
    backbone: str | None = None,
    weights: str | Path | None = None,
    settings: Sequence[str] = (),
    checkpoint: str | None = None,
    device: "str | torch.device" = "auto",
    trust: str | Sequence[str] = (),
) -> TrainedModel:
    """A trained model: vmp.load("outputs/.../seed0"), or vmp.load(backbone="i3d_inception", weights="k400").

    Args:
        run: a run's folder, or a shared model: a folder that `vmp push` wrote, or "hf:OWNER/NAME[@REVISION]".
        backbone, weights: names that train.py takes, or a file of weights.
        settings: further overrides for published weights, as on the command line: ["backbone.size=hr", "vmp=learned"].
            The default is vmp=none.
        checkpoint: "best" or "last" of a run; None: the one with which it was tested.
        device: auto, cpu, cuda or cuda:N; or a torch.device.
        trust: packages from which a run's config may import prompts or a backbone (docs/extending.md).

    Raises:
        UserError: the run, backbone or device does not exist, or the weights cannot be used.
    """
    allow(*([trust] if isinstance(trust, str) else trust))
    if (run is None) == (backbone is None):
        raise UserError(
            'name one model: vmp.load("outputs/.../seed0") or vmp.load(backbone="i3d_inception", weights="k400")'
        )
    if run is not None:
        if weights or settings:
            raise UserError(
                f"{run}: a run has its own backbone, weights and prompts; leave weights and settings out"
            )
        folder = fetch(str(run)) if str(run).startswith(PREFIX) else Path(run).expanduser()
        if is_shared(folder):
            if checkpoint:
                raise UserError(f"checkpoint {checkpoint}: {run} is a shared model, which has one")
            return _on(device, lambda where: open_shared(folder, device=where))
        read_run(folder)
        return _on(device, lambda where: open_run(folder, checkpoint=checkpoint, device=where))
    if checkpoint:
        raise UserError(f"checkpoint {checkpoint}: published weights have none; use it with a run")
    chosen = [
        f"backbone={backbone}",
        *([f"backbone.weights={quote(str(weights))}"] if weights else []),
        *settings,
    ]
    return load_published(chosen, device=device)


def load_published(overrides: Sequence[str], *, device: "str | torch.device" = "auto") -> TrainedModel:
    """Open published weights. overrides: as for train.py, backbone=... backbone.weights=... vmp=..."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from vmp.compose import CONF, composer
    from vmp.explain import explain

    plain = [] if any(word.startswith("vmp=") for word in overrides) else ["vmp=none"]
    try:
        raw = composer(CONF)([*overrides, *plain])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from None
    config = check(raw)
    check_start(config)
    return _on(device, lambda where: open_published(config, device=where))


def load_named(source: Source, *, checkpoint: str | None, device: str) -> TrainedModel:
    """The model that the words of a command name. Raises UserError, also where they name none."""
    if source.run:
        return load(source.run, checkpoint=checkpoint, device=device)
    if not source.overrides:
        raise UserError(
            "name a model: run=FOLDER, a folder with config.yaml and checkpoints, or published weights, as in "
            "backbone=i3d_inception weights=k400"
        )
    if checkpoint:
        raise UserError(f"--checkpoint {checkpoint}: published weights have none; use it with run=FOLDER")
    return load_published(source.overrides, device=device)


def check_views(views: Any) -> tuple[int, int] | None:
    """Parse "10x3" to (10, 3). Raises UserError."""
    if not views:
        return None
    try:
        found = parse_views(views)
    except ValueError as error:
        raise UserError(f"views {views}: {error}") from None
    if min(found) < 1:
        raise UserError(f"views {views}: both numbers must be at least 1")
    return found[0], found[1]


def _on(device: "str | torch.device", open_model: Any) -> TrainedModel:
    """Open the model on this process alone, also under torchrun, whose ranks belong to the caller's program."""
    import torch

    from vmp.engine.dist import Processes, find_device

    processes = Processes(0, 1, find_device(str(device)))
    devices = [processes.device] if processes.device.type == "cuda" else []
    with torch.random.fork_rng(devices):  # a model is built with seeds of its own; the caller's draws go on
        opened = open_model(processes.device)
    return TrainedModel(opened, processes)


def _as_paths(videos: Any) -> list[Path]:
    """Raises UserError for anything but paths."""
    given = [videos] if isinstance(videos, str) or not isinstance(videos, Iterable) else list(videos)
    if wrong := {type(video).__name__ for video in given if not isinstance(video, str | Path)}:
        raise UserError(
            f"videos are paths of files or frame folders; found {', '.join(sorted(wrong))}; clips in memory go through "
            "`model`, which takes uint8 (B, 3, frames, S, S) and returns logits"
        )
    return [Path(video) for video in given]


def _unreadable(bad: dict[str, str]) -> str:
    return "\n".join(f"  {path}: {why}" for path, why in bad.items())
