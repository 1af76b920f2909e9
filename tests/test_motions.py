"""The generated dataset: what the files hold, that motion is as named, and that one frame does not tell the class.

Legend: N clips or frames, T frames a clip, S x S pixels.
"""

import hashlib
import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from runs import wait_for

from vmp.data.manifest import read_manifest
from vmp.data.motions import (
    CAMERAS,
    CLASSES,
    SPLITS,
    Motion,
    Motions,
    folder_name,
    label_of,
    make_motions,
    motion_of,
    object_masks,
    pictures,
    render_clip,
)
from vmp.errors import ConfigError

SMALL = Motions(train=30, val=10, test=10, frames=4, size=32)
REVERSED = {
    "move_left": "move_right",
    "move_up": "move_down",
    "rotate_clockwise": "rotate_counterclockwise",
    "approach": "recede",
    "oscillate_horizontally": "oscillate_horizontally",
    "oscillate_vertically": "oscillate_vertically",
}
REVERSED |= {after: before for before, after in REVERSED.items()}


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file by its path in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def decode(path: Path) -> np.ndarray:
    """(T, S, S, 3) uint8, by PyAV."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


# ---------------------------------------------------------------------------------------------------------------
# Files


@pytest.mark.slow
def test_the_worker_count_does_not_change_a_byte(tmp_path: Path) -> None:
    one = make_motions(tmp_path / "one", SMALL, workers=1, progress=False)
    two = make_motions(tmp_path / "two", SMALL, workers=2, progress=False)
    assert contents(one) == contents(two)


@pytest.mark.parametrize("camera", CAMERAS)
def test_masks_cover_what_the_object_changes(camera: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same scene, drift and noise, rendered without the object."""
    spec = Motions(camera=camera, frames=6, size=40, train=20)
    kept, traced = 0, 0
    nothing = np.ix_([0], [0]), np.zeros((1, 1, 4), np.float32)
    for index in range(20):
        with_object, _ = render_clip(spec, "train", index)
        with monkeypatch.context() as patched:
            patched.setattr(pictures, "_placed", lambda *_: nothing)
            without, _ = render_clip(spec, "train", index)
        changed = (with_object != without).any(axis=3)  # (T, S, S)
        masks = object_masks(spec, "train", index, np.arange(6))
        assert masks.dtype == np.uint8
        assert masks.max() == 255
        assert not changed[masks == 0].any()
        kept, traced = kept + (masks == 255).sum(), traced + changed[masks == 255].sum()
        np.testing.assert_array_equal(object_masks(spec, "train", index, np.array([4, 1])), masks[[4, 1]])
    assert traced > 0.98 * kept


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_number_of_clips_does_not_change_a_clip(camera: str) -> None:
    few, many = replace(SMALL, camera=camera), replace(SMALL, camera=camera, train=1000, val=77)
    for split in SPLITS:
        for index in (0, 9):
            (a, label_a), (b, label_b) = render_clip(few, split, index), render_clip(many, split, index)
            assert label_a == label_b
            np.testing.assert_array_equal(a, b)


def test_every_clip_is_another_one() -> None:
    specs = [SMALL, replace(SMALL, camera="moving"), replace(SMALL, seed=1)]
    clips = [render_clip(spec, split, i)[0] for spec in specs for split in SPLITS for i in range(10)]
    assert len({clip.tobytes() for clip in clips}) == len(clips)


def test_folder(tmp_path: Path) -> None:
    spec = replace(SMALL, train=33, val=10, test=21, fps=12)
    folder = make_motions(tmp_path, spec, progress=False)
    assert folder == tmp_path / folder_name(spec)
    for split in SPLITS:
        manifest = read_manifest(folder / f"{split}.csv")
        assert manifest.classes == CLASSES
        assert len(manifest.clips) == getattr(spec, split)
        counts = np.bincount([clip.label for clip in manifest.clips], minlength=len(CLASSES))
        assert counts.max() - counts.min() <= 1
        for i, clip in enumerate(manifest.clips):
            assert (clip.id, clip.path) == (f"{split}/{i:06d}", f"videos/{split}/{i:06d}.mp4")
            assert (clip.frames, clip.fps, clip.width, clip.height) == (4, 12, 32, 32)
            assert (clip.status, clip.label) == ("ok", label_of(spec, split, i))
        assert decode(manifest.file(manifest.clips[-1])).shape == (4, 32, 32, 3)
    assert not list(folder.rglob(".*")), "temporary files are left"


def test_names_do_not_tell_the_class() -> None:
    labels = np.array([label_of(Motions(), "train", i) for i in range(2000)]).reshape(-1, len(CLASSES))
    # at each place in a run of ten names every class turns up about 20 times of 200
    counts = np.array([np.bincount(column, minlength=len(CLASSES)) for column in labels.T])
    assert counts.min() >= 5
    assert counts.max() <= 40


def test_a_complete_folder_is_returned_at_once(tmp_path: Path) -> None:
    spec = replace(SMALL, train=100)
    folder = make_motions(tmp_path, spec, progress=False)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    start = time.perf_counter()
    make_motions(tmp_path, spec, progress=False)
    assert time.perf_counter() - start < 0.1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_what_is_missing_is_made_again(tmp_path: Path) -> None:
    folder = make_motions(tmp_path, SMALL, progress=False)
    before = contents(folder)
    videos = folder / "videos" / "train"
    kept = (videos / "000007.mp4").stat().st_mtime_ns
    (videos / "000003.mp4").unlink()
    (videos / "000004.mp4").write_bytes((videos / "000005.mp4").read_bytes()[:700])  # a full disk leaves this
    (videos / ".000006.tmp.mp4").write_bytes(b"left by a killed process")
    (folder / ".val.csv.tmp").write_bytes(b"left by a killed process")
    make_motions(tmp_path, SMALL, progress=False)
    assert contents(folder) == before
    assert (videos / "000007.mp4").stat().st_mtime_ns == kept


MAKE = """
import sys
from pathlib import Path
from vmp.data.motions import Motions, make_motions
if __name__ == "__main__":
    spec = Motions(train=300, val=10, test=10, frames=4, size=32)
    make_motions(Path(sys.argv[1]), spec, workers=int(sys.argv[2]))
"""


def start_making(root: Path, workers: int) -> subprocess.Popen[bytes]:
    script = root / "make.py"
    root.mkdir(exist_ok=True)
    script.write_text(MAKE)
    command = [sys.executable, str(script), str(root), str(workers)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)


def wait_for_files(process: subprocess.Popen[bytes], root: Path, count: int) -> None:
    wait_for(lambda: len(list(root.rglob("*.mp4"))) >= count, process, seconds=60)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_stopped_half_way(tmp_path: Path, how: signal.Signals) -> None:
    spec = Motions(train=300, val=10, test=10, frames=4, size=32)
    root = tmp_path / "stopped"
    process = start_making(root, workers=2)
    wait_for_files(process, root, 5)
    if how == signal.SIGINT:  # Ctrl-C goes to the terminal's whole group
        os.killpg(process.pid, how)
    else:
        process.kill()
    process.wait(timeout=20)
    assert process.returncode != 0

    # the workers are gone too: nothing more appears
    time.sleep(0.5)
    made = len(list(root.rglob("[0-9]*.mp4")))
    time.sleep(0.5)
    assert len(list(root.rglob("[0-9]*.mp4"))) == made < 300
    assert not list(root.rglob("*.csv"))

    resumed = make_motions(root, spec, workers=1, progress=False)
    whole = make_motions(tmp_path / "whole", spec, workers=2, progress=False)
    assert contents(resumed) == contents(whole)


@pytest.mark.slow
def test_two_processes_make_one_folder(tmp_path: Path) -> None:
    a, b = start_making(tmp_path, workers=1), start_making(tmp_path, workers=1)
    for process in (a, b):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()
    folder = tmp_path / folder_name(Motions(train=300, val=10, test=10, frames=4, size=32))
    assert len(list(folder.rglob("*.mp4"))) == 320
    assert len(read_manifest(folder / "train.csv").clips) == 300


def test_threads_wait_for_one_another(tmp_path: Path) -> None:
    made: list[Path] = []
    run = lambda: made.append(make_motions(tmp_path, SMALL, workers=1, progress=False))  # noqa: E731
    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert made == [tmp_path / folder_name(SMALL)] * 3


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, vmp.data.motions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_progress_is_shown_only_when_asked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_motions(tmp_path / "quiet", SMALL, workers=1, progress=False)
    assert capfd.readouterr() == ("", "")
    make_motions(tmp_path / "shown", SMALL, workers=1)
    out, err = capfd.readouterr()
    assert out == ""
    assert "50/50" in err
    assert "\x1b" not in err  # not a terminal: no escapes


@pytest.mark.parametrize("size", [32, 64])
def test_three_readers_return_the_same_frames(tmp_path: Path, size: int) -> None:
    decord = pytest.importorskip("decord")
    spec = Motions(camera="moving", train=10, val=10, test=10, size=size)
    folder = make_motions(tmp_path, spec, progress=False)
    for clip in read_manifest(folder / "train.csv").clips:
        path = str(folder / clip.path)
        true = decode(folder / clip.path).astype(np.int16)  # (T, S, S, 3)
        video = cv2.VideoCapture(path)
        in_order = []
        while (read := video.read())[0]:
            in_order.append(read[1][..., ::-1])
        sought = []
        for i in reversed(range(spec.frames)):
            video.set(cv2.CAP_PROP_POS_FRAMES, i)
            sought.append(video.read()[1][..., ::-1])
        batch = decord.VideoReader(path).get_batch(range(spec.frames)).asnumpy()
        for got in (np.stack(in_order), np.stack(sought[::-1]), batch):
            assert got.shape == true.shape
            # (T, T): each frame is nearest to the one with its number; noise makes all frames differ
            apart = np.abs(got[:, None].astype(np.int16) - true[None]).mean(axis=(2, 3, 4))
            assert (apart.argmin(axis=1) == np.arange(spec.frames)).all()
            assert apart.diagonal().max() < 2.5  # they round YUV to RGB each in its way


def test_compression_and_noise_are_there(tmp_path: Path) -> None:
    clean, noisy = replace(SMALL, size=64, noise=0), replace(SMALL, size=64)
    exact, _ = render_clip(clean, "train", 0)
    with_noise, _ = render_clip(noisy, "train", 0)
    inside = (exact > 40) & (exact < 215)  # where clipping at 0 and 255 does not cut the noise
    assert np.std((with_noise.astype(float) - exact)[inside]) == pytest.approx(noisy.noise, rel=0.1)
    folder = make_motions(tmp_path, noisy, progress=False)
    decoded = decode(folder / "videos/train/000000.mp4")
    assert 1 < np.abs(decoded.astype(float) - with_noise).mean() < 15


# ---------------------------------------------------------------------------------------------------------------
# Settings


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("camera", bad) for bad in ("still", "", None)),
        *(("train", bad) for bad in (9, 0, -1, 800.0, True)),
        *(("val", 9), ("test", 9)),
        *(("frames", bad) for bad in (1, 0)),
        *(("size", bad) for bad in (30, 63, 0)),
        *(("fps", bad) for bad in (0, 29.97)),
        *(("noise", bad) for bad in (-1, math.nan, math.inf, "8")),
        *(("crf", bad) for bad in (-1, 52)),
        ("seed", -1),
    ],
)
def test_bad_values_are_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^dataset\.{key} = .*: must be ") as error:
        replace(SMALL, **{key: value})  # type: ignore[arg-type]
    assert repr(value) in str(error.value)


def test_folder_name_tells_specs_apart() -> None:
    base = Motions()
    changed = {
        "camera": "moving",
        **{"train": 801, "val": 201, "test": 301, "frames": 17, "size": 66, "fps": 24},
        **{"noise": 8.5, "crf": 24, "seed": 1},
    }
    names = [folder_name(replace(base, **{key: value})) for key, value in changed.items()]  # type: ignore[arg-type]
    assert len({folder_name(base), *names}) == 1 + len(changed)
    start, digest = folder_name(base).rsplit("-", 1)
    assert start == f"static-64x64x16-{base.train}+{base.val}+{base.test}"
    assert len(digest) == 8
    assert folder_name(replace(base, noise=8)) == folder_name(replace(base, noise=8.0))


@pytest.mark.parametrize(("size", "frames"), [(32, 2), (50, 3), (112, 5)])
@pytest.mark.parametrize("camera", CAMERAS)
def test_other_sizes(tmp_path: Path, camera: str, size: int, frames: int) -> None:
    spec = Motions(camera=camera, train=10, val=10, test=10, frames=frames, size=size, crf=0)
    folder = make_motions(tmp_path, spec, workers=1, progress=False)
    assert decode(folder / "videos/test/000009.mp4").shape == (frames, size, size, 3)


# ---------------------------------------------------------------------------------------------------------------
# Motion, measured from pixels


def measured(frames: np.ndarray, place: np.ndarray, radius: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Speeds of the object in the scene, (T - 1, 4): right, down, clockwise, growing; pixels a frame.

    Least squares on the brightness gradients inside the object (Lucas and Kanade), for a similarity about its
    centre; turning and growing are speeds of a point at 2/3 of the radius. `place` is in the scene.
    """
    size = frames.shape[1]
    grey = frames.astype(np.float32).mean(axis=3)  # (T, S, S)
    y, x = np.mgrid[:size, :size] - size // 2
    speeds = []
    for t in range(len(grey) - 1):
        # both frames with the object's first place in the middle, the camera's own motion taken out
        pair = []
        for i in (t, t + 1):
            dx, dy = place[t] - camera[i] - size // 2
            columns, rows = ((np.arange(size) + d) % size for d in (dx, dy))
            wrapped = np.pad(grey[i], 1, mode="wrap")  # between the last and the first pixel
            where = np.meshgrid(columns.astype(np.float32) + 1, rows.astype(np.float32) + 1)
            view = cv2.remap(wrapped, *where, cv2.INTER_LINEAR)
            pair.append(cv2.GaussianBlur(view, (0, 0), 1.5))
        inside = np.hypot(x, y) < 0.75 * radius[t]
        mean = (pair[0] + pair[1]) / 2
        gy, gx = np.gradient(mean)
        r = 2 / 3 * radius[t]
        basis = np.stack([gx, gy, (gy * x - gx * y) / r, (gx * x + gy * y) / r, np.ones_like(gx)])[:, inside]
        change = (pair[0] - pair[1])[inside]  # what moved by u changed by -gradient . u
        speeds.append(np.linalg.lstsq(basis.T, change, rcond=None)[0][:4])
    return np.array(speeds)


def named(speeds: np.ndarray) -> str:
    """The class whose motion these speeds, (T - 1, 4), are."""
    kind = int(np.median(np.abs(speeds), axis=0).argmax())
    along = speeds[:, kind]
    if kind >= 2:  # median: growing ends in a jump back to small
        ways = {2: ("rotate_counterclockwise", "rotate_clockwise"), 3: ("recede", "approach")}[kind]
        return ways[int(np.median(along) > 0)]
    if abs(along.sum()) < 0.7 * np.abs(along).sum():
        return ("oscillate_horizontally", "oscillate_vertically")[kind]
    return (("move_left", "move_right"), ("move_up", "move_down"))[kind][int(along.sum() > 0)]


@pytest.mark.slow
@pytest.mark.parametrize("camera", CAMERAS)
def test_motion_is_what_the_class_says(camera: str) -> None:
    spec = Motions(camera=camera, noise=0)
    right = wrong = right_reversed = 0
    speeds_told, speeds_seen = [], []
    for index in range(60):
        frames, label = render_clip(spec, "test", index)
        motion = motion_of(spec, "test", index)
        truth = (motion.place, motion.radius, motion.camera)
        speeds = measured(frames, *truth)
        backwards = measured(frames[::-1], *(value[::-1] for value in truth))
        right += named(speeds) == CLASSES[label]
        right_reversed += named(backwards) == REVERSED[CLASSES[label]]
        wrong += named(speeds) == REVERSED[CLASSES[label]] != CLASSES[label]
        if CLASSES[label].startswith("move"):
            speeds_told.append(motion.speed)
            speeds_seen.append(np.abs(np.median(speeds, axis=0)).max())
    # an object of even colour may fail to show its motion; none may show the opposite
    print(f"{camera}: {right} of 60 clips as named, {right_reversed} reversed")
    assert right >= 58
    assert right_reversed >= 58
    assert wrong == 0
    assert np.corrcoef(speeds_told, speeds_seen)[0, 1] > 0.8
    assert np.median(np.divide(speeds_seen, speeds_told)) == pytest.approx(1, abs=0.15)


def beside_the_object(motion: Motion, size: int) -> np.ndarray:
    """(T, S, S) bool: pixels that the object does not touch, round the torus."""
    y, x = np.mgrid[:size, :size]
    at = (motion.place - motion.camera)[:, :, None, None]  # (T, 2, 1, 1), in the picture
    away = [np.abs((axis - at[:, i] + size / 2) % size - size / 2) for i, axis in enumerate((x, y))]
    return np.maximum(*away) > 1.6 * motion.radius[:, None, None]


def test_camera_pans_as_told() -> None:
    spec = Motions(camera="moving", noise=0)
    for index in range(10):
        frames, _ = render_clip(spec, "test", index)
        motion = motion_of(spec, "test", index)
        outside = beside_the_object(motion, spec.size)
        grey = [cv2.GaussianBlur(g, (0, 0), 1.5) for g in frames.astype(np.float32).mean(axis=3)]
        errors = []
        for t in range(spec.frames - 1):
            gy, gx = np.gradient((grey[t] + grey[t + 1]) / 2)
            where = outside[t] & outside[t + 1]
            basis = np.stack([gx, gy, np.ones_like(gx), grey[t]])[:, where]  # the last two: the light's drift
            seen = np.linalg.lstsq(basis.T, (grey[t + 1] - grey[t])[where], rcond=None)[0][:2]
            errors.append(np.abs(motion.camera[t + 1] - motion.camera[t] - seen))
        assert np.median(errors) < 0.15


def test_static_camera_stands_still() -> None:
    spec = Motions(noise=0)
    frames, _ = render_clip(spec, "test", 0)
    motion = motion_of(spec, "test", 0)
    assert (motion.camera == motion.camera[0]).all()
    still = beside_the_object(motion, spec.size).all(axis=0)  # (S, S)
    assert still.mean() > 0.1
    # only the light changes there: each frame is the first one times a number
    first, later = (
        frames[0, still].astype(float).ravel(),
        frames[:, still].astype(float).reshape(len(frames), -1),
    )
    gains = later @ first / (first @ first)
    assert np.abs(later - gains[:, None] * first).max() < 1.5
    assert np.abs(gains - 1).max() < 0.25


# ---------------------------------------------------------------------------------------------------------------
# One frame does not tell the class


@pytest.mark.parametrize("camera", CAMERAS)
def test_every_frame_is_drawn_alike_under_every_class(camera: str) -> None:
    spec = Motions(camera=camera)
    clips = [motion_of(spec, "train", i) for i in range(3000)]
    labels = np.array([clip.label for clip in clips])
    low, high = np.log(min(c.radius.min() for c in clips)), np.log(max(c.radius.max() for c in clips))
    frames = (0, 7, 15)
    rows = np.array(
        [  # (N, 3, 6), each uniform on [0, 1)
            [
                [
                    *((c.place[t] - c.camera[t]) / spec.size % 1),  # in the picture
                    *(c.camera[t] / spec.size % 1),
                    c.angle[t] / (2 * np.pi) % 1,
                    (np.log(c.radius[t]) - low) / (high - low),
                ]
                for t in frames
            ]
            for c in clips
        ]
    )
    # Kolmogorov's bound: one of these 10 x 18 distances is over it with a chance below 1 in 1000
    for label in range(len(CLASSES)):
        values = np.sort(rows[labels == label].reshape((labels == label).sum(), -1), axis=0)  # (n, 18)
        n = len(values)
        steps = np.arange(1, n + 1)[:, None] / n
        distance = np.maximum(steps - values, values - steps + 1 / n).max(axis=0)
        assert distance.max() < math.sqrt(math.log(2 * 180 * 1000) / (2 * n)), CLASSES[label]


Clips = list[tuple[np.ndarray, Motion]]  # decoded, (T, S, S, 3)


def decode_split(folder: Path, spec: Motions, split: str) -> Clips:
    manifest = read_manifest(folder / f"{split}.csv")
    return [(decode(manifest.file(clip)), motion_of(spec, split, i)) for i, clip in enumerate(manifest.clips)]


def singles(clips: Clips, spec: Motions, *, leak: bool) -> tuple[np.ndarray, np.ndarray]:
    """Three decoded frames a clip, (N, 3, S, S, 4) with the frame's index as the fourth channel; labels, (N,).

    leak: plants a fault that a generator may well have: every object starts in the middle of the picture.
    """
    draw = np.random.default_rng(0)
    pictures = np.empty((len(clips), 3, spec.size, spec.size, 4), np.float32)
    for i, (frames, motion) in enumerate(clips):
        for j, t in enumerate(draw.choice(spec.frames, 3, replace=False)):
            right, down = np.rint(spec.size / 2 - motion.place[0] + motion.camera[t]).astype(int) * leak
            pictures[i, j, ..., :3] = np.roll(frames[t], (down, right), axis=(0, 1)) / 255
            pictures[i, j, ..., 3] = t / spec.frames
    return pictures, np.array([motion.label for _, motion in clips])


def accuracy_of_one_frame(
    clips: Clips, held_out: Clips, spec: Motions, *, leak: bool, epochs: int = 3
) -> float:
    """Held-out top-1 of a CNN that sees one decoded frame and its index."""
    import torch
    from torch import nn

    train, labels = singles(clips, spec, leak=leak)
    test, truth = singles(held_out, spec, leak=leak)
    torch.manual_seed(0)
    channels = (4, 16, 32, 64, 96)
    layers: list[nn.Module] = []
    for i, (inside, outside) in enumerate(itertools.pairwise(channels)):
        layers += [nn.Conv2d(inside, outside, 5 if i == 0 else 3, 2, 2 if i == 0 else 1, bias=False)]
        layers += [nn.BatchNorm2d(outside), nn.ReLU()]
    # no pooling over the picture: where a thing is could tell as much as what it looks like
    net = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(len(CLASSES)))
    x = torch.from_numpy(train).flatten(0, 1).permute(0, 3, 1, 2).contiguous()  # (N * 3, 4, S, S)
    y = torch.from_numpy(labels).repeat_interleave(3)
    x_test = torch.from_numpy(test).flatten(0, 1).permute(0, 3, 1, 2)
    batch, steps = 64, epochs * (len(x) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // batch * batch].split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows] - 0.5), y[rows]).backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        scores = torch.cat([net(part - 0.5).softmax(1) for part in x_test.split(256)])
    top = scores.argmax(1).view(len(truth), 3).numpy()
    return float((top == truth[:, None]).mean())


@pytest.mark.slow
@pytest.mark.parametrize("camera", CAMERAS)
def test_one_decoded_frame_does_not_tell_the_class(tmp_path: Path, camera: str) -> None:
    import torch

    spec = Motions(camera=camera, train=400, val=10, test=400, frames=8, size=40)
    folder = make_motions(tmp_path, spec, progress=False)
    train, test = (decode_split(folder, spec, split) for split in ("train", "test"))
    # Chance is 1/10. The frames of a clip are not independent, so the bound counts clips, not frames: with 400 of
    # them, 3.3 standard deviations above chance (1 in 2000 if nothing leaks) are 0.150.
    chance = 1 / len(CLASSES)
    bound = chance + 3.3 * math.sqrt(chance * (1 - chance) / spec.test)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine the threads of so small a net mostly wait for one another
    try:
        found = accuracy_of_one_frame(train, test, spec, leak=False)
        planted = accuracy_of_one_frame(train, test, spec, leak=True, epochs=2)
    finally:
        torch.set_num_threads(threads)
    print(f"{camera}: one frame {found:.3f}, with a leak planted {planted:.3f}, bound {bound:.3f}")
    assert found < bound
    assert planted > bound + 0.05, "this test could not see a leak"
