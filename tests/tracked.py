"""A tracked run without training: rows as the trainer writes them, what trackers keep of them."""

import json
from pathlib import Path

from configs import raw
from omegaconf import OmegaConf

from vmp.config import check
from vmp.engine.loggers import Metrics
from vmp.tracking import Tracker, start_tracker

KEY = "a" * 40
NOWHERE = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": KEY}


def config_for(out: Path, *overrides: str):
    """A checked config whose run's folder exists."""
    composed = raw(f"output='{out}'", *overrides)
    config = check(composed)
    config.folder.mkdir(parents=True, exist_ok=True)
    (config.folder / "config.yaml").write_text(OmegaConf.to_yaml(composed))
    return config


def rows_until(epochs: int, *, per_epoch: int = 4) -> list[dict]:
    """metrics.jsonl of a run on SlowFast's slow pathway, as far as trackers are concerned."""
    rows = []
    for step in range(1, epochs * per_epoch + 1):
        learned = {"vmp/slow/slope": 20 - step / 3, "vmp/slow/shift": step / 7, "vmp/slow/m": -step / 11}
        losses = {"train/loss": 1 / step, "train/variation": step / 13}
        epoch = round(step / per_epoch, 6)
        rows.append({"kind": "train", "epoch": epoch, "step": step, **losses, **learned})
        if step % per_epoch == 0:
            measured = {"val/top1": 50 + step * 7 % 11 / 3, "val/top5": 99.5}
            rows.append({"kind": "val", "epoch": step // per_epoch, "step": step, **measured, **learned})
    return rows


def run_session(
    config, rows: list[dict], *, keep: int = 0, code: int = 0, said: list[str] | None = None
) -> Tracker:
    """One session of a run: what the trainer does with its rows from `keep` on."""
    tracker = start_tracker(config, config.folder, first=True, log=[].append if said is None else said.append)
    metrics = Metrics(config.folder / "metrics.jsonl", rows=keep, on_row=tracker.log_row)
    for row in rows[keep:]:
        metrics.write(row)
    metrics.close()
    tracker.close(code=code)
    return tracker


def wandb_files(where: Path) -> list[Path]:
    return sorted((where / "wandb").glob("*run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def logged(row: dict) -> dict:
    """What a row of metrics.jsonl becomes in wandb."""
    out = {key: value for key, value in row.items() if key != "kind"}
    return out | ({"vmp/variation": row["train/variation"]} if "train/variation" in row else {})


def plain(row: dict) -> dict:
    return {key: value for key, value in row.items() if key[0] != "_"}


def write_result(where: Path, *, steps: int) -> None:
    """A finished run: three classes, one clip that could not be read."""
    numbers = {"top1": 75.0, "top5": 100.0, "mean_class": 66.7, "top1_lower_bound": 60.0, "variation": 0.01}
    result = {"split": "test", "epoch": 2, "steps": steps, "seconds": 3.5, "best_val_top1": None, **numbers}
    result |= {"scalars": {"slope": 11.04, "shift": -0.59}, "clips": {"test": {"expected": 5, "present": 4}}}
    (where / "result.json").write_text(json.dumps(result))
    (where / "per_class.csv").write_text(
        "class,name,clips,right,accuracy\n0,up,2,2,100.00\n1,down,2,1,50.00\n2,on,0,0,\n"
    )
    (where / "predictions.csv").write_text(
        "id,label,predicted,score,top5,problem\na,0,0,1,0 1 2,\nb,0,0,1,0 1 2,\nc,1,1,1,1 0 2,\nd,1,2,1,2 1 0,\n"
        "e,,,,,missing\n"
    )


def tensorboard_events(where: Path):
    """What TensorBoard reads from a run's folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(
        str(where / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "tensors": 0}
    )
    return found.Reload()
