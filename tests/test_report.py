"""The page about runs: its numbers are those of the folders, and data is never parsed as HTML."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configs import raw
from reports import EVIL, Read, base_config, write_run
from runs import ROOT, overrides_for

from vmp.errors import UserError
from vmp.report.page import write_report


def by_folder(read: Read, home: Path, results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    runs = json.loads(read.data)["runs"]
    found = {}
    for name, result in results.items():
        (one,) = [
            r for r in runs if r["top1"] == result["top1"] and (r["dataset"] == "gym99") == ("gym99" in name)
        ]
        found[name] = one
    return found


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_numbers_are_those_of_the_folders(report):
    home, results, page, read = report
    data = json.loads(read.data)
    rows = {row[0][1] + row[3][1] + row[4][1]: row for row in read.rows[1:]}
    assert len(rows) == 6
    for name, one in by_folder(read, home, results).items():
        result, folder = results[name], home / "outputs" / name
        weight = "" if one["lambda"] is None else repr(float(one["lambda"]))
        row = rows[one["dataset"] + one["method"] + weight]
        for column, key in ((6, "top1"), (7, "top5"), (8, "mean_class"), (12, "seconds")):
            assert float(row[column][1]) == result[key]
        assert row[6][0] == f"{result['top1']:.1f}"
        few = one["dataset"] != "gym99"  # top-5 of five classes or fewer is always 100
        assert row[7][0] == ("–" if few else f"{result['top5']:.1f}")
        scalars = result["scalars"]
        assert [row[i][1] for i in (9, 10)] == [str(scalars.get(k, "")) for k in ("slope", "shift")]
        assert one["pairs"] == ([["video", scalars["slope"], scalars["shift"]]] if scalars else [])
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        curves = {curve["what"]: curve["points"] for curve in one["curves"]}
        keys = {"loss": "train/cross_entropy", "top1": "val/top1"} | ({} if few else {"top5": "val/top5"})
        keys |= {"slope": "vmp/slope", "shift": "vmp/shift"} if scalars else {}
        assert curves.keys() == keys.keys()
        for what, key in keys.items():
            assert np.allclose(curves[what], [(r["epoch"], r[key]) for r in metrics if key in r], rtol=1e-4)
        assert one["per_class"] == [
            [int(r["clips"]), int(r["right"])] for r in read_csv(folder / "per_class.csv")
        ]
        pairs = [
            (label, *pair)
            for label, row in enumerate(one["confusion"])
            for pair in zip(row[::2], row[1::2], strict=True)
        ]
        right = sum(n for label, guess, n in pairs if label == guess)
        total = sum(n for *_, n in pairs)
        assert 100 * right / total == pytest.approx(result["top1"])
        assert len(data["classes"][one["classes"]]) == len(one["per_class"])
    ranges = next(r["ranges"] for r in data["runs"] if r["ranges"])
    assert np.allclose(ranges["slope"], (5 / 0.55, 50))
    assert ranges["shift"] == [-0.6, 0.6]


def test_tables_show_ours_and_the_papers_numbers(report):
    text = report[3].text
    assert text.count("71.2 [70.1–72.4]paper 83.6 −12.4") == 2
    assert text.count("299 of 300 clips 85.2 ↑14.0paper 84.1 ↑0.5 +1.1") == 2
    assert text.count("not runpaper 40.1") == 2
    assert text.count("commit 0123, 4567.") == 2
    assert f"Table 1: accuracies {EVIL.strip()} miniature" in text
    assert "A note." in text
    assert "table10.csv cannot be read as a table" in text
    number = next(
        r["number"] for r in json.loads(report[3].data)["runs"] if r["lambda"] == 1 and r["seed"] == "0"
    )
    assert report[3].links.count(f"#run-{number}") == 3  # two cells and the list of runs


def test_missing_results_clips_and_pictures_are_shown(report):
    text = report[3].text
    assert "unfinished: epoch 3 of 6" in text
    assert "clips missing" in text
    assert "val: 30 of 34 clips" in report[2].read_text(encoding="utf-8")
    one = next(r for r in json.loads(report[3].data)["runs"] if r["problem"])
    assert one["top1"] is None
    assert one["worst"] is None
    gym = next(r for r in json.loads(report[3].data)["runs"] if r["dataset"] == "gym99")
    assert "No pictures" in gym["worst_note"]


def test_data_is_never_parsed_as_html(report):
    _, _, page, read = report
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert read.tags.count("script") == 2
    assert EVIL.replace("\u2028", " ") in [
        name for names in json.loads(read.data)["classes"] for name in names
    ]
    assert EVIL in read.text  # the command, as text
    assert "\u2028" not in read.data
    assert all(link.startswith("#") for link in read.links)
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?\s*(https?:)?//", text)


def test_the_worst_clips_are_wrong_with_the_highest_scores(report):
    home, results, _, read = report
    for name, one in by_folder(read, home, results).items():
        rows = read_csv(home / "outputs" / name / "predictions.csv")
        wrong = [row for row in rows if row["predicted"] and row["label"] != row["predicted"]]
        best = sorted((float(row["score"]) for row in wrong), reverse=True)[:2]
        assert [clip["score"] for clip in one["worst"]] == best
        for clip in one["worst"]:
            number = int(clip["id"].removeprefix("val/"))
            assert (clip["path"], clip["start"], clip["end"]) == (f"val/{number:03}.mp4", number, number + 12)
        if "gym99" in name:
            continue
        for clip in one["worst"]:
            (picture,) = clip["pictures"]
            wanted = ["frames", "differences"] + (
                ["attention", "prompts"] if results[name]["scalars"] else []
            )
            assert picture["rows"] == wanted
            assert picture["src"].startswith("data:image/webp;base64,UklGR")


def test_the_same_inputs_give_the_same_bytes(report, tmp_path):
    home, _, page, _ = report
    write_report([home / "outputs"], out=tmp_path / "again.html", tables=[home / "tables"], clips=2)
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_the_page_never_exceeds_its_limit(report, tmp_path):
    home, *_ = report
    whole = write_report([home / "outputs"], out=tmp_path / "whole.html", clips=0).bytes
    limit = whole + 15_000
    written = write_report([home / "outputs"], out=tmp_path / "small.html", clips=20, limit=limit)
    assert written.bytes <= limit
    assert 0 < written.pictures < 40
    assert "to keep the page small" in (tmp_path / "small.html").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="do not fit"):
        write_report([home / "outputs"], out=tmp_path / "none.html", clips=0, limit=1000)
    assert not (tmp_path / "none.html").exists()


def test_missing_videos_leave_out_pictures(tmp_path):
    config = raw(*overrides_for(tmp_path / "nowhere", tmp_path))
    write_run(tmp_path / "out" / "a", config)
    write_report([tmp_path / "out"], out=tmp_path / "r.html")
    (one,) = json.loads(Read((tmp_path / "r.html").read_text(encoding="utf-8")).data)["runs"]
    assert one["worst_note"].startswith("No pictures")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.yaml", "{"),
        ("config.yaml", "[1, 2]"),
        ("result.json", "{"),
        ("result.json", '{"top1": 1, "clips": 3, "scalars": 4, "views": 5, "split": [], "versions": "x"}'),
        ("result.json", '{"top1": NaN}'),
        ("metrics.jsonl", "nonsense\n"),
        ("metrics.jsonl", '[1]\n{"epoch": "a", "train/loss": null}\n'),
        ("predictions.csv", "id,label\n1,2\n"),
        ("predictions.csv", "id,label,predicted,score,top5,problem\na,7,x,nan,,\n"),
        ("per_class.csv", "\x00\n"),
        ("classes.txt", ""),
    ],
)
def test_a_damaged_file_affects_its_own_run_only(tmp_path, file, text):
    write_run(tmp_path / "out" / "good", base_config(), seed=1)
    write_run(tmp_path / "out" / "bad", base_config(), seed=2)
    (tmp_path / "out" / "bad" / file).write_text(text)
    written = write_report([tmp_path / "out"], out=tmp_path / "r.html", clips=1)
    assert written.runs == 2
    Read((tmp_path / "r.html").read_text(encoding="utf-8"))


def test_a_folder_without_runs_is_one_error_message(tmp_path):
    script = ROOT / "scripts" / "report.py"
    for folder in (tmp_path, tmp_path / "nowhere"):
        done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {folder}: no ")
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_runs_come_first_and_shipped_tables_only_on_request(report, tmp_path, script):
    home, *_ = report
    out = tmp_path / "outputs"
    shutil.copytree(home / "outputs", out)
    text = report[2].read_text(encoding="utf-8")
    assert text.index('id="runs"') < text.index('id="worst"') < text.index('id="tables"')
    page = tmp_path / "page.html"
    for words, tables in (
        ([], 0),  # the user has no tables yet
        (
            ["--tables", str(ROOT / "docs/results")],
            len(list((ROOT / "docs/results/mini").glob("table*.csv"))),
        ),
    ):
        code, said, _ = script("report", out, "--out", page, "--clips", 0, *words)
        assert (code, f"6 runs, {tables} tables" in said) == (0, True)
    shutil.copytree(home / "tables" / "mini", out / "results")
    _, said, _ = script("report", out, "--out", page, "--clips", 0)
    assert "6 runs, 2 tables" in said  # the user's


def test_the_command(report, tmp_path, script):
    out = tmp_path / "page.html"
    code, said, _ = script("report", report[0] / "outputs", "--out", out, "--clips", 0, "--tables")
    assert (code, out.is_file()) == (0, True)
    assert "5 finished of 6 runs, 0 tables, 0 pictures" in said
