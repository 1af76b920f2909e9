"""The benchmarks: alternatives that are timed side by side compute the same; the arithmetic of the costs."""

import json
import subprocess
import sys

import pytest
import torch
from runs import ROOT, Running

from benchmarks import costs, extensions, feed, gpu
from benchmarks.costs import Work
from benchmarks.layer import DirectLayer
from benchmarks.measure import describe_machine, median_seconds
from benchmarks.step import AUTHORS, OURS, choose_variants, list_variants
from vmp import MotionPrompt
from vmp.errors import ConfigError


def test_the_direct_transcription_computes_what_the_layer_does():
    layer = MotionPrompt(m=0.4, n=-0.2, mean=0.45, std=0.225)
    direct = DirectLayer(layer)
    clip = torch.randint(0, 256, (2, 3, 6, 24, 20), dtype=torch.uint8)
    ours, theirs = layer(clip), direct(clip)
    torch.testing.assert_close(theirs[0], ours.prompts, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(theirs[1], ours.variation, rtol=1e-4, atol=1e-7)


def test_calls_are_timed_in_rounds_after_two_that_do_not_count():
    calls = []
    times = median_seconds({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert "".join(calls) == "ab" * (2 + 3)
    assert all(seconds > 0 for seconds in times.values())


@pytest.mark.slow
def test_work_of_table_1():
    """Rows x splits x clips x epochs of the recipes, by hand; published numbers of clips, as nothing is prepared."""
    work = costs.work_of_table1(data="/nowhere")
    assert sum(part.runs for part in work.values()) == 70
    assert {name: part.runs for name, part in work.items()} == {
        "slowfast": 20,
        "c2d": 10,
        "i3d": 10,
        "x3d_m": 10,
        "timesformer": 20,
    }
    # ten TimeSformer runs with K400 weights and ten with K600: 25 epochs of three HMDB-51 splits, FineGym and MPII
    vit = work["timesformer"]
    epochs = vit.trained / (4 * (3 * 3570 + 26320 + 14105))
    assert epochs == 25
    assert vit.tested == 4 * 3 * (3 * 1530 + 8521)

    # published, billions of multiplications and additions a view of 224 (X3D-M's 6.2 and SlowFast's 65.7 are at 256)
    published = {"c2d": 25.9 * (224 / 256) ** 2, "i3d": 37.5 * (224 / 256) ** 2, "timesformer": 196.0}
    for name, giga in published.items():
        assert work[name].flops / 2e9 == pytest.approx(giga, rel=0.05), name


def test_hours_are_clips_times_measured_seconds(monkeypatch):
    work = {"c2d": Work(10, 3.6e6, 1.2e6, 1e9, 1.5, "224"), "i3d": Work(2, 1e6, 0, 1e9, 1.0, "224")}
    monkeypatch.setattr(costs, "work_of_table1", lambda: work)
    rows = [
        {"what": OURS, "clips/s": 100.0},
        {"what": "ours, bf16", "clips/s": 400.0},
        {"what": AUTHORS, "clips/s": 50.0},
    ]
    here = {"size": "224", "machine": describe_machine(), "rows": rows}
    c2d, i3d, total = costs.bench_costs({"c2d": here})
    assert c2d["best"] == "ours, bf16"
    assert c2d["EFLOP"] == pytest.approx((3 * 3.6e6 + 1.5 * 1.2e6) * 1e9 / 1e18)
    assert c2d["hours"] == pytest.approx((3.6e6 + 1.5 * 1.2e6 / 3) / 400 / 3600)
    assert c2d["hours as published"] == pytest.approx((3.6e6 + 1.5 * 1.2e6 / 3) / 50 / 3600)
    assert "hours" not in i3d
    assert "hours" not in total  # only a part was measured
    assert total["runs"] == 12
    for other in ({"size": "112"}, {"machine": "elsewhere"}):
        assert "hours" not in costs.bench_costs({"c2d": here | other})[0]


def test_advice_depends_on_the_time_spent_waiting():
    rows = [
        {"what": "one process, opencv", "clips/s": 200.0},
        {"what": "training tiny, 0 worker(s)", "clips/s": 90.0, "waiting %": 40.0},
        {"what": "training tiny, 1 worker(s)", "clips/s": 140.0, "waiting %": 12.0},
    ]
    assert "trainer.workers" in feed.advise(rows)
    rows[2]["waiting %"] = 3.0
    assert "keeps up" in feed.advise(rows)


SMALL = {
    "c2d": ["backbone.crop=32", "backbone.blocks=1", "backbone.width=8"],
    "slowfast": ["backbone.crop=32", "backbone.blocks=1", "backbone.width=16", "backbone.frames=8"],
    "timesformer": [
        "backbone.crop=32",
        "backbone.patch=8",
        "backbone.dim=32",
        "backbone.depth=2",
        "backbone.heads=2",
    ],
}
# compiling takes most of the time: every two of a backbone, compile, bf16 and channels_last stay together in some row
LEFT_OUT = {
    "c2d": ["ours, bf16, compile"],
    "slowfast": ["ours, bf16, compile", "ours, bf16, compile, channels_last"],
    "timesformer": ["Hugging Face, bf16, compile"],
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backbone", SMALL)
def test_variants_have_the_same_losses(tmp_path, backbone):
    """Stock pytorchvideo with transcribed equations, ours and every switch, from the same weights: the same losses."""
    out = tmp_path / "bench.json"
    chosen = [name for name in list_variants(backbone) if name not in LEFT_OUT[backbone]]
    parts = ["step", *(["costs"] if backbone == "timesformer" else [])]  # it composes all 70 runs
    options = ["--repeats", "2", "--steps", "4", "--out", str(out), "--backbone", backbone]
    arguments = [*parts, *options, *SMALL[backbone], "--variants", *chosen]
    Running(arguments, script="benchmarks/__main__.py").succeed(580)
    found = json.loads(out.read_text())
    if backbone == "timesformer":
        assert found["costs"][-1]["runs"] == 70
        assert not any("hours" in row for row in found["costs"])  # these were small models
    rows = found["step"][backbone]["rows"]
    by_name = {row["what"]: row for row in rows}
    assert set(by_name) == set(chosen)
    assert {OURS, AUTHORS, "ours, compile"} <= set(by_name)
    for name, row in by_name.items():
        assert row["clips/s"] > 0
        if "Hugging Face" not in name and "without prompts" not in name:
            assert row["apart"] < (0.05 if "bf16" in name or torch.cuda.is_available() else 1e-3), name


def test_a_variant_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"no 'ours, int8' of c2d on this device; there are\n  stock"):
        choose_variants("c2d", ["ours, int8"])


@pytest.mark.slow
def test_arms_beyond_the_paper_are_timed_beside_the_baseline_and_the_layer():
    """The memory of a layer is that of what it makes at least: prompts of 2 clips, and maps inside the network."""
    base = ["backbone=tiny", "backbone.weights=none", "backbone.crop=32", "trainer.device=cpu"]
    arms = {
        "none": [*base, "vmp=none"],
        "learned": [*base, "vmp.lambda=0"],
        "true_motion": [*base, "vmp=oracle"],
        "features": [*base, "vmp=features", "vmp.at=stages.1", "vmp.pixels=true", "vmp.lambda=0"],
    }
    found = {row["what"]: row for row in extensions.time_arms(arms, 2, 1)}
    assert list(found) == list(arms)
    for part in ("layer", "step"):
        for row in found.values():
            ratio = row[f"{part} ms"] / found["none"][f"{part} ms"]
            assert row[f"{part} / none"] == pytest.approx(ratio)
            assert row[f"{part} / learned"] == pytest.approx(ratio / found["learned"][f"{part} / none"])
    prompts = 2 * 3 * 8 * 32 * 32 * 4 / 1e6
    if sys.platform == "linux":
        assert found["learned"]["layer MB"] > 0.9 * prompts
        assert found["features"]["step MB"] > found["features"]["layer MB"] > found["learned"]["layer MB"]


def test_a_page_of_results_shows_what_failed_and_all_columns():
    rows = [{"what": "a|b", "ms": 0.01234}, {"what": "c", "clips/s": 1234.5}]
    results = {
        "layer": {"state": "done", "why": "", "seconds": 3.0, "rows": rows},
        "tests": {"state": "failed", "why": "exit code 1", "seconds": 1.5, "rows": []},
    }
    lines = gpu.page(results, "a GPU").splitlines()
    assert "| tests | failed | 1.5 | exit code 1 |" in lines
    assert lines[-4:] == [
        "| what | ms | clips/s |",
        "|---|---|---|",
        "| a/b | 0.0123 |  |",
        "| c |  | 1234 |",
    ]


@pytest.mark.slow
def test_parts_of_make_gpu_fail_alone_and_are_run_once(tmp_path):
    """At toy size: a part whose folder cannot be made, then the same command again."""

    def call() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks.gpu", "--toy", "waits", "tests", "--out", str(tmp_path)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)

    (tmp_path / "waits").write_text("in the way")
    first = call()
    assert first.returncode == 1, first.stdout + first.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert {name: part["state"] for name, part in found.items()} == {"tests": "done", "waits": "failed"}
    assert found["tests"]["rows"][0]["tests"] > 0
    assert str(tmp_path / "waits") in found["waits"]["why"]
    (tmp_path / "waits").unlink()
    again = call()
    assert again.returncode == 0, again.stdout + again.stderr
    assert "tests: done already" in again.stdout
    rows = json.loads((tmp_path / "waits.json").read_text())["rows"]
    assert [row["waits"] for row in rows if row["updates"] == 10] == [10]
