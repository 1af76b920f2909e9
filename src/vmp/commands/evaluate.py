"""Test a finished run: vmp evaluate run=outputs/motions-static/tiny/none/seed0 split=test views=10x3

The same as `python evaluate.py` of a checkout.
"""

from pathlib import Path

from vmp.cli import arguments, friendly  # first: it sets how Hydra reports errors

with friendly():
    import hydra
    from omegaconf import DictConfig

    from vmp.compose import CONF


def evaluate(cfg: DictConfig) -> None:
    from vmp.evaluate import evaluate

    with friendly("evaluate"):  # inside too: Hydra would say that the job failed, and our message says why
        evaluate(cfg)


def main(conf: Path = CONF) -> None:
    with friendly("evaluate"):
        arguments("evaluate")
        hydra.main(version_base="1.3", config_path=str(conf.absolute()), config_name="evaluate")(evaluate)()


if __name__ == "__main__":
    main()
