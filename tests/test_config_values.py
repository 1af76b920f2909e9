"""Configs with one value changed: accepted as what was typed, or one message that names the key."""

import numpy as np
import pytest
from faults import no_traceback
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from runs import ROOT, Running

from vmp.config import check, parse_views
from vmp.errors import ConfigError
from vmp.explain import explain


@pytest.mark.parametrize(
    "override", ["+_target_=os.system", "+vmp._target_=os.system", "vmp._target_=os.system"]
)
def test_target_is_no_config_key(override):
    with pytest.raises((ConfigError, HydraException, OmegaConfBaseException)) as caught:
        composed(override)
    assert "_target_" in str(caught.value)


def composed(*overrides: str):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return check(OmegaConf.to_container(compose("train", list(overrides)), resolve=True))


@pytest.mark.parametrize(
    "dataset", ["folders dataset.root=.", "list dataset.root=. dataset.train=a dataset.val=b"]
)
def test_a_rate_that_no_manifest_holds_is_refused(dataset):
    words = f"dataset={dataset}".split()
    assert composed(*words, "dataset.fps=999999.9").dataset.fps == 999999.9
    for rate in ("1e6", "1e7", "0", "inf", "nan"):
        with pytest.raises(ConfigError, match=r"dataset.fps"):
            composed(*words, f"dataset.fps={rate}")


VALUES = (
    *("0", "1", "2", "-1", "0.5", "1.0", "1.5", "1e-3", "1e400", "-1e400", "nan", "inf", "-inf"),
    *("true", "false", "null", "''", "abc", "'1'", "1_000", "0x10", "99999999999999999999", "1e30"),
    *("[1,2]", "[]", "{a:1}", "'a/b'", "..", "~", "'a b'", "ünï", "'\\n'", "'x'", "10x3", "auto"),
    *("none", "cpu", "cuda:0", "steps", "[0,11]", "0.1"),
)


def leaves(values: dict, prefix: str = "") -> dict[str, object]:
    out = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        out |= leaves(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return out


def asked(text: str):
    """The value of text on the command line, by Hydra's grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    value = OverridesParser.create().parse_override(f"x={text}").value()
    return str(value) if type(value).__name__ == "QuotedString" else value


def in_config(config, key: str):
    for part in key.split("."):
        config = getattr(config, "lambda_" if part == "lambda" else part)
    return config


def same(value, given) -> bool:
    """Whether a checked value is the one that was typed, and not one that it was converted to."""
    if isinstance(given, str) and isinstance(value, bool | int | float) and not isinstance(value, str):
        return not isinstance(value, bool) and float(given) == value
    if isinstance(value, tuple):
        return list(value) == list(parse_views(given))
    if isinstance(value, bool) or isinstance(given, bool):
        return value == given and (isinstance(value, bool) or not isinstance(given, bool))
    if isinstance(value, float) and isinstance(given, int):
        return value == float(given)
    return value == given or (given == "none" and value is None)


def typing_error(key: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(0, len(key)))
    return (key[:at] + key[at + 1 :], key[:at] + "x" + key[at:], key[:at] + key[at:][::-1])[rng.integers(3)]


def try_configs(seeds) -> tuple[int, list[str]]:
    """How many were accepted, and what went wrong."""
    bases = (
        *([], ["backbone=slowfast"], ["backbone=timesformer"], ["backbone=x3d"], ["vmp=none"], ["vmp=gamma"]),
        *(["dataset=hmdb51"], ["optim=sgd_steps"], ["logger=wandb"], ["vmp=official"]),
    )
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        wholes = [OmegaConf.to_container(compose("train", base), resolve=True) for base in bases]
    accepted, wrong = 0, []
    for seed in seeds:
        rng = np.random.default_rng([7, seed])
        which = int(rng.integers(len(bases)))
        whole = leaves(wholes[which])
        key = list(whole)[rng.integers(len(whole))]
        text = VALUES[rng.integers(len(VALUES))]
        known = rng.random() < 0.8
        name = key if known else typing_error(key, rng)
        known = name in whole
        sign = ("", "+", "++")[rng.integers(3)] if not known else ("", "++")[rng.integers(2)]
        override = f"{sign}{name}={text}"
        said = f"seed {seed}: {' '.join([*bases[which], override])}"
        try:
            config = composed(*bases[which], override)
        except ConfigError as error:
            if not any(part in str(error) for part in name.split(".")) or len(str(error)) > 2000:
                wrong.append(f"{said}: the message does not name the key: {error}")
        except (HydraException, OmegaConfBaseException) as error:
            message = explain(error)
            if not message.strip() or "Traceback" in message:
                wrong.append(f"{said}: {message!r}")
        except Exception as error:
            wrong.append(f"{said}: {type(error).__name__}: {error}")
        else:
            accepted += 1
            if not known:
                wrong.append(f"{said}: accepted, and there is no such key")
                continue
            try:
                value = in_config(config, key)
                as_typed = isinstance(value, str) and value == text  # keys of text take numbers as text
                if not as_typed and not same(value, asked(text)):
                    wrong.append(f"{said}: became {value!r}")
            except (TypeError, ValueError) as error:
                wrong.append(f"{said}: became {in_config(config, key)!r} ({error})")
    return accepted, wrong


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_configs_with_one_value_changed(rounds, tally):
    count = 30 * rounds
    fault = tally("overrides of the config")
    fault.tries(count)
    accepted, wrong = try_configs(range(count))
    fault.survives(count - len(wrong))
    assert not wrong, "\n".join(wrong)
    assert 0 < accepted < count / 2


@pytest.mark.slow
@pytest.mark.chaos
def test_wrong_configs_end_the_real_command(tmp_path, rounds, tally):
    """Exit code 2 and one message."""
    fault = tally("overrides of the config")
    for seed in range(2 * rounds):
        fault.tries()
        rng = np.random.default_rng([9, seed])
        key = ("trainer.epochs", "vmp.lambda", "backbone.frames", "data.reader", "optim.lr", "seed")[
            rng.integers(6)
        ]
        done = Running(
            [f"{key}={('-1', 'abc', 'nan', '[1]', '1e400')[rng.integers(5)]}", f"output='{tmp_path}'"]
        ).wait()
        said = no_traceback(done)
        assert key in said
        assert len(said) < 2000
        assert not list(tmp_path.iterdir())
        fault.survives()
