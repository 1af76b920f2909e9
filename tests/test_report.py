"""The page about runs: its numbers are those of the folders, data is never parsed as HTML, and a browser shows it."""

import csv
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, find_browser
from configs import raw
from omegaconf import OmegaConf
from runs import ROOT, bright_or_dark, overrides_for

from vmp.errors import UserError
from vmp.files import write_json
from vmp.report.page import write_report
from vmp.runs.records import PREDICTION_COLUMNS

EVIL = "<script>alert('x')</script> \"&amp;' </style>{{data}}\u2028end"
CLASSES = ("brighter", "darker", EVIL)


def write_run(
    folder: Path, config: dict[str, Any], *, classes=CLASSES, count: int = 30, seed: int = 0, **changes: Any
) -> dict[str, Any]:
    """Write a run's folder as train.py leaves it, with random numbers; its result, none if finished=False."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes).replace("\u2028", " "))
    prompted = config["vmp"]["kind"] == "learned"
    slope, shift = float(rng.uniform(9.1, 50)), float(rng.uniform(-0.59, 0.59))
    rows = []
    for epoch in range(1, 7):
        scalars = {"vmp/slope": slope + 1 / epoch, "vmp/shift": shift / epoch} if prompted else {}
        rows.append(
            {"kind": "train", "epoch": epoch, "step": epoch, "train/cross_entropy": 2 / epoch, **scalars}
        )
        rows.append({"kind": "val", "epoch": epoch, "val/top1": 10.0 * epoch, "val/top5": 12.0 * epoch})
    finished = changes.pop("finished", True)
    if not finished:
        rows = rows[:5]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not finished:
        return {}
    label = np.arange(count) % len(classes)
    predicted = np.where(rng.random(count) < 0.6, label, rng.integers(0, len(classes), count))
    score = rng.uniform(0.3, 1, count)
    with open(folder / "predictions.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(PREDICTION_COLUMNS)
        for i in range(count):
            actual, guess = (int(x[i]) for x in (label, predicted))
            row = [f"val/{i}", f"val/{i:03}.mp4", i, i + 12, actual, classes[actual], guess, classes[guess]]
            table.writerow([*row, f"{score[i]:.6g}", guess, ""])
        table.writerow(["val/lost", "val/lost.mp4", 0, "", 0, classes[0], *[""] * 4, "missing: val/lost.mp4"])
    with open(folder / "per_class.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["class", "name", "clips", "right", "accuracy"])
        for c, name in enumerate(classes):
            n, right = int((label == c).sum()), int(((label == c) & (predicted == c)).sum())
            table.writerow([c, name, n, right, f"{100 * right / n:.2f}" if n else ""])
    counts = {"expected": count, "present": count, "missing": 0, "unreadable": 0}
    result = {
        "split": "val",
        "epoch": 6,
        "views": [1, 1],
        "reduce": "probs",
        "degrade": "none",
        "top1": float(100 * (label == predicted).mean()),
        "top5": 100.0,
        "mean_class": 71.25,
        "top1_lower_bound": 60.5,
        "clips": {"train": counts, "val": counts},
        "scalars": {"slope": slope, "shift": shift, "m": 0.5, "n": 0.1} if prompted else {},
        "seed": config["seed"],
        "seconds": 87.5,
        "steps": 36,
        "command": f"python train.py 'tag={EVIL}'",
        "commit": "0123456789ab",
        "device": "1 x CPU x 1 threads",
        "versions": {"torch": "2.11.0"},
        **changes,
    }
    write_json(folder / "result.json", result)
    return result


def write_outputs(out: Path, data: Path) -> dict[str, dict[str, Any]]:
    """Six runs: a baseline, three lambdas (one lacks clips), one with 99 classes, and an unfinished one."""
    base = raw(*overrides_for(data, out))
    results = {}
    for number, weight in enumerate((None, 0.0, 1.0, 2.5)):
        config = json.loads(json.dumps(base))
        if weight is None:
            config["vmp"] = {"kind": "none", "lambda": 0.0, "placement": "default", "split": "plus_one"}
        else:
            config["vmp"]["lambda"] = weight
        changes = {}
        if weight == 2.5:
            gone = {"expected": 34, "present": 30, "missing": 3, "unreadable": 1}
            changes = {"clips": {"train": gone, "val": gone}}
        name = f"manifest/tiny/{'none' if weight is None else f'learned_lambda{weight:g}'}/seed0"
        results[name] = write_run(out / name, config, seed=number, **changes)
    config = json.loads(json.dumps(base)) | {"name": "gym99", "seed": 3, "tag": "a-b"}
    config["backbone"]["name"] = "timesformer"
    many = [f"({i % 4}) leap forward with leg change, variant {i}" for i in range(99)]
    name = "gym99/timesformer/learned_lambda1/seed3-a-b"
    results[name] = write_run(out / name, config, classes=many, count=990, seed=9)
    config = json.loads(json.dumps(base)) | {"tag": EVIL}
    config["vmp"]["lambda"] = 20.0
    write_run(out / "manifest/tiny/learned_lambda20/seed0", config, finished=False)
    inside = out / "manifest/tiny/learned_lambda20/seed0/wandb/run-1/files"  # not a run
    inside.mkdir(parents=True)
    (inside / "config.yaml").write_text("wandb_version: 1\n")
    return results


def write_tables(folder: Path) -> None:
    (folder / "mini").mkdir(parents=True)
    columns = (
        "row,column,paper,ours,seeds,by_seed,difference,gain,paper_gain,clips,clips_expected,commit,runs"
    )
    run = folder.parent / "outputs/manifest/tiny/learned_lambda1/seed0/evaluations/val"
    rows = [
        columns.split(","),
        [
            "TimeSformer",
            "FineGym, top-1",
            83.6,
            71.2,
            2,
            "0:70.1 1:72.4",
            -12.4,
            "",
            "",
            300,
            300,
            "0123",
            "",
        ],
        ["TimeSformer", f"MPII {EVIL}", 40.1, "not run", *[""] * 9],
        ["+ VMP", "FineGym, top-1", 84.1, 85.2, 1, "0:85.2", 1.1, 14.0, 0.5, 299, 300, "0123 4567", run],
    ]
    for path in (folder / "table1.csv", folder / "mini" / "table1.csv"):
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows(rows)
    (folder / "mini" / "table1.md").write_text(f"# Table 1: accuracies {EVIL}\n\nA note.\n\n| a |\n")
    (folder / "mini" / "table10.csv").write_text("nothing,useful\n1,2\n")


class Read(HTMLParser):
    """The parsed page: tags in order, JSON of #data, text of the rows of #runs-table. Checks the nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.stack: list[str] = []
        self.rows: list[list[tuple[str, str | None]]] = []
        self.links: list[str] = []
        self.data = ""
        self.text = ""
        self.feed(text)
        assert not self.stack, self.stack

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.links += [values[key] for key in ("src", "href") if values.get(key)]
        assert not any(key.startswith("on") for key in values)
        if tag in ("meta", "br", "input", "link", "img"):
            return
        self.stack.append(tag + ("#data" if values.get("id") == "data" else ""))
        if "runs-table" in (values.get("id") or ""):
            self.stack[-1] = "table#runs"
        if "table#runs" in self.stack:
            if tag == "tr":
                self.rows.append([])
            if tag in ("td", "th"):
                self.rows[-1].append(("", values.get("data-value")))

    def handle_endtag(self, tag):
        assert self.stack.pop().partition("#")[0] == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] == "script#data":
            self.data += data
        elif not self.stack or self.stack[-1] not in ("script", "style"):
            self.text += data
        if "table#runs" in self.stack and {"td", "th"} & set(self.stack):
            text, value = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, value)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of everything, results by run, the page, the parsed page)."""
    home = tmp_path_factory.mktemp("report")
    data = bright_or_dark(home / "data", train=4, val=30)
    results = write_outputs(home / "outputs", data)
    write_tables(home / "tables")
    page = home / "report.html"
    written = write_report([home / "outputs"], out=page, tables=[home / "tables"], clips=2)
    assert (written.runs, written.finished, written.tables) == (6, 5, 3)
    return home, results, page, Read(page.read_text(encoding="utf-8"))


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


def test_numbers_are_those_of_the_folders(made):
    home, results, page, read = made
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


def test_tables_show_ours_and_the_papers_numbers(made):
    text = made[3].text
    assert text.count("71.2 [70.1–72.4]paper 83.6 −12.4") == 2
    assert text.count("299 of 300 clips 85.2 ↑14.0paper 84.1 ↑0.5 +1.1") == 2
    assert text.count("not runpaper 40.1") == 2
    assert text.count("commit 0123, 4567.") == 2
    assert f"Table 1: accuracies {EVIL.strip()} miniature" in text
    assert "A note." in text
    assert "table10.csv cannot be read as a table" in text
    number = next(
        r["number"] for r in json.loads(made[3].data)["runs"] if r["lambda"] == 1 and r["seed"] == "0"
    )
    assert made[3].links.count(f"#run-{number}") == 3  # two cells and the list of runs


def test_missing_results_clips_and_pictures_are_shown(made):
    text = made[3].text
    assert "unfinished: epoch 3 of 6" in text
    assert "clips missing" in text
    assert "val: 30 of 34 clips" in made[2].read_text(encoding="utf-8")
    one = next(r for r in json.loads(made[3].data)["runs"] if r["problem"])
    assert one["top1"] is None
    assert one["worst"] is None
    gym = next(r for r in json.loads(made[3].data)["runs"] if r["dataset"] == "gym99")
    assert "No pictures" in gym["worst_note"]


def test_data_is_never_parsed_as_html(made):
    _, _, page, read = made
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


def test_the_worst_clips_are_wrong_with_the_highest_scores(made):
    home, results, _, read = made
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


def test_the_same_inputs_give_the_same_bytes(made, tmp_path):
    home, _, page, _ = made
    write_report([home / "outputs"], out=tmp_path / "again.html", tables=[home / "tables"], clips=2)
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_the_page_never_exceeds_its_limit(made, tmp_path):
    home, *_ = made
    whole = write_report([home / "outputs"], out=tmp_path / "whole.html", clips=0).bytes
    limit = whole + 15_000
    written = write_report([home / "outputs"], out=tmp_path / "small.html", clips=20, limit=limit)
    assert written.bytes <= limit
    assert 0 < written.pictures < 40
    assert "to keep the page small" in (tmp_path / "small.html").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="do not fit"):
        write_report([home / "outputs"], out=tmp_path / "none.html", clips=0, limit=1000)
    assert not (tmp_path / "none.html").exists()


def test_missing_videos_leave_out_pictures(made, tmp_path):
    home, *_ = made
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
def test_a_damaged_file_affects_its_own_run_only(tmp_path, base_config, file, text):
    write_run(tmp_path / "out" / "good", base_config, seed=1)
    write_run(tmp_path / "out" / "bad", base_config, seed=2)
    (tmp_path / "out" / "bad" / file).write_text(text)
    written = write_report([tmp_path / "out"], out=tmp_path / "r.html", clips=1)
    assert written.runs == 2
    Read((tmp_path / "r.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def base_config(tmp_path_factory):
    return raw(*overrides_for(Path("nowhere"), Path("out")))


def test_a_folder_without_runs_is_one_error_message(tmp_path):
    script = ROOT / "scripts" / "report.py"
    for folder in (tmp_path, tmp_path / "nowhere"):
        done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {folder}: no ")
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_runs_come_first_and_shipped_tables_only_on_request(made, tmp_path, script):
    home, *_ = made
    out = home / "outputs"
    text = made[2].read_text(encoding="utf-8")
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
    try:
        _, said, _ = script("report", out, "--out", page, "--clips", 0)
    finally:
        shutil.rmtree(out / "results")
    assert "6 runs, 2 tables" in said  # the user's


def test_the_command(made, tmp_path, script):
    out = tmp_path / "page.html"
    code, said, _ = script("report", made[0] / "outputs", "--out", out, "--clips", 0, "--tables")
    assert (code, out.is_file()) == (0, True)
    assert "5 finished of 6 runs, 0 tables, 0 pictures" in said


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    path = find_browser()
    if not path:
        pytest.skip("no browser here: apt-get install chromium")
    one = Browser(path)
    yield one
    one.close()


def choose(browser: Browser, select: str, text: str) -> None:
    """Choose the first option that contains the text."""
    browser.evaluate(
        f"(() => {{ const s = document.getElementById({select!r});"
        f" s.value = [...s.options].find((o) => o.text.includes({text!r})).value;"
        " s.dispatchEvent(new Event('change')) })()"
    )


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_opens_without_errors_and_fits_the_window(made, browser, width, scheme):
    browser.open(made[2], width=width, scheme=scheme)
    browser.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert browser.evaluate("[document.documentElement.scrollWidth <= innerWidth, innerWidth]") == [
        True,
        width,
    ]
    over = browser.evaluate(
        "[...document.querySelectorAll('body *')].filter((e) => !e.closest('.scroll, pre, .unseen, .skip, select')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert over == []
    bright = browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (bright > 200) == (scheme == "light")
    assert browser.evaluate("document.querySelectorAll('#charts svg').length") == 4
    assert browser.evaluate(
        "[...document.images].every((i) => i.naturalWidth > 0) && document.images.length > 0"
    )
    assert browser.problems == []


@pytest.mark.slow
def test_the_colour_switch(made, browser):
    browser.open(made[2], scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = browser.evaluate(background)
    browser.evaluate("document.querySelector('#theme [value=dark]').click()")
    assert browser.evaluate(background) != light
    browser.evaluate("document.querySelector('#theme [value=auto]').click()")
    assert browser.evaluate(background) == light
    assert browser.problems == []


@pytest.mark.slow
def test_the_lambda_switch_changes_the_curves(made, browser):
    browser.open(made[2])
    choose(browser, "curves-dataset", "manifest")
    lines = "[...document.querySelectorAll('[data-what=slope] [data-line]')].map((g) => g.dataset.line)"
    assert browser.evaluate("[...document.querySelectorAll('#lambdas input')].map((i) => i.value)") == [
        *("0", "1", "2.5", "20"),
        "none",
    ]
    before = browser.evaluate(lines)
    assert {"0", "1", "2.5"} <= set(before)
    browser.evaluate("document.querySelector('#lambdas input[value=\"2.5\"]').click()")
    after = browser.evaluate(lines)
    assert set(before) - set(after) == {"2.5"}
    browser.evaluate("document.querySelector('[data-what=slope] svg').focus()")
    browser.key("ArrowRight")
    first = browser.evaluate("document.querySelector('[data-what=slope] .readout').textContent")
    browser.key("ArrowRight")
    second = browser.evaluate("document.querySelector('[data-what=slope] .readout').textContent")
    assert first.startswith("epoch 1: ")
    assert second.startswith("epoch 2: ")
    assert browser.problems == []


@pytest.mark.slow
def test_sorting_and_filtering(made, browser):
    browser.open(made[2])
    column = "[...document.querySelectorAll('#runs-table tbody tr:not([hidden])')].map((r) => r.cells[6].dataset.value)"
    head = "document.querySelectorAll('#runs-table th button')[6]"
    for direction in (-1, 1):
        browser.evaluate(f"{head}.click()")
        values = browser.evaluate(column)
        assert values[-1] == ""  # the unfinished run
        numbers = [float(v) for v in values[:-1]]
        assert numbers == sorted(numbers, reverse=direction < 0)
    browser.evaluate(
        "(i => { i.value = 'gym99'; i.dispatchEvent(new Event('input', {bubbles: true})) })"
        "(document.querySelector('#runs-filter [name=words]'))"
    )
    assert len(browser.evaluate(column)) == 1
    assert browser.evaluate("document.getElementById('runs-count').textContent") == "1 of 6 runs"
    assert browser.problems == []


@pytest.mark.slow
def test_class_names_are_text_and_cells_show_their_counts(made, browser):
    browser.open(made[2])
    choose(browser, "confusion-run", "manifest")
    assert "<script>alert('x')</script>" in browser.evaluate(
        "document.getElementById('confusion-body').textContent"
    )
    browser.evaluate("document.querySelector('#confusion svg').scrollIntoView({behavior: 'instant'})")
    box = browser.evaluate("document.querySelector('#confusion .cell').getBoundingClientRect().toJSON()")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    browser.point(x, y)
    assert "of brighter taken for brighter" in browser.evaluate(
        "document.querySelector('#confusion .readout').textContent"
    )
    choose(browser, "confusion-run", "gym99")
    assert browser.evaluate("document.querySelectorAll('#confusion .cell').length") > 99
    assert browser.problems == []


@pytest.mark.slow
def test_thousands_of_classes_share_cells(tmp_path, base_config, browser):
    names = [f"class {c}" for c in range(1000)]
    write_run(tmp_path / "out" / "a", base_config, classes=names, count=2000)
    write_report([tmp_path / "out"], out=tmp_path / "r.html", clips=0)
    browser.open(tmp_path / "r.html")
    said = browser.evaluate("document.getElementById('confusion-body').textContent")
    assert "4 classes per cell" in said
    width = browser.evaluate("document.querySelector('#confusion svg').getAttribute('width')")
    assert float(width) < 2000
    assert browser.evaluate("document.querySelectorAll('#confusion .cell').length") >= 250  # the diagonal
    assert browser.problems == []


# elements with text whose contrast to their background is below 4.5 to 1 (WCAG 2, AA)
CONTRAST = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  function rgba(color) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  }
  function luminance(color) {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgba(color).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }
  const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  const low = new Set();
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest("svg, script, style, option") || !own(e) || !e.getClientRects().length) continue;
    let under = e;
    while (under !== document.body && !rgba(getComputedStyle(under).backgroundColor)[3]) under = under.parentElement;
    const p = luminance(getComputedStyle(e).color) + 0.05;
    const q = luminance(getComputedStyle(under).backgroundColor) + 0.05;
    if (Math.max(p, q) / Math.min(p, q) < 4.5) low.add(e.tagName + "." + e.className);
  }
  return [...low];
})()
"""


@pytest.mark.slow
def test_in_print_the_page_is_light_and_complete(made, browser):
    browser.open(made[2], scheme="dark")
    browser.evaluate("document.querySelector('#theme [value=dark]').click()")
    browser.send("Emulation.setEmulatedMedia", media="print")
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert browser.evaluate(ground) > 200
    assert browser.evaluate("getComputedStyle(document.querySelector('.controls')).display") == "none"
    hidden = (
        "[...document.querySelectorAll('.tall')].filter((e) => e.scrollHeight > e.clientHeight + 2).length"
    )
    assert browser.evaluate(hidden) == 0
    browser.send("Emulation.setEmulatedMedia", media="")
    browser.evaluate("document.querySelector('#theme [value=auto]').click()")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_aa(made, browser, scheme):
    browser.open(made[2], scheme=scheme)
    browser.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert browser.evaluate(CONTRAST) == []
