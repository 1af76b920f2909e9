"""Test a finished run: python evaluate.py run=outputs/motions-static/tiny/none/seed0 split=test views=10x3"""

from vmp.cli import arguments, friendly  # first: it sets how Hydra reports errors

with friendly():
    import hydra
    from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from vmp.evaluate import evaluate

    with friendly("evaluate"):  # inside too: Hydra would say that the job failed, and our message says why
        evaluate(cfg)


if __name__ == "__main__":
    with friendly("evaluate"):
        arguments("evaluate")
        main()
