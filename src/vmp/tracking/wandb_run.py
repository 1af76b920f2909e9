"""wandb: the run on its server, or in files that `wandb sync` sends there later.

Notable here:
- wandb's own step (`_step`) is the row's line in metrics.jsonl, so rows of several sittings fit together; charts go
  against `step` and `epoch`, which are logged with every row;
- online with a key and a server that answers in time, otherwise offline: no question is ever asked;
- what is in wandb already is asked of its server, or read from its files; metrics.jsonl has the rest;
- wandb's files are in the run's folder. It prints nothing: what there is to say goes through `say`.
"""

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from vmp.config import Config
from vmp.errors import RunError, UserError
from vmp.files import read_json, write_json
from vmp.runs.folder import RUNTIME
from vmp.runs.records import is_finished, read_metrics
from vmp.tracking.report import (
    Report,
    Row,
    confusions,
    describe,
    first_line,
    group_of,
    name_of,
    read_report,
    tags_of,
)
from vmp.tracking.wandb_files import is_whole, pieces, rows_held

if TYPE_CHECKING:
    import numpy as np

PROJECT = "video-motion-prompts"
MODES = {  # of WANDB_MODE
    **{"online": "online", "run": "online", "shared": "online"},
    **{"offline": "offline", "dryrun": "offline", "disabled": "disabled"},
}
MOST_CLASSES = 100  # in wandb's own confusion matrix, which is a table of classes x classes rows


class Mode(NamedTuple):
    """name: online, offline or disabled. why: of offline, in words; empty where it was asked for."""

    name: str
    why: str = ""


def start_wandb(config: Config, folder: Path, *, say: Callable[[str], None]) -> "WandbRun | None":
    """The run in wandb; None where WANDB_MODE or wandb's settings say `disabled`.

    Raises:
        Exception: whatever wandb raises where it cannot even keep files.
    """
    import wandb

    if not os.environ.get("WANDB_MODE", "set").strip():
        del os.environ["WANDB_MODE"]  # set to nothing, which wandb takes for a wrong mode
    settings = wandb.setup(wandb.Settings(silent=True)).settings
    mode = find_mode(config.logger.mode, settings=settings, say=say)
    if mode.name == "disabled":
        say("wandb: disabled by WANDB_MODE or wandb's settings")
        return None
    run_id = run_id_of(config, folder)
    why = mode.why
    if mode.name == "online":
        try:
            run = open_run(config, folder, run_id=run_id, mode="online")
        except Exception as error:
            why = f"{settings.base_url} gave no run ({first_line(error)})"
            say(f"warning: wandb: {why}")
            wandb.teardown()  # which still holds on to the run's id
        else:
            say(f"wandb: {run.url}")
            return WandbRun(run, folder)
    run = open_run(config, folder, run_id=run_id, mode="offline")
    kept = Path(run.dir).parent
    say(f"wandb: {'offline' if not why else f'{why}, so offline'}; to send it: wandb sync '{kept}'")
    return WandbRun(run, folder)


def find_mode(wanted: str, *, settings: Any, say: Callable[[str], None]) -> Mode:
    """WANDB_MODE wins over logger.mode; `auto` asks wandb's settings (`wandb offline`), then looks for a key."""
    name = os.environ.get("WANDB_MODE", "").lower()
    if name and name not in MODES:
        say(f"warning: wandb: WANDB_MODE={name} is none of {', '.join(MODES)}, and is passed over")
    chosen = MODES.get(name)
    if chosen is None and wanted == "auto":
        chosen = MODES.get(str(settings.mode), "online")
    chosen = chosen or wanted
    if chosen == "online" and not has_key(settings):
        return Mode("offline", f"no API key for {settings.base_url} (wandb login keeps one)")
    return Mode(chosen)


def has_key(settings: Any) -> bool:
    """Whether the environment, wandb's settings or netrc have a key for the server."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    if settings.api_key or settings.identity_token_file:
        return True
    named = os.environ.get("NETRC")
    places = [Path(named)] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]
    host = urlsplit(settings.base_url).hostname or ""
    for path in places:
        try:
            found = netrc(str(path.expanduser())).hosts.get(host)
        except (OSError, NetrcParseError, UnicodeDecodeError):
            continue
        if found and found[2]:
            return True
    return False


def run_id_of(config: Config, folder: Path) -> str:
    """The run's id in wandb, made at its first start and kept in wandb.json; another config makes another."""
    kept = folder / "wandb.json"
    shown = config.model_dump(mode="json", by_alias=True)
    hidden: Any
    for section, hidden in RUNTIME.items():  # what may change while a run goes on
        if hidden is ...:
            shown.pop(section, None)
        else:
            shown[section] = {key: v for key, v in shown[section].items() if key not in hidden}
    digest = _digest(json.dumps(shown, sort_keys=True))
    try:
        before = read_json(kept)
        if before["config"] == digest:
            return str(before["id"])
    except (RunError, KeyError, TypeError):
        pass
    # the time too: a run that is moved away and made again is another one
    run_id = _digest(f"{platform.node()} {folder.resolve()} {digest} {time.time_ns()}")
    write_json(kept, {"id": run_id, "config": digest})
    return run_id


def rebuild(config: Config, folder: Path, *, offline: bool) -> str:
    """One whole run in wandb from the folder's files, under an id of its own that stays the same; its address.

    On the server, a second time adds what is missing; offline, it takes the place of the first.

    Raises:
        UserError: there is no API key.
        Exception: whatever wandb raises.
    """
    import wandb

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    if not offline and not has_key(settings):
        raise UserError(
            f"no API key for {settings.base_url}: run `wandb login` first, or take --offline and send it later"
        )
    run_id = _digest(f"rebuilt {run_id_of(config, folder)}")
    if offline:
        for piece in pieces(folder, run_id):
            shutil.rmtree(piece.parent)
    run = open_run(config, folder, run_id=run_id, mode="offline" if offline else "online", patient=True)
    where = (
        f"{Path(run.dir).parent} (to send it: wandb sync '{Path(run.dir).parent}')" if offline else run.url
    )
    backend, rows = WandbRun(run, folder), read_metrics(folder)
    for number in range(int(run.starting_step), len(rows)):
        backend.row(number, rows[number])
    if is_finished(folder):
        backend.result(len(rows), read_report(folder))
    backend.finish(0)
    return str(where)


def open_run(config: Config, folder: Path, *, run_id: str, mode: str, patient: bool = False) -> Any:
    """A wandb run with its settings, config, group, tags and axes.

    patient: take as long as wandb does to send everything.
    """
    import wandb

    options = config.logger
    wanted: dict[str, Any] = {
        "mode": mode,
        "init_timeout": options.init_timeout,
        "finish_timeout": 0 if patient else options.finish_timeout,
        "console": "off",
        "silent": True,
        "reinit": "create_new",
        "disable_code": True,
        "disable_git": True,  # the commit is in the config
    }
    known = wandb.Settings.model_fields
    run = wandb.init(
        project=options.project or os.environ.get("WANDB_PROJECT") or PROJECT,
        entity=options.entity,
        group=options.group or os.environ.get("WANDB_RUN_GROUP") or group_of(config),
        job_type=options.job_type,
        tags=tags_of(config),
        name=name_of(config),
        id=run_id,
        resume="allow",
        dir=str(folder),
        config=describe(config, folder),
        settings=wandb.Settings(**{key: value for key, value in wanted.items() if key in known}),
    )
    run.define_metric("step", hidden=True)
    run.define_metric("epoch", hidden=True)
    for name in ("train/*", "vmp/*"):
        run.define_metric(name, step_metric="step")
    run.define_metric("val/*", step_metric="epoch")
    run.define_metric("val/top1", step_metric="epoch", summary="max")
    return run


class WandbRun:
    name = "wandb"

    def __init__(self, run: Any, folder: Path) -> None:
        self.run, self.folder = run, folder

    def begin(self, rows: list[Row], new: int) -> int:
        if self.run.offline:
            return rows_held(self.folder, self.run.id)
        return int(self.run.starting_step)  # run.step is 0 until something is logged

    def row(self, number: int, row: Row) -> None:
        values = {key: value for key, value in row.items() if key != "kind"}
        if "train/variation" in row:
            values.setdefault("vmp/variation", row["train/variation"])
        self.run.log(values, step=number)

    def panels(self, number: int, epoch: int, step: int, pictures: "Mapping[str, np.ndarray]") -> None:
        import wandb

        images = [wandb.Image(picture, caption=caption) for caption, picture in pictures.items()]
        self.run.log({"attention": images, "epoch": epoch, "step": step}, step=number)

    def result(self, number: int, report: Report) -> None:
        import wandb

        from vmp.figures.panels import confusion_picture

        columns: list[str | int] = ["class", "name", "clips", "right", "accuracy"]
        picture = confusion_picture(confusions(report), report.classes, title=f"confusion, {report.split}")
        logged: dict[str, Any] = {
            "result/per_class": wandb.Table(columns=columns, data=[list(row) for row in report.per_class]),
            "result/confusion_picture": wandb.Image(picture),
        }
        if report.labels and len(report.classes) <= MOST_CLASSES:
            logged["result/confusion"] = wandb.plot.confusion_matrix(
                y_true=report.labels,
                preds=report.predicted,
                class_names=[f"{number} {name}" for number, name in enumerate(report.classes)],
                title=f"confusion, {report.split}",
            )
        self.run.log({**logged, "epoch": report.epoch, "step": report.step}, step=number)
        numbers = {f"result/{key}": value for key, value in report.numbers.items()}
        self.run.summary.update({**numbers, "result/split": report.split, "result/epoch": report.epoch})

    def finish(self, code: int) -> None:
        self.run.finish(exit_code=code)
        file = Path(self.run.dir).parent / f"run-{self.run.id}.wandb"
        until = time.monotonic() + 5
        while not is_whole(file) and time.monotonic() < until:
            time.sleep(0.02)  # finish() returns before wandb's process has written it all

    def abandon(self) -> None:
        import wandb

        try:
            self.run.finish(exit_code=1)  # what was logged before the failure
        finally:
            wandb.teardown()  # else its exit hook prints a traceback where its process is gone


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
