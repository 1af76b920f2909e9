"""A damaged or hostile run's folder: nothing in it is resolved, reading is bounded, and a report gives it one line."""

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from html import unescape
from itertools import pairwise

import pytest
from configs import raw
from omegaconf import OmegaConf
from reports import write_run
from runs import ROOT

from vmp.errors import ManifestError, RunError
from vmp.files import parse_yaml, read_csv, read_text, write_csv
from vmp.report.page import write_report
from vmp.runs import records
from vmp.runs.run import Run, readable_runs

SECRET = "s3cret-of-the-reader"
BOMB = "a0: &a0 [x,x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1},*a{i - 1}]\n" for i in range(1, 60))


@pytest.fixture(scope="module")
def config():
    return raw("dataset=manifest", "dataset.folder=nowhere", "output=out")


@pytest.fixture
def out(tmp_path, config):
    """A good run, and a run that the test damages."""
    write_run(tmp_path / "out" / "good", config, seed=1)
    write_run(tmp_path / "out" / "bad", config, seed=2)
    return tmp_path / "out"


def put(folder, file, **changes):
    value = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(value | changes))


def break_result(**changes):
    return lambda folder: put(folder, "result.json", **changes)


def write(file, text):
    return lambda folder: (folder / file).write_text(text)


def cell(file, row, column, value):
    def do(folder):
        with open(folder / file, newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        rows[row][column] = value
        with open(folder / file, "w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, rows[0])
            writer.writeheader()
            writer.writerows(rows)

    return do


def pipe(file):
    def do(folder):
        (folder / file).unlink()
        os.mkfifo(folder / file)

    return do


def bomb(folder):
    path = folder / "config.yaml"
    path.write_text(BOMB + path.read_text())


def half(folder):
    lines = (folder / "predictions.csv").read_text().splitlines(keepends=True)
    (folder / "predictions.csv").write_text("".join(lines[: len(lines) // 2]))


DAMAGE = {
    "aliases": (bomb, "anchors and aliases"),
    "deep YAML": (write("config.yaml", "a: " + "[" * 100_000), "32 levels"),
    "a large config": (write("config.yaml", "a: b\n" + "# x\n" * 100_000), "larger than"),
    "a tag": (write("config.yaml", "!!python/object/apply:os.system [id]"), "not YAML"),
    "a config that is a pipe": (pipe("config.yaml"), "not a regular file"),
    "a number of 400 digits": (break_result(top1=10**400), "401 digits"),
    "deep JSON": (write("result.json", "[" * 100_000), "nested deeper"),
    "60 levels of JSON": (write("result.json", "[" * 60 + "]" * 60), "nested deeper"),
    "a scalar that is a word": (break_result(scalars={"slope": 1.0, "shift": "x"}), "scalars.shift = 'x'"),
    "a scalar that is NaN": (break_result(scalars={"slope": float("nan"), "shift": 0.0}), "scalars.slope"),
    "a slope without its shift": (break_result(scalars={"slope": 1.0}), "without its shift"),
    "zero views": (break_result(views=[0, 3]), "views.0 = 0"),
    "views that are text": (break_result(views="x"), "views = 'x'"),
    "NaN": (break_result(top1=float("nan")), "top1 = nan"),
    "true for a number": (break_result(top1=True), "top1 = True"),
    "clips": (break_result(clips={"val": {"present": -1}}), "clips.val"),
    "half of a surrogate pair": (break_result(device="\ud800"), "not Unicode"),
    "a result that is a pipe": (pipe("result.json"), "not a regular file"),
    "a score that is NaN": (cell("predictions.csv", 3, "score", "nan"), "score = 'nan'"),
    "a class that is not there": (cell("predictions.csv", 3, "predicted", "9"), "at most 2"),
    "half of the predictions": (half, "the end is missing; copy it again"),
    "a long cell": (cell("predictions.csv", 3, "id", "x" * 200_000), "cell|field limit"),
    "a row too long": (write("per_class.csv", "class,name,clips,right,accuracy\n0,a,1,1,100,7,8\n"), "more cells"),
    "more right than there are": (cell("per_class.csv", 1, "right", "99"), "more clips are right"),
    "a row that is not one": (write("metrics.jsonl", '{"kind": "train", "epoch": [1]}\n'), "not a row of numbers"),
    "an infinite number": (write("metrics.jsonl", '{"kind": "train", "step": 1e999}\n'), "not a row of numbers"),
    "classes that are a pipe": (pipe("classes.txt"), "not a regular file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_one_line_of_the_report(out, tmp_path, kind):
    damage, said = DAMAGE[kind]
    damage(out / "bad")
    written = write_report([out], out=tmp_path / "r.html", clips=0)
    assert written.runs == 2
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    runs = json.loads(re.search(r'id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])["runs"]
    (good,) = [run for run in runs if run["top1"] == Run(out / "good").result["top1"]]
    assert not good["problem"]
    assert good["confusion"]
    assert good["curves"]
    assert re.search(said, unescape(page))


def test_runs_that_cannot_be_read_are_left_out_with_a_warning(out, capsys):
    break_result(views=[0, 3])(out / "bad")
    assert [run.folder.name for run in readable_runs(out)] == ["good"]
    assert "warning: left out" in (said := capsys.readouterr().err)
    assert "views.0 = 0" in said


def test_interpolations_in_a_config_are_not_resolved(out, tmp_path, monkeypatch, config):
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    values = json.loads(json.dumps(config)) | {"tag": "${oc.env:SECRET_TOKEN}"}
    values["dataset"]["name"] = "${oc.env:SECRET_TOKEN}"
    (out / "bad" / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
    assert SECRET in str(OmegaConf.to_container(OmegaConf.load(out / "bad/config.yaml"), resolve=True))
    read = records.read_config(out / "bad")
    assert read["tag"] == read["dataset"]["name"] == "${oc.env:SECRET_TOKEN}"
    write_report([out], out=tmp_path / "r.html", clips=1)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert SECRET not in page
    assert "${oc.env:SECRET_TOKEN}" in page


@pytest.mark.slow
@pytest.mark.parametrize("key", ["name", "tag"])
def test_a_secret_from_the_environment_is_not_uploaded(out, tmp_path, monkeypatch, config, key):
    monkeypatch.setenv("SECRET_TOKEN", SECRET)
    values = json.loads(json.dumps(config))
    (values["dataset"] if key == "name" else values)[key] = "${oc.env:SECRET_TOKEN}"
    run = out / "bad"
    (run / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)))
    done = subprocess.run(
        [sys.executable, "scripts/upload_wandb.py", run, "--offline"],
        cwd=ROOT,
        capture_output=True,
        timeout=120,
    )
    assert b"Traceback" not in done.stderr
    assert SECRET.encode() not in done.stdout + done.stderr
    for path in run.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.slow
@pytest.mark.parametrize("script", ["predict.py", "evaluate", "compare", "visualize"])
def test_an_alias_bomb_ends_each_command_with_one_message(out, script):
    bomb(out / "bad")
    command = {
        "predict.py": ["scripts/predict.py", "x.mp4", f"run={out}/bad"],
        "evaluate": ["evaluate.py", f"run={out}/bad"],
        "compare": ["scripts/compare.py", out / "good", out / "bad"],
        "visualize": ["scripts/visualize.py", f"run={out}/bad"],
    }[script]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_config_is_read_with_the_values_that_were_written(tmp_path, config):
    values = json.loads(json.dumps(config))
    values |= {
        "tag": "2026-11-28",
        "name": "1e-3",
        "odd": ["~", "on", "1_000", "0x1f", "1:30", ".5", ".nan", "${x}"],
    }
    values |= {
        "numbers": [1e-05, 1e22, -0.5, 0, 10**12, 1e-300],
        "none": None,
        "flags": [True, False],
        "n": "\u0416, 'x'",
    }
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(values)), encoding="utf-8")
    assert records.read_config(tmp_path) == values
    assert parse_yaml("a: 1e-3\nb: 2026-11-28", "x") == {"a": 0.001, "b": "2026-11-28"}
    for text, said in (
        ("a: 1\na: 2", "occurs twice"),
        ("a: 0x" + "f" * 40, "64 bits"),
        ("a: " + "9" * 9999, "not YAML"),
    ):
        with pytest.raises(RunError, match=said):
            parse_yaml(text, "x")


def test_a_row_that_is_still_being_written_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n{"kind": "tr')
    assert list(records.read_metrics(tmp_path)) == [{"kind": "train", "step": 1}]


def test_rows_are_read_when_they_are_asked_for(tmp_path):
    """Against the same rows as a list, with lines of different lengths and one that is damaged."""
    file, step = tmp_path / "metrics.jsonl", 0
    assert list(records.read_metrics(tmp_path)) == []
    want = [{"kind": "start", "step": 0}]
    for epoch in range(1, 8):
        for _ in range(13):
            step += 1
            want.append({"kind": "train", "step": step, "train/loss": 1 / step})
        want.append({"kind": "val", "step": step, "epoch": epoch})
    file.write_text("".join(json.dumps(row) + "\n" for row in want))
    rows = records.read_metrics(tmp_path)
    assert len(rows) == len(want)
    assert list(rows) == want
    assert (rows[0], rows[-1], rows[40:3:-7]) == (want[0], want[-1], want[40:3:-7])
    with pytest.raises(IndexError):
        rows[len(want)]
    assert rows.thinned(91) == want
    thin = rows.thinned(10)
    assert [row for row in thin if row["kind"] != "train"] == [row for row in want if row["kind"] != "train"]
    steps = [row["step"] for row in thin if row["kind"] == "train"]
    assert (len(steps), steps[0], steps[-1]) == (10, 1, 91)
    assert {b - a for a, b in pairwise(steps)} == {10}
    file.write_text('{"kind": "start"}\n{"kind": "train", "train/loss": NaN}\n{"kind": "val"}\n')
    damaged = records.read_metrics(tmp_path)
    assert damaged[-1] == {"kind": "val"}
    with pytest.raises(RunError, match=r"metrics.jsonl, line 2"):
        list(damaged)


def test_a_damaged_dataset_json_is_an_error(tmp_path):
    from vmp.data.manifest import recorded_root

    assert recorded_root(tmp_path) is None
    for text in ("[" * 100_000, '{"root": ' + "9" * 5000 + "}", "\xff", '["root"]'):
        (tmp_path / "dataset.json").write_text(text, encoding="latin-1")
        with pytest.raises(ManifestError, match="make it again"):
            recorded_root(tmp_path)


def test_a_packed_table_is_the_same_bytes_again_and_is_unpacked_within_bounds(tmp_path):
    path, rows = tmp_path / "clips.csv.gz", [["id", "class"], ["a,b", "wäsche"], ["c", ""]]
    write_csv(path, rows)
    first = path.read_bytes()
    write_csv(path, rows)
    assert path.read_bytes() == first
    assert gzip.decompress(first).decode() == 'id,class\n"a,b",wäsche\nc,\n'
    assert read_csv(path, required=("id",)) == [{"id": "a,b", "class": "wäsche"}, {"id": "c", "class": ""}]

    for damaged in (first[:-9], b"id,class\n", first[:12] + b"\xff\xff" + first[14:]):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"clips\.csv\.gz: damaged"):
            read_csv(path, required=("id",))
    path.write_bytes(gzip.compress(bytes(10_000)))
    with pytest.raises(RunError, match="unpacks to more than the 5,000 bytes"):
        read_text(path, limit=5000)
