"""Test a finished run: vmp evaluate run=outputs/motions-static/tiny/none/seed0 split=test views=10x3

Or published weights, with nothing trained: vmp evaluate backbone=x3d weights=k400 list=val.csv root=VIDEOS
The same as `python evaluate.py` of a checkout.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from vmp.cli import arguments, friendly  # first: it sets how Hydra reports errors
from vmp.compose import CONF, composer

with friendly():
    import hydra
    from omegaconf import DictConfig

    from vmp.errors import ConfigError


def evaluate(cfg: DictConfig) -> None:
    from vmp.evaluate import evaluate

    with friendly("evaluate"):  # inside too: Hydra would say that the job failed, and our message says why
        evaluate(cfg)


def published(words: Sequence[str], conf: Path) -> None:
    """evaluate.py's own keys, and the settings of train.py for the weights and the dataset."""
    from vmp.config import Evaluate, check, check_evaluate
    from vmp.evaluate import evaluate_published

    own, settings = [], []
    for word in words:
        key = word.partition("=")[0]
        if key in Evaluate.model_fields:
            own.append(word)
        else:
            settings.append(f"backbone.{word}" if key == "weights" else word)
    if any(word.startswith("run=") for word in own):
        raise ConfigError("name one model: run=FOLDER or backbone=NAME weights=NAME|FILE")
    if not any(word.startswith("vmp=") for word in settings):
        settings.append("vmp=none")
    options = check_evaluate(composer(conf, "evaluate")(["run=published", *own]))
    evaluate_published(check(composer(conf)(settings)), options)


def main(conf: Path = CONF) -> None:
    with friendly("evaluate"):
        if any(word.startswith("backbone=") for word in sys.argv[1:]):
            return published(sys.argv[1:], conf)
        arguments("evaluate")
        hydra.main(version_base="1.3", config_path=str(conf.absolute()), config_name="evaluate")(evaluate)()


if __name__ == "__main__":
    main()
