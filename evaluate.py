"""Test a finished run: python evaluate.py run=outputs/motions-static/tiny/none/seed0 split=test views=[1,1]"""

from vmp.cli import friendly  # first: it sets how Hydra reports errors

with friendly():
    import hydra
    from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from vmp.run import evaluate

    evaluate(cfg)


if __name__ == "__main__":
    with friendly():
        main()
