"""vmp.load: what a trained model says in Python, against the run's own test and the formulas."""

import csv
import gzip
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import videos
from runs import wait_for

import vmp
import vmp.trained as trained_module
from vmp.commands.predict import main as predict_command
from vmp.data.decode import read_frames
from vmp.errors import DataError, UserError
from vmp.runs.run import read_run

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def trained(finished):
    return vmp.load(finished, device="cpu")


@pytest.fixture
def files(data):
    return [data / "val" / f"{i:03}.mp4" for i in range(5)]


def test_predictions_are_those_of_the_runs_test(trained, finished, files, tmp_path, monkeypatch):
    """From another folder, in batches of any size."""
    monkeypatch.chdir(tmp_path)
    tested = {row["id"]: row for row in read_run(finished).predictions}
    found = trained.predict(files, batch_size=2)
    assert trained.classes == tuple(read_run(finished).classes)
    for i, one in enumerate(found):
        row = tested[f"val/{i}"]
        assert one.label == trained.classes[int(row["predicted"])]
        assert one.top(1)[0][1] == pytest.approx(float(row["score"]), abs=1e-5)
        assert one.probabilities.sum() == pytest.approx(1)
    again = trained.predict([files[2], files[0], files[2]], batch_size=2)
    assert [one.video for one in again] == [str(files[i]) for i in (2, 0, 2)]
    for one, i in zip(again, (2, 0, 2), strict=True):
        np.testing.assert_allclose(one.probabilities, found[i].probabilities, atol=1e-6)
    assert trained.features([files[2]] * 2).shape[0] == 2
    assert trained.predict([]) == []
    assert trained.predict_readable([]) == ([], {})
    alone = trained.predict(str(files[1]))
    np.testing.assert_allclose(alone.probabilities, found[1].probabilities, atol=1e-6)
    assert [row[0] for row in alone.top()] == sorted(trained.classes, key=lambda c: -dict(alone.top())[c])


def test_loading_leaves_the_callers_random_numbers_as_they_are():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    vmp.load(backbone="tiny", weights="motions", device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_an_interrupted_prediction_leaves_the_callers_processes_alone(trained, files):
    """Ctrl-C in a notebook, whose own loader processes wait for their next batch."""

    def interrupt(_):
        raise KeyboardInterrupt

    mine = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    mine.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            trained.predict_readable(files, keep=interrupt)
        assert mine.is_alive()
    finally:
        mine.kill()
        mine.join()


def test_the_features_are_what_the_head_classifies(trained, files):
    head = trained.model.backbone.head
    vectors = trained.features(files)
    assert vectors.shape == (5, head.in_features)
    for vector, one in zip(vectors, trained.predict(files), strict=True):
        logits = head(vector)  # there is one view
        np.testing.assert_allclose(logits.softmax(dim=0).detach().numpy(), one.probabilities, atol=1e-5)
    assert trained.stages == [*(f"stages.{i}.{j}" for i in range(4) for j in range(3)), "dropout", "head"]
    last = trained.features(files[0], stage="stages.3")  # (1, C, T, H, W)
    torch.testing.assert_close(last.mean(dim=(2, 3, 4))[0], vectors[0], atol=1e-5, rtol=1e-5)
    clips = torch.randint(0, 256, (2, 3, 5, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        wanted = trained.model(clips).logits
        torch.testing.assert_close(head(trained.features(clips)), wanted)


def test_videos_are_read_as_they_are_and_no_copy_of_them_is_kept(files, tmp_path, monkeypatch):
    """Whatever the config says of the clips of its dataset."""
    monkeypatch.chdir(tmp_path)
    plain, other = (
        vmp.load(backbone="tiny", weights="motions", device="cpu", settings=settings)
        for settings in ([], ["data.keep=1000", "data.degrade=salt_pepper"])
    )
    np.testing.assert_array_equal(
        other.predict(files[0]).probabilities, plain.predict(files[0]).probabilities
    )
    assert torch.equal(other.features(files[0]), plain.features(files[0]))
    assert not list(tmp_path.iterdir())


class Own(torch.nn.Module):
    """A network whose builder computes with values, whose head is a convolution, and with odd parts."""

    head_name = "head"

    def __init__(self, num_classes):
        super().__init__()
        self.rate = torch.tensor(0.1).item()
        self.body, self.head = torch.nn.Conv3d(3, 6, 3, stride=8), torch.nn.Conv3d(6, num_classes, 1)
        self.twice, self.never = torch.nn.ReLU(), torch.nn.ReLU()

    def forward(self, x):
        return self.head(self.twice(self.twice(self.body(x)))).mean((2, 3, 4))


@pytest.fixture
def own(tmp_path):
    torch.save(Own(4).state_dict(), tmp_path / "own.pt")
    settings = [f"backbone.target={__name__}.Own", "backbone.frames=8", "backbone.crop=32"]
    return vmp.load(
        backbone="custom",
        weights=tmp_path / "own.pt",
        settings=settings,
        device=torch.device("cpu"),
        trust=__name__,
    )


def test_features_of_a_head_that_is_a_convolution(own):
    clips = torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8)
    found = own.features(clips)
    assert found.shape == (2, 6)
    torch.testing.assert_close(found, own.features(clips, stage="body").relu().mean((2, 3, 4)))


@pytest.mark.parametrize(("stage", "times"), [("twice", 2), ("never", 0)])
def test_a_stage_that_is_not_called_once_is_told(own, stage, times):
    with pytest.raises(UserError, match=f"stage {stage}: is called {times} times"):
        own.features(torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8), stage=stage)


def test_loading_leaves_the_precision_of_the_process_as_it_is():
    products = torch.backends.cuda.matmul.allow_tf32
    vmp.load(backbone="tiny", weights="motions", settings=["trainer.tf32=true"], device="cpu")
    assert torch.backends.cuda.matmul.allow_tf32 is products is False


def test_the_attention_is_the_papers_formula(trained, files):
    """Eq. 1-3 on the frames that it says, counted from the video's start."""
    seen = trained.attention(files[0], start=3)
    assert seen.numbers == (3, 4, 5, 6, 7)
    frames = read_frames(files[0], seen.numbers)
    h, w = frames.shape[1:3]
    scaled = read_frames(files[0], seen.numbers, short_side=32)
    assert (h, w, seen.frames.shape) == (48, 48, (5, 32, 32, 3))
    np.testing.assert_array_equal(seen.frames, scaled)
    grey = (seen.frames @ np.array([0.299, 0.587, 0.114])) / 255
    d = grey[1:] - grey[:-1]
    slope, shift = (float(trained.prompts["video"].scalars()[name]) for name in ("slope", "shift"))
    np.testing.assert_allclose(seen.difference, d, atol=1e-5)
    np.testing.assert_allclose(seen.attention, 1 / (1 + np.exp(-slope * (d - shift))), atol=1e-4)
    assert len(seen.draw(columns=3).axes) >= 12  # four rows of three


def test_the_attention_begins_with_the_frame_that_is_named_in_uneven_videos_too(tmp_path):
    """Every sixth frame is missing, so the timeline at 30 frames per second is longer than the video."""
    ticks = [tick for tick in range(60) if tick % 6 != 5]
    uneven = videos.encoded(tmp_path / "a.mp4", map(videos.numbered_frame, range(50)), rate=30, ticks=ticks)
    size = ["backbone.width=8", "backbone.blocks=1", "backbone.stride=1", "backbone.crop=28"]
    model = vmp.load(backbone="i3d", weights="motions", settings=["vmp=learned", *size], device="cpu")
    assert model.attention(uneven, start=23).numbers == (23, 24, 24, 25, 26, 27, 28, 29, 29)
    with pytest.raises(UserError, match="start = 46: 4 frames are left, and a clip spans 9"):
        model.attention(uneven, start=46)


@pytest.mark.slow
def test_what_cannot_be_asked_is_an_error(trained, finished, files, tmp_path):
    (tmp_path / "bad.mp4").write_text("no video")
    for call, error, message in (
        (lambda: vmp.load(), UserError, "name one model"),
        (lambda: vmp.load(finished, backbone="tiny"), UserError, "name one model"),
        (lambda: vmp.load(finished, weights="k400"), UserError, "has its own backbone"),
        (lambda: vmp.load(tmp_path), UserError, "no run there"),
        (lambda: vmp.load(backbone="tiny", weights="none"), UserError, "backbone=tiny without weights"),
        (lambda: vmp.load(backbone="resnet50", weights="k400"), UserError, "resnet50.*tiny"),
        (lambda: vmp.load(finished, checkpoint="first"), UserError, "first: must be best or last"),
        (
            lambda: trained.predict([files[0], tmp_path / "bad.mp4"]),
            DataError,
            "1 of 2 video.*cannot be read:\n.*bad.mp4",
        ),
        (lambda: trained.predict(files[0], views="ten"), UserError, "TEMPORALxSPATIAL"),
        (lambda: trained.predict(files[0], batch_size=0), UserError, "at least 1"),
        (
            lambda: trained.predict(np.zeros((2, 3, 8, 32, 32))),
            UserError,
            "found ndarray; clips in memory go",
        ),
        (lambda: trained.predict(None), UserError, "found NoneType"),
        (lambda: trained.features(np.zeros((2, 3))), UserError, "found ndarray; clips in memory go"),
        (lambda: trained.features([]), UserError, "features of no videos"),
        (lambda: vmp.load(finished, device=7), UserError, "device = '7': must be auto, cpu"),
        (lambda: trained.features(files[0], stage="blocks"), UserError, "the tiny has stages.0.0"),
        (lambda: trained.attention(files[0], pathway="slow"), UserError, "there are prompts on video"),
        (lambda: trained.attention(files[0], start=9), UserError, "3 frames are left"),
        (lambda: trained.attention(files[0], start=-1), UserError, "counted from 0"),
        (
            lambda: trained.features(torch.zeros(2, 3, 4, 32, 32, dtype=torch.uint8)),
            UserError,
            r"must be \(B, 3, 5, S, S\): 5 frames, one more than the backbone takes",
        ),
    ):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.slow
def test_a_script_without_a_main_guard_predicts(finished, files, tmp_path):
    """As docs/python.md shows it: the processes that measure a video do not run the script again."""
    script = tmp_path / "mine.py"
    script.write_text(
        f"print('begins')\nimport vmp\nmodel = vmp.load({str(finished)!r}, device='cpu')\n"
        f"print(model.predict({str(files[0])!r}).label)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"begins\n(brighter|darker)\n", done.stdout)


@pytest.mark.slow
def test_the_table_has_a_row_per_video(finished, files, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.mp4").write_text("no video")
    shutil.copy(files[0], tmp_path / "a, b.mp4")
    words = [str(tmp_path), f"run={finished}", "--csv", str(tmp_path / "out.csv"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["vmp", *words])
    assert predict_command() == 2
    assert f"-> {tmp_path / 'out.csv'}\n" in capsys.readouterr().err
    with open(tmp_path / "out.csv", newline="") as file:
        good, bad = csv.DictReader(file)
    assert (good["file"], good["frames"], good["problem"]) == (str(tmp_path / "a, b.mp4"), "12", "")
    assert {good["class1"], good["class2"]} == {"brighter", "darker"}
    assert float(good["probability1"]) + float(good["probability2"]) == pytest.approx(1, abs=1e-5)
    assert (bad["file"], bad["class1"]) == (str(tmp_path / "bad.mp4"), "")
    assert bad["problem"]
    assert not list(tmp_path.glob("*.partial*"))


SLOWLY = """
import sys, time
import vmp.trained as trained
from vmp.cli import friendly
from vmp.commands.predict import main

predicted = []

def slow(*fields):
    predicted.append(fields)
    if len(predicted) == 3:
        time.sleep(100)
    return made(*fields)

made, trained.Prediction = trained.Prediction, slow
if __name__ == "__main__":
    with friendly():
        sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda n: n.name)
def test_rows_of_a_command_that_is_interrupted_are_kept(finished, files, tmp_path, number):
    """By Ctrl-C, which goes to the whole group, and by a kill, after which nothing can be said."""
    table, partial = tmp_path / "out.csv", tmp_path / "out.csv.partial"
    earlier = "file,frames,fps,problem\n"
    table.write_text(earlier)
    (tmp_path / "slowly.py").write_text(SLOWLY)
    words = [*files, f"run={finished}", "--csv", table, "--device", "cpu", "--batch-size", 1]
    process = subprocess.Popen(
        [sys.executable, tmp_path / "slowly.py", *map(str, words)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: partial.exists() and partial.read_text().count("\n") == 3, process)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    rows = list(csv.DictReader(partial.open(newline="")))
    assert len(rows) == 2
    assert [row["file"] for row in rows] == list(map(str, files[: len(rows)]))
    assert {row["class1"] for row in rows} <= {"brighter", "darker"}
    assert table.read_text() == earlier
    if number == signal.SIGINT:
        said = (
            f"interrupted: {len(rows)} of {len(files)} videos were predicted; their rows are in {partial}\n"
        )
        assert (process.returncode, errors) == (130, said)


def test_rows_are_kept_where_predicting_fails_and_the_next_command_leaves_them(
    finished, files, tmp_path, monkeypatch, script
):
    made, table = trained_module.Prediction, tmp_path / "out.csv.gz"
    words = (*files[:3], f"run={finished}", "--csv", table, "--device", "cpu", "--batch-size", 1)

    def fails_at_the_last(*fields):
        if fields[0] == str(files[2]):
            raise UserError("out of memory")
        return made(*fields)

    with monkeypatch.context() as patch:
        patch.setattr(trained_module, "Prediction", fails_at_the_last)
        for name in ("out.csv.partial", "out.csv.partial-2"):
            code, said, errors = script("predict", *words)
            assert (code, said) == (2, "")
            kept = f"2 of 3 videos were predicted; their rows are in {tmp_path / name}"
            assert errors == f"{kept}\nerror: out of memory\n"
            assert not table.exists()
    code, _, errors = script("predict", *words)
    assert (code, errors) == (0, f"-> {table}\n")
    with gzip.open(table, "rt") as file:
        whole = file.read().splitlines()
    assert len(whole) == 4
    for name in ("out.csv.partial", "out.csv.partial-2"):
        assert (tmp_path / name).read_text().splitlines() == whole[:3]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.csv.gz",
        "out.csv.partial",
        "out.csv.partial-2",
    ]


# --- the pages -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_examples_of_the_page_run(finished, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs/...").mkdir(parents=True)
    (tmp_path / "outputs/.../seed0").symlink_to(finished)
    for name, file in zip(("my.mp4", "other.mp4"), files, strict=False):
        shutil.copy(file, name)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.M | re.S)
    values: dict = {}
    for code in blocks:
        exec(compile(code, "docs/python.md", "exec"), values)
    said = capsys.readouterr().out
    assert "TrainedModel(tiny, 2 classes, vmp=learned, slope" in said
    assert values["vectors"].shape == (2, 16)
    assert len(values["shipped"].classes) > 2
    assert (tmp_path / "attention.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    """Its cells in one process, from an empty folder, as a notebook runs them."""
    cells = json.loads((ROOT / "docs/prompts.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    code += "\nprint(len(rows), found.label, seen.attention.shape)"
    env = {**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    logged, label, *shape = done.stdout.splitlines()[-1].split()
    assert int(logged) >= 4  # the start, and every epoch
    assert " ".join(shape) == "(8, 40, 40)"
