"""Sweeps with every installed launcher: real processes, with a training that takes no time (quick_train.py)."""

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf
from runs import folder, overrides_for, wait_for

from vmp.errors import ConfigError
from vmp.jobs.places import environment, local_places
from vmp.jobs.planning import name_sweep, plan_jobs

ROOT = Path(__file__).resolve().parent.parent


def start(*overrides: str, script: str = "tests/quick_train.py", **env: str) -> subprocess.Popen[str]:
    """Start a sweep in a process group of its own, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, script, "-m", *overrides],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 280) -> tuple[int, str, str]:
    try:
        said, wrong = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, said, wrong


def status(out: Path) -> dict:
    (path,) = out.glob("sweeps/*/sweep.json")
    return json.loads(path.read_text())


def states(out: Path) -> list[str]:
    return [job["state"] for job in status(out)["jobs"]]


def times_run(out: Path) -> Counter[str]:
    """Last part of a folder's name -> how often a process has trained there."""
    return Counter({p.parent.name: len(p.read_text().splitlines()) for p in out.rglob("runs.txt")})


# --- while it runs -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "submitit_local"])
def test_failed_jobs_are_named_and_finished_ones_are_skipped_next_time(tmp_path, launcher):
    """optim.lr=9 fails with a message, optim.lr=8 is killed."""
    sweep = [
        f"output='{tmp_path}'",
        "optim.lr=0.1,9,8",
        "tag=lr${optim.lr}",
        f"hydra/launcher={launcher}",
    ]
    code, said, wrong = finish(start(*sweep))
    assert code == 1, wrong
    assert "Traceback" not in wrong
    assert states(tmp_path) == ["done", "failed", "failed"]
    ok, failed, killed = status(tmp_path)["jobs"]
    assert (ok["top1"], ok["scalars"]["slope"]) == (50, 9.5)
    assert failed["message"].endswith("the loss of step 3 is not finite.\nLower optim.lr.")
    assert failed["code"] == 2
    assert killed["message"].startswith("killed by SIGKILL: out of memory")
    for job in (failed, killed):
        assert f"failed: {job['label']}\n  folder: {job['folder']}\n" in said
    (output,) = tmp_path.glob("sweeps/*/1/output.txt")
    assert f"its output: {output}" in said
    assert "not finite" in output.read_text()
    assert times_run(tmp_path) == {f"seed0-lr{lr}": 1 for lr in (0.1, 8, 9)}
    before = {p: p.read_bytes() for p in tmp_path.rglob("result.json")}

    code, said, _ = finish(start(*sweep))
    assert code == 1
    assert states(tmp_path) == ["finished before", "failed", "failed"]
    assert "sweep of 3 jobs, 1 finished before" in said
    assert times_run(tmp_path) == {"seed0-lr0.1": 1, "seed0-lr8": 2, "seed0-lr9": 2}
    assert {p: p.read_bytes() for p in tmp_path.rglob("result.json")} == before


@pytest.mark.parametrize(
    ("number", "launcher", "everyone"),
    [
        pytest.param(signal.SIGINT, "basic", True, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "basic", False, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, "basic", False, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "joblib", True, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "local", False, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_sweep_lets_its_jobs_save_and_continues_later(tmp_path, number, launcher, everyone):
    """optim.lr=7 trains until it is asked to stop. A terminal signals all processes; kill signals the first one."""
    weights = "1,2,3" if launcher != "basic" else "1,2" if everyone else "range(1,23)"
    sweep = [f"output='{tmp_path}'", "optim.lr=7", f"vmp.lambda={weights}", f"hydra/launcher={launcher}"]
    process = start(*sweep)
    wait_for(lambda: list(tmp_path.rglob("ready")), process, says=lambda: finish(process))
    if number == signal.SIGTERM:
        code, _, wrong = finish(start(*sweep))
        assert (code, "this sweep is running already" in wrong) == (2, True)
    (os.killpg if everyone else os.kill)(process.pid, number)
    code, said, wrong = finish(process)
    assert code == 128 + number, wrong
    assert {p.read_text() for p in tmp_path.rglob("saved")} == {"SIGTERM"}  # asked once
    found = Counter(states(tmp_path))
    assert set(found) == {"stopped", "not started"}
    assert (
        found["stopped"] >= len(list(tmp_path.rglob("saved"))) >= 1
    )  # another job may not have begun to train
    assert "The same command again" in said
    assert "no other starts" in wrong
    if launcher != "joblib":  # joblib visits each job, even after a request to stop
        begun = {path.parent.name for path in tmp_path.glob("sweeps/*/*/output.txt")}
        assert begun == {str(job["number"]) for job in status(tmp_path)["jobs"] if job["state"] == "stopped"}
        visited = {path.name for path in tmp_path.glob("sweeps/*/*") if path.is_dir()}
        assert visited == begun
    if weights.startswith("range"):
        assert said.startswith("checking the configs of 22 jobs\nsweep of 22 jobs")
    if launcher == "basic" and everyone:
        second = tmp_path / "motions-static/tiny-motions/learned_lambda2/seed0"
        second.mkdir(parents=True, exist_ok=True)
        (second / "saved").touch()  # or it would train until it is asked to stop
        code, _, wrong = finish(start(*sweep))
        assert code == 0, wrong
        assert states(tmp_path) == ["done"] * 2


@pytest.mark.slow
def test_a_stopped_sweep_of_which_a_job_has_failed_ends_with_the_signal(tmp_path):
    """By which a batch script for Slurm knows that it is to queue the sweep again."""
    process = start(f"output='{tmp_path}'", "optim.lr=9,7,0.1", "tag=lr${optim.lr}")
    wait_for(lambda: list(tmp_path.rglob("ready")), process, says=lambda: finish(process))
    process.send_signal(signal.SIGUSR1)
    code, said, wrong = finish(process)
    assert code == 128 + signal.SIGUSR1, wrong
    assert states(tmp_path) == ["failed", "stopped", "not started"]
    assert "not finite" in said


@pytest.mark.slow
def test_each_job_has_its_own_device_and_no_variables_of_torchrun(tmp_path):
    """Sweeps a group and a range. quick_train.py refuses to start with variables of torchrun."""
    sweep = ["vmp=none,learned", "seed=range(1,2)", "hydra/launcher=local", "hydra.launcher.devices=[3,5]"]
    process = start(f"output='{tmp_path}'", *sweep, RANK="1", MASTER_ADDR="elsewhere")
    code, _, wrong = finish(process)
    assert code == 0, wrong
    seen = [p.read_text().split()[1] for p in tmp_path.rglob("runs.txt")]
    assert sorted(seen) == ["3", "5"]
    assert [job["label"] for job in status(tmp_path)["jobs"]] == ["vmp=none", "vmp=learned"]
    assert {Path(job["folder"]).name for job in status(tmp_path)["jobs"]} == {"seed1"}


@pytest.mark.slow
def test_the_tag_proposed_for_a_shared_folder_works_on_the_command_line(tmp_path):
    """Sweeps the files of a group, in a folder whose name needs quotes in Hydra's grammar."""
    out = tmp_path / "été (1)=a"
    sweep = ["optim=sgd_cosine,sgd_steps", f"output={out}"]
    code, _, wrong = finish(start(*sweep))
    assert code == 2, wrong
    (proposed,) = shlex.split(wrong.strip().splitlines()[-1])
    code, _, wrong = finish(start(*sweep, proposed))
    assert code == 0, wrong
    assert {p.parent.name for p in out.rglob("result.json")} == {
        "seed0-optimsgd_cosine",
        "seed0-optimsgd_steps",
    }


@pytest.mark.slow
def test_a_job_can_be_repeated_by_its_own_command(tmp_path):
    code, _, wrong = finish(start(f"output='{tmp_path}'", "seed=1,2", "tag=it"))
    assert code == 0, wrong
    sweep = status(tmp_path)
    alone = [sys.executable, sweep["script"], *sweep["jobs"][1]["overrides"]]
    assert subprocess.run(alone, cwd=ROOT, check=True, capture_output=True).returncode == 0
    assert times_run(tmp_path) == {"seed1-it": 1, "seed2-it": 2}


@pytest.mark.slow
def test_a_sweep_of_real_training(data, tmp_path):
    """One run learns and one diverges to a loss that is not finite; a tag tells them apart."""
    overrides = overrides_for(
        data, tmp_path / "out", "trainer.epochs=2", "optim.warmup=0", "tag=lr${optim.lr}"
    )
    lr = [o for o in overrides if not o.startswith("optim.lr=")]
    code, said, wrong = finish(start(*lr, "optim.lr=0.05,1e30", script="train.py"))
    assert code == 1, wrong
    assert states(tmp_path / "out") == ["done", "failed"]
    assert "is not finite" in status(tmp_path / "out")["jobs"][1]["message"]
    assert "epoch 2/2" in said
    result = json.loads((folder(tmp_path / "out", seed="seed0-lr0.05") / "result.json").read_text())
    assert "-m" not in result["command"].split()
    assert (folder(tmp_path / "out", seed="seed0-lr1e+30") / "log.txt").exists()


# --- before it starts ----------------------------------------------------------------------------------------------


def planned(*overrides: list[str]):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return plan_jobs(
            overrides,
            ROOT / "outputs/sweeps/x",
            lambda each: OmegaConf.to_container(compose("train", list(each)), resolve=True),
        )


@pytest.mark.slow
def test_jobs_that_share_a_folder_are_refused_and_the_proposed_tag_works(tmp_path):
    home = f"output='{tmp_path}'"
    with pytest.raises(
        ConfigError, match=r"2 jobs would share the folder .*seed0: optim.lr=0.1; optim.lr=0.2"
    ) as e:
        planned([home, "optim.lr=0.1"], [home, "optim.lr=0.2"])
    proposed = str(e.value).splitlines()[-1].strip().strip("'")
    assert proposed == "tag=lr${optim.lr}"
    jobs = planned([home, "optim.lr=0.1", proposed], [home, "optim.lr=0.2", proposed])
    assert [Path(job.folder).name for job in jobs] == ["seed0-lr0.1", "seed0-lr0.2"]
    with pytest.raises(ConfigError, match=r"'tag=a-momentum\$\{optim.momentum\}'"):
        planned([home, "tag=a", "optim.momentum=0.1"], [home, "tag=a", "optim.momentum=0.2"])
    with pytest.raises(ConfigError, match="one sweep for each of them, each with its tag=WORD"):
        planned([home, "optim=sgd_cosine"], [home, "optim=sgd_steps"])  # composed without Hydra's choices
    weights = [f"backbone.weights='{tmp_path}/{name}/x.pyth'" for name in ("a b", "c")]
    for name in ("a b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.pyth").touch()
    with pytest.raises(ConfigError) as e:  # a path cannot be part of a folder's name
        planned(*([home, each] for each in weights))
    proposed = str(e.value).splitlines()[-1].strip().strip("'")
    assert proposed == "tag=weights${word:backbone.weights}"
    folders = {job.folder for job in planned(*([home, each, proposed] for each in weights))}
    assert len(folders) == 2
    assert all("seed0-weightsx.pyth-" in each for each in folders)
    with pytest.raises(ConfigError, match="the same job more than once"):
        planned([home, "seed=1"], [home, "seed=1"])


def test_every_invalid_job_is_reported(tmp_path):
    home = f"output='{tmp_path}'"
    with pytest.raises(ConfigError) as caught:
        planned(*([home, f"vmp.lambda={w}", f"seed={s}"] for w in (0, -1, "nan") for s in (0, 1)))
    assert str(caught.value).splitlines() == [
        "vmp.lambda = -1: must be greater than or equal to 0",
        "  in 2 of 6 jobs: vmp.lambda=-1 seed=0; vmp.lambda=-1 seed=1",
        "vmp.lambda = nan: must be a finite number",
        "  in 2 of 6 jobs: vmp.lambda=nan seed=0; vmp.lambda=nan seed=1",
    ]
    with pytest.raises(ConfigError, match=r"^vmp.lamda: no such key; did you mean vmp.lambda\?$"):
        planned([home, "vmp.lamda=0"], [home, "vmp.lamda=1"])
    with pytest.raises(ConfigError, match=r"init_from = 'nowhere'.*\n  in 1 of 2 jobs: init_from=nowhere"):
        planned([home, "init_from=nowhere"], [home, "seed=1"])


def test_a_folder_with_another_run_fails_the_sweep_before_any_job_starts(tmp_path):
    home = f"output='{tmp_path}'"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        kept = compose("train", [home, "seed=0"])
    where = tmp_path / "motions-static/tiny-motions/learned_lambda1/seed0"
    where.mkdir(parents=True)
    (where / "config.yaml").write_text(OmegaConf.to_yaml(kept, resolve=True))
    (where / "result.json").write_text("{}")
    assert [job.state for job in planned([home, "seed=0"], [home, "seed=1"])] == [
        "finished before",
        "waiting",
    ]
    with pytest.raises(
        ConfigError, match=r"(?s)seed0 holds a run with another config.*in 1 of 2 jobs: seed=0"
    ):
        planned([home, "optim.lr=0.5", "seed=0"], [home, "optim.lr=0.5", "seed=1"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "env", "said"),
    [
        (["optim.lr=0.1,0.2"], {}, "'tag=lr${optim.lr}'"),
        (["seed=0,1"], {"WORLD_SIZE": "2"}, "not with torchrun"),
        (["seed=0,1"], {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, "not with srun"),
        pytest.param(
            ["seed=0,1", "hydra/launcher=slurm", "hydra.launcher.tasks_per_node=2"],
            {},
            "processes=2 runs a job",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["seed=0,1", "hydra.sweeper.processes=0"], {}, "must be at least 1", marks=pytest.mark.slow
        ),
        (["seed=0,1", "hydra/launcher=local", "hydra.launcher.n_jobs=0"], {}, "must be at least 1"),
        pytest.param(
            ["seed=0,1", "hydra/launcher=local", "hydra.launcher.devices=0"],
            {},
            "devices = 0: must be a list",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["seed=0,1", "hydra/launcher=local", "hydra.sweeper.max_batch_size=two"],
            {},
            "max_batch_size = 'two': must be at least 1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["seed=0,1", "hydra/launcher=slurm", "hydra.launcher.partion=a"],
            {},
            "partion",
            marks=pytest.mark.slow,
        ),
        (["seed=0,1", "hydra/launcher=ray"], {}, "is not installed: pip install '.[ray]'"),
    ],
)
def test_an_invalid_sweep_starts_nothing(tmp_path, overrides, env, said):
    if "hydra/launcher=ray" in overrides and importlib.util.find_spec("ray"):
        pytest.skip("ray is installed")
    code, _, wrong = finish(start(f"output='{tmp_path}'", *overrides, **env))
    assert code == 2
    assert said in wrong
    assert "Traceback" not in wrong
    assert not list(tmp_path.rglob("runs.txt"))


def test_each_job_has_devices_of_its_own(monkeypatch):
    pinned = [{"CUDA_VISIBLE_DEVICES": devices} for devices in ("0", "1", "2")]
    assert local_places(devices=[0, 1, 2]) == pinned
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1, 2")
    assert local_places() == pinned
    assert local_places(2) == pinned[:2]
    assert local_places(3, [0, 1]) == [*pinned[:2], pinned[0]]
    assert local_places(devices=[0, 1, 2, 3, 4], processes=2) == [
        {"CUDA_VISIBLE_DEVICES": d} for d in ("0,1", "2,3")
    ]
    with pytest.raises(ConfigError, match=r"a job of 4 processes .*there are 2: 0, 1"):
        local_places(devices=[0, 1], processes=4)
    for wrong in (0, "0,1"):
        with pytest.raises(
            ConfigError, match=r"devices = .*must be a list, as in hydra.launcher.devices=\[0,1\]"
        ):
            local_places(devices=wrong)


def test_jobs_without_devices_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("vmp.jobs.places.cpus", lambda: 12)
    assert local_places(devices=[]) == [{}]
    assert local_places(3, []) == [{"OMP_NUM_THREADS": "4"}] * 3
    assert local_places(3, [], processes=2) == [{"OMP_NUM_THREADS": "2"}] * 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # hides all devices
    assert local_places(3) == [{"OMP_NUM_THREADS": "4"}] * 3
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert local_places(3, []) == [{}] * 3


def test_the_same_command_names_the_same_folder():
    each = [["seed=0", "vmp.lambda=1"], ["seed=1", "vmp.lambda=2"]]
    assert name_sweep(["seed=0,1"], each).startswith("seed-lambda-")
    assert name_sweep(["a", "b"], each) == name_sweep(["b", "a"], each) != name_sweep(["a"], each)


def test_the_environment_of_a_job_has_no_rank(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID"} & set(environment())
    assert environment()["NCCL_DEBUG"] == "INFO"


# --- launchers of others -------------------------------------------------------------------------------------------


def test_the_slurm_config_has_the_keys_of_its_plugin():
    """It has every key of the plugin, so that each can be set without a plus, and no other key."""
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    ours = OmegaConf.load(ROOT / "conf/hydra/launcher/slurm.yaml")
    assert set(ours) == set(OmegaConf.structured(SlurmQueueConf))
    ours.submitit_folder = ours.gpus_per_node = None
    OmegaConf.merge(OmegaConf.structured(SlurmQueueConf(gpus_per_node=1)), {**ours, "submitit_folder": "x"})
    assert 60 <= ours.signal_delay_s < 60 * ours.timeout_min
    assert ours.max_num_timeout > 0


def test_the_joblib_config_has_the_keys_of_its_plugin():
    from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf

    ours = OmegaConf.load(ROOT / "conf/hydra/launcher/joblib.yaml")
    assert set(ours) == set(OmegaConf.structured(JobLibLauncherConf))


@pytest.mark.slow
def test_a_job_near_its_time_limit_saves_and_is_queued_again(tmp_path):
    """submitit sends its signal in time before the limit of one minute."""
    sweep = [f"output='{tmp_path}'", "optim.lr=7", "seed=0", "hydra/launcher=submitit_local"]
    process = start(*sweep, "hydra.launcher.timeout_min=1", script="tests/near_limit.py")
    code, said, wrong = finish(process)
    assert code == 0, wrong
    assert "waiting: " in said
    assert times_run(tmp_path) == {"seed0": 2}
    assert [p.read_text() for p in tmp_path.rglob("saved")] == ["SIGTERM"]


@pytest.mark.parametrize(
    "grid",
    [
        [[f"vmp.lambda={v}", f"optim={o}"] for o in ("sgd_cosine", "adamw_cosine") for v in (0, 0.5, 2.5)],
        [[f"experiment={e}", f"seed={s}"] for e in ("finegym_x3d", "mpii_cooking2_i3d") for s in (1, 2)],
        [["recipe=tiny", f"optim.lr={v}", "tag=lr${optim.lr}"] for v in (0.1, 0.2)],
        [["vmp=none", f"seed={s}", "++vmp.lambda=0", "tag=of-${hydra:runtime.choices.vmp}"] for s in (1, 2)],
        [[f"seed={s}", "tag=job${hydra:overrides.task}"] for s in (1, 2)],  # Hydra's own account of the job
    ],
    ids=["values", "experiments", "interpolations", "files", "hydra"],
)
def test_jobs_that_differ_in_values_have_the_configs_that_hydra_composes_for_each_alone(grid):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("train", [], RunMode.MULTIRUN)

        def sweeper():
            made = Plugins.instance().class_name_to_class["hydra_plugins.vmp_sweep.RunSweeper"](None)
            context = HydraContext(config_loader=loader, callbacks=Callbacks())
            made.setup(hydra_context=context, task_function=lambda _: None, config=master)
            return made

        together = sweeper()
        found = [together._compose(job) for job in grid]
        assert found == [sweeper()._compose(job) for job in grid]
        assert len({json.dumps(raw, sort_keys=True) for raw in found}) == len(grid)
