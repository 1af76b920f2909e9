"""TensorBoard: event files in the run's folder, under tensorboard/."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.config import Config
from vmp.tracking.report import Report, Row, confusions, describe

if TYPE_CHECKING:
    import numpy as np


class TensorBoard:
    """Everything goes against the step. A sitting writes a file of its own, which takes back what earlier ones have
    from its first step on."""

    name = "tensorboard"

    def __init__(self, config: Config, folder: Path, *, say: Callable[[str], None]) -> None:
        import torch.utils.tensorboard  # noqa: F401  # fails here, where it is said, if it does

        self.config, self.folder, self.where = config, folder, folder / "tensorboard"
        self._writer: Any = None
        say(f"tensorboard: tensorboard --logdir '{self.where}'")

    def begin(self, rows: list[Row], new: int) -> int:
        from omegaconf import OmegaConf
        from torch.utils.tensorboard import SummaryWriter

        before = any(self.where.glob("events.out.tfevents.*"))
        from_step = 0
        if before and rows:
            from_step = rows[new]["step"] if new < len(rows) else rows[-1]["step"] + 1
        self._writer = SummaryWriter(str(self.where), purge_step=from_step if before else None)
        if not before:
            text = OmegaConf.to_yaml(OmegaConf.create(describe(self.config, self.folder)))
            self._writer.add_text("config", "    " + text.replace("\n", "\n    "))
        return next((number for number, row in enumerate(rows) if row["step"] >= from_step), len(rows))

    def row(self, number: int, row: Row) -> None:
        values = {key: value for key, value in row.items() if "/" in key}
        if "train/variation" in row:
            values.setdefault("vmp/variation", row["train/variation"])
        for key, value in values.items():
            self._writer.add_scalar(key, value, global_step=row["step"])
        if row["kind"] == "val":
            self._writer.add_scalar("epoch", row["epoch"], global_step=row["step"])
        self._writer.flush()  # a process that is killed takes nothing along

    def panels(self, number: int, epoch: int, step: int, pictures: "Mapping[str, np.ndarray]") -> None:
        for caption, picture in pictures.items():
            name = caption.partition(":")[0]
            self._writer.add_image(f"attention/{name}", picture, global_step=step, dataformats="HWC")
        self._writer.flush()

    def result(self, number: int, report: Report) -> None:
        from vmp.figures.panels import confusion_picture

        for key, value in report.numbers.items():
            self._writer.add_scalar(f"result/{key}", value, global_step=report.step)
        lines = ["| class | name | clips | right | accuracy (%) |", "|--:|---|--:|--:|--:|"]
        lines += [
            f"| {number} | {name} | {clips} | {right} | {'-' if accuracy is None else f'{accuracy:.2f}'} |"
            for number, name, clips, right, accuracy in report.per_class
        ]
        self._writer.add_text("result/per_class", "\n".join(lines), global_step=report.step)
        picture = confusion_picture(confusions(report), report.classes, title=f"confusion, {report.split}")
        self._writer.add_image("result/confusion", picture, global_step=report.step, dataformats="HWC")
        self._writer.flush()

    def finish(self, code: int) -> None:
        if self._writer:
            self._writer.close()

    def abandon(self) -> None:
        self.finish(1)
