"""TensorBoard: event files in the run's folder, under tensorboard/."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.config import Config
from vmp.overrides import for_shell
from vmp.runs.rows import Row
from vmp.tracking.summary import RunSummary, describe_run

if TYPE_CHECKING:
    import numpy as np


class TensorBoard:
    """Logs everything against the step. Each session writes its own file, which supersedes what the files of earlier
    sessions hold from its first step on."""

    name = "tensorboard"

    def __init__(self, config: Config, folder: Path, *, log: Callable[[str], None]) -> None:
        import torch.utils.tensorboard  # noqa: F401  # so that a failure shows now, not at the first row

        self.config, self.folder, self.where = config, folder, folder / "tensorboard"
        self._writer: Any = None
        log(f"tensorboard: tensorboard --logdir {for_shell(str(self.where))}")

    def begin(self, rows: Sequence[Row], new: int) -> int:
        from omegaconf import OmegaConf
        from torch.utils.tensorboard import SummaryWriter

        continued = any(self.where.glob("events.out.tfevents.*"))
        from_step = 0
        if continued and rows:
            from_step = rows[new]["step"] if new < len(rows) else rows[-1]["step"] + 1
        self._writer = SummaryWriter(str(self.where), purge_step=from_step if continued else None)
        if not continued:
            text = OmegaConf.to_yaml(OmegaConf.create(describe_run(self.config, self.folder)))
            self._writer.add_text("config", "    " + text.replace("\n", "\n    "))
        return bisect_left(rows, from_step, key=lambda row: row["step"])

    def log_row(self, number: int, row: Row) -> None:
        values = {key: value for key, value in row.items() if "/" in key}
        if "train/variation" in row:
            values.setdefault("vmp/variation", row["train/variation"])
        for key, value in values.items():
            self._writer.add_scalar(key, value, global_step=row["step"])
        if row["kind"] == "val":
            self._writer.add_scalar("epoch", row["epoch"], global_step=row["step"])
        self._writer.flush()  # so that a kill loses nothing

    def log_panels(self, number: int, epoch: int, step: int, pictures: "Mapping[str, np.ndarray]") -> None:
        for caption, picture in pictures.items():
            name = caption.partition(":")[0]
            self._writer.add_image(f"attention/{name}", picture, global_step=step, dataformats="HWC")
        self._writer.flush()

    def log_result(self, number: int, summary: RunSummary) -> None:
        step = summary.step
        for key, value in summary.numbers.items():
            self._writer.add_scalar(f"result/{key}", value, global_step=step)
        lines = ["| class | name | clips | right | accuracy (%) |", "|--:|---|--:|--:|--:|"]
        lines += [
            f"| {number} | {name} | {clips} | {right} | {'-' if accuracy is None else f'{accuracy:.2f}'} |"
            for number, name, clips, right, accuracy in summary.per_class
        ]
        self._writer.add_text("result/per_class", "\n".join(lines), global_step=step)
        picture = summary.draw_confusion()
        self._writer.add_image("result/confusion", picture, global_step=step, dataformats="HWC")
        self._writer.flush()

    def finish(self, code: int) -> None:
        if self._writer:
            self._writer.close()

    def abandon(self) -> None:
        self.finish(1)
