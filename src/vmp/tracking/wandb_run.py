"""wandb: the run on wandb's server, or in files that `wandb sync` sends there later.

Notes:
- wandb's own step (`_step`) is the row's line in metrics.jsonl, so that rows of several sessions fit together; charts
  use `step` and `epoch`, which are logged with every row, as their axes;
- the run is online if there is a key and the server answers in time, otherwise offline; nobody is ever asked anything;
- the server, or wandb's files, tell which rows wandb has already; metrics.jsonl has the rest;
- wandb's files are in the run's folder. wandb itself prints nothing; messages go through `log`.
"""

import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from vmp.config import Config
from vmp.errors import RunError, UserError
from vmp.files import read_json, write_json
from vmp.overrides import for_shell
from vmp.runs.folder import what_matters
from vmp.runs.records import is_finished, read_metrics
from vmp.runs.rows import Row
from vmp.tracking.summary import (
    RunSummary,
    describe_run,
    format_error,
    group_of,
    method_of,
    read_summary,
    start_weights_of,
)
from vmp.tracking.wandb_files import is_whole, rows_held, session_files

if TYPE_CHECKING:
    import numpy as np

PROJECT = "video-motion-prompts"
MODES = {  # value of WANDB_MODE -> mode
    **dict.fromkeys(("online", "run", "shared"), "online"),
    **dict.fromkeys(("offline", "dryrun"), "offline"),
    "disabled": "disabled",
}
MOST_CLASSES = 100  # of wandb's own confusion matrix, a table with classes x classes rows


class Mode(NamedTuple):
    """name: online, offline or disabled. why: the reason for offline in words; empty if it was chosen."""

    name: str
    why: str = ""


def start_wandb(config: Config, folder: Path, *, log: Callable[[str], None]) -> "WandbRun | None":
    """The run in wandb; None if WANDB_MODE or wandb's settings say `disabled`.

    Raises:
        Exception: from wandb, if it cannot even keep files.
    """
    import wandb

    if not os.environ.get("WANDB_MODE", "set").strip():
        del os.environ["WANDB_MODE"]  # wandb takes an empty value for a wrong mode
    settings = wandb.setup(wandb.Settings(silent=True)).settings
    mode = find_mode(config.logger.mode, settings=settings, log=log)
    if mode.name == "disabled":
        log("wandb: disabled by WANDB_MODE or wandb's settings")
        return None
    run_id = run_id_of(config, folder, log=log)
    why = mode.why
    if mode.name == "online":
        try:
            run = init_wandb(config, folder, run_id=run_id, mode="online")
        except Exception as error:
            why = f"{settings.base_url} gave no run ({format_error(error)})"
            log(f"warning: wandb: {why}")
            wandb.teardown()  # releases the run's id
        else:
            log(f"wandb: {run.url}")
            return WandbRun(run, folder)
    run = init_wandb(config, folder, run_id=run_id, mode="offline")
    kept = Path(run.dir).parent
    log(
        f"wandb: {'offline' if not why else f'{why}, so offline'}; to send it: wandb sync {for_shell(str(kept))}"
    )
    return WandbRun(run, folder)


def find_mode(wanted: str, *, settings: Any, log: Callable[[str], None]) -> Mode:
    """WANDB_MODE overrides logger.mode; `auto` follows wandb's settings (`wandb offline`), then looks for a key."""
    name = os.environ.get("WANDB_MODE", "").lower()
    if name and name not in MODES:
        log(f"warning: wandb: WANDB_MODE={name} is ignored: it is none of {', '.join(MODES)}")
    chosen = MODES.get(name)
    if chosen is None and wanted == "auto":
        chosen = MODES.get(str(settings.mode), "online")
    chosen = chosen or wanted
    if chosen == "online" and not has_key(settings):
        return Mode("offline", f"no API key for {settings.base_url} (wandb login keeps one)")
    return Mode(chosen)


def has_key(settings: Any) -> bool:
    """Whether the environment, wandb's settings or a netrc file has a key for the server."""
    variables = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    if settings.api_key or settings.identity_token_file or any(os.environ.get(name) for name in variables):
        return True
    named = os.environ.get("NETRC")
    host = urlsplit(settings.base_url).hostname or ""
    for path in [named] if named else ["~/.netrc", "~/_netrc"]:
        with suppress(OSError, NetrcParseError, UnicodeDecodeError):
            found = netrc(os.path.expanduser(path)).hosts.get(host)
            if found and found[2]:
                return True
    return False


def run_id_of(config: Config, folder: Path, *, log: Callable[[str], None]) -> str:
    """The run's id in wandb, made at its first start and kept in wandb.json. Another config gets another id.

    wandb.json also has the run's folder. A run that is found elsewhere was moved and keeps its id, unless that folder
    still has the id: then this one is a copy and gets another id.
    """
    kept, here = folder / "wandb.json", folder.resolve()
    lasting = what_matters(config.model_dump(mode="json", by_alias=True))  # the same in every session
    digest = _digest(json.dumps(lasting, sort_keys=True))
    before, run_id, original = None, "", here
    with suppress(RunError, KeyError, TypeError):
        before = read_json(kept)
        run_id = str(before["id"]) if before["config"] == digest else ""
        original = Path(before.get("folder", here))
    if run_id and _has_run(original, run_id) and not original.samefile(folder):
        log(
            f"wandb: {folder} is a copy of {original}, whose wandb run goes on there; the copy begins one of its own"
        )
        run_id = ""
    # with the time, so that a run that is moved away and made again is another one
    run_id = run_id or _digest(f"{platform.node()} {here} {digest} {time.time_ns()}")
    if before != (entry := {"id": run_id, "config": digest, "folder": str(here)}):
        write_json(kept, entry)
    return run_id


def _has_run(folder: Path, run_id: str) -> bool:
    """Whether a folder is there whose run has this id in wandb."""
    try:
        return bool(read_json(folder / "wandb.json")["id"] == run_id)
    except (RunError, KeyError, TypeError):
        return False


def rebuild(config: Config, folder: Path, *, offline: bool) -> str:
    """Build one complete run in wandb from the folder's files, under an id of its own; returns its address.

    The id stays the same, so calling this again adds what the server lacks or, offline, replaces the earlier files.

    Raises:
        RunError: a file of the run is damaged; nothing is sent. UserError: there is no API key.
        Exception: from wandb.
    """
    import wandb

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    if not offline and not has_key(settings):
        raise UserError(
            f"no API key for {settings.base_url}: run `wandb login` first, or use --offline and send it later"
        )
    rows, summary = read_metrics(folder), read_summary(folder) if is_finished(folder) else None
    for _ in rows:  # a damaged one shows before anything is sent
        pass
    run_id = _digest(f"rebuilt {run_id_of(config, folder, log=_print_error)}")
    if offline:
        for piece in session_files(folder, run_id):
            shutil.rmtree(piece.parent)
    run = init_wandb(config, folder, run_id=run_id, mode="offline" if offline else "online", patient=True)
    kept = Path(run.dir).parent
    where = f"{kept} (to send it: wandb sync {for_shell(str(kept))})" if offline else str(run.url)
    backend = WandbRun(run, folder)
    for number in range(int(run.starting_step), len(rows)):
        backend.log_row(number, rows[number])
    if summary:
        backend.log_result(len(rows), summary)
    backend.finish(0)
    return where


def init_wandb(config: Config, folder: Path, *, run_id: str, mode: str, patient: bool = False) -> Any:
    """Start a wandb run with its settings, config, group, tags and axes. patient: at the end, wait without a limit
    until everything is sent."""
    import wandb

    options = config.logger
    tags = [config.name, config.backbone.key, config.placement, f"weights-{start_weights_of(config)}"]
    tags += [f"vmp-{method_of(config)}", *options.tags]
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
    settings = {key: value for key, value in wanted.items() if key in wandb.Settings.model_fields}
    run = wandb.init(
        project=options.project or os.environ.get("WANDB_PROJECT") or PROJECT,
        entity=options.entity,
        group=options.group or os.environ.get("WANDB_RUN_GROUP") or group_of(config),
        job_type=options.job_type,
        tags=list(dict.fromkeys(tag[:64] for tag in tags if tag)),
        name=" ".join(config.folder.parts[-2:]),
        id=run_id,
        resume="allow",
        dir=str(folder),
        config=describe_run(config, folder),
        settings=wandb.Settings(**settings),
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

    def begin(self, rows: Sequence[Row], new: int) -> int:
        if self.run.offline:
            return rows_held(self.folder, self.run.id)
        return int(self.run.starting_step)  # run.step is 0 until something is logged

    def log_row(self, number: int, row: Row) -> None:
        values = {key: value for key, value in row.items() if key != "kind"}
        if "train/variation" in row:
            values.setdefault("vmp/variation", row["train/variation"])
        self.run.log(values, step=number)

    def log_panels(self, number: int, epoch: int, step: int, pictures: "Mapping[str, np.ndarray]") -> None:
        import wandb

        images = [wandb.Image(picture, caption=caption) for caption, picture in pictures.items()]
        self.run.log({"attention": images, "epoch": epoch, "step": step}, step=number)

    def log_result(self, number: int, summary: RunSummary) -> None:
        import wandb

        columns: list[str | int] = ["class", "name", "clips", "right", "accuracy"]
        logged: dict[str, Any] = {
            "result/per_class": wandb.Table(columns=columns, data=[list(row) for row in summary.per_class]),
            "result/confusion_picture": wandb.Image(summary.draw_confusion()),
        }
        if summary.labels and len(summary.classes) <= MOST_CLASSES:
            logged["result/confusion"] = wandb.plot.confusion_matrix(
                y_true=summary.labels,
                preds=summary.predicted,
                class_names=[f"{number} {name}" for number, name in enumerate(summary.classes)],
                title=f"confusion, {summary.split}",
            )
        self.run.log({**logged, "epoch": summary.epoch, "step": summary.step}, step=number)
        numbers = {f"result/{key}": value for key, value in summary.numbers.items()}
        self.run.summary.update({**numbers, "result/split": summary.split, "result/epoch": summary.epoch})

    def finish(self, code: int) -> None:
        self.run.finish(exit_code=code)
        file = Path(self.run.dir).parent / f"run-{self.run.id}.wandb"
        until = time.monotonic() + 5
        while not is_whole(file) and time.monotonic() < until:
            time.sleep(0.02)  # finish() returns before wandb's process has written everything

    def abandon(self) -> None:
        import wandb

        try:
            self.run.finish(exit_code=1)  # so that what was logged before the failure is kept
        finally:
            wandb.teardown()  # otherwise its exit hook prints a traceback if its process is gone


def _print_error(line: str) -> None:
    print(line, file=sys.stderr)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
