"""Folders of runs and tables with random numbers, written as train.py leaves them; the page about them, parsed."""

import csv
import functools
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from configs import raw
from omegaconf import OmegaConf
from runs import overrides_for

from vmp.files import write_json
from vmp.runs.records import PREDICTION_COLUMNS

EVIL = "<script>alert('x')</script> \"&amp;' </style>{{data}}\u2028end"
CLASSES = ("brighter", "darker", EVIL)


@functools.cache
def base_config() -> dict[str, Any]:
    """Of a quick run whose clips are not there: copy before changing."""
    return raw(*overrides_for(Path("nowhere"), Path("out")))


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
