"""Train, or continue, one run: vmp train dataset=motions backbone=tiny vmp.lambda=2.5

The same as `python train.py` of a checkout. A sweep starts this file once for each of its runs.
"""

from pathlib import Path

from vmp.cli import arguments, friendly  # first: it sets how Hydra reports errors

with friendly():
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from vmp.compose import CONF


def train(cfg: DictConfig) -> None:
    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        from vmp.jobs.sweep import Sweep

        where = Path(job.runtime.output_dir)  # OUTPUT/sweeps/NAME/NUMBER
        return Sweep.read(where.parent).run_one(int(where.name))
    from vmp.train import train

    with friendly():  # inside too: Hydra would say that the job failed, and our message says why
        train(cfg)


def main(conf: Path = CONF) -> None:
    with friendly():
        arguments("train")
        hydra.main(version_base="1.3", config_path=str(conf.absolute()), config_name="train")(train)()


if __name__ == "__main__":
    main()
