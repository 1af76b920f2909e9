"""The rank of this process in its run, as torchrun, Open MPI, MPICH or Slurm's srun set it in the environment.

Notes:
- torch is not imported;
- torchrun wins, so that torchrun works below srun; then mpirun, whose processes inherit what Slurm set for the script;
- Slurm sets its variables for the script of a batch job (sbatch) too, where a single process runs. A step of srun has
  SLURM_STEP_NUM_TASKS, which decides. Without it, task 0 of several may be alone, so it does not wait long for the
  others.
"""

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from vmp.errors import ConfigError

TORCHRUN = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK"),
    *("ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
)
MPI = {  # starter -> variables of rank, world, local rank, local world
    "Open MPI": (
        *("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}
SLURM = (
    *("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NODEID"),
    *("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST"),
)
# a command of its own must not inherit these, nor TORCHELASTIC_*
VARIABLES = (*TORCHRUN, *(name for names in MPI.values() for name in names), *SLURM)
COMMANDS = {"Slurm": "srun", "Open MPI": "mpirun", "MPICH": "mpirun"}  # starter -> command; else torchrun


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """Which of the processes of a run this is.

    world: number of processes.
    local, local_world: rank and number among those on this machine.
    starter: torchrun, Slurm, Open MPI or MPICH; "" for a process alone.
    address, port: where the first process listens; None under torchrun, which has its own store.
    certain: False where Slurm's variables may be those of a batch script, which runs once, without srun.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1
    starter: str = ""
    address: str | None = None
    port: int | None = None
    certain: bool = True

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world == 1


def read_rank(env: Mapping[str, str] | None = None) -> Rank:
    """The rank that the environment gives this process.

    Raises:
        ConfigError: its variables contradict each other, or do not say where the first process is.
    """
    env = os.environ if env is None else env
    if "WORLD_SIZE" in env or "TORCHELASTIC_RUN_ID" in env:
        world = _read_number(env, "WORLD_SIZE", 1)
        found = Rank(
            rank=_read_number(env, "RANK", 0),
            world=world,
            local=_read_number(env, "LOCAL_RANK", 0),
            local_world=_read_number(env, "LOCAL_WORLD_SIZE", world),
            starter="torchrun",
        )
    else:
        found = _read_mpi(env) or _read_slurm(env) or Rank()
    if not (found.rank < found.world and found.local < found.local_world <= found.world):
        raise ConfigError(
            f"{found.starter} says that this is process {found.rank} of {found.world}, and {found.local} of "
            f"{found.local_world} on this machine, which is impossible; are variables of another program set?"
        )
    return found if found.world > 1 else Rank()


def _read_mpi(env: Mapping[str, str]) -> Rank | None:
    for starter, names in MPI.items():
        if not all(name in env for name in names):
            continue
        rank, world, local, local_world = (_read_number(env, name, 0) for name in names)
        address = env.get("MASTER_ADDR") or ("127.0.0.1" if local_world == world else None)
        if world > 1 and address is None:
            raise ConfigError(
                f"{starter} started {world} processes on several machines and does not say where the first one is: "
                "set MASTER_ADDR (its host) and MASTER_PORT for all of them, or use torchrun (docs/several_devices.md)"
            )
        job = env.get("PMIX_NAMESPACE") or env.get("OMPI_MCA_ess_base_jobid") or starter
        return Rank(
            rank=rank,
            world=world,
            local=local,
            local_world=local_world,
            starter=starter,
            address=address,
            port=_find_port(env, job),
        )
    return None


def _read_slurm(env: Mapping[str, str]) -> Rank | None:
    in_step = "SLURM_STEP_NUM_TASKS" in env
    world = _read_number(env, "SLURM_STEP_NUM_TASKS" if in_step else "SLURM_NTASKS", 1)
    if "SLURM_PROCID" not in env or world < 2:
        return None
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or ""
    count = _read_number(env, "SLURM_STEP_NUM_NODES", _read_number(env, "SLURM_NNODES", 1))
    node = _read_number(env, "SLURM_NODEID", 0)
    tasks = _expand_counts(env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or "")
    local_world = world if count == 1 else tasks[node] if node < len(tasks) else -(-world // count)
    address = env.get("MASTER_ADDR") or ("127.0.0.1" if count == 1 else first_host(nodes))
    if not address:
        raise ConfigError(
            f"SLURM_JOB_NODELIST = {nodes!r}: names no host for the first of {world} tasks; set MASTER_ADDR"
        )
    rank = _read_number(env, "SLURM_PROCID", 0)
    return Rank(
        rank=rank,
        world=world,
        local=_read_number(env, "SLURM_LOCALID", 0),
        local_world=min(local_world, world),
        starter="Slurm",
        address=address,
        port=_find_port(env, f"{env.get('SLURM_JOB_ID', '')}.{env.get('SLURM_STEP_ID', '')}"),
        certain=in_step or rank > 0,
    )


def first_host(nodes: str) -> str:
    """The first host of a list in Slurm's notation: `gpu[003-007,9],login1` -> `gpu003`."""
    found = re.match(r"([^,\[\]]*)(?:\[(\w+)[^\]]*\])?([^,\[\]]*)", nodes.strip())
    return "".join(part or "" for part in found.groups()) if found else ""


def _expand_counts(text: str) -> list[int]:
    """`2(x3),1` -> [2, 2, 2, 1]."""
    out: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        out += [int(count)] * int(times or 1)
    return out


def _find_port(env: Mapping[str, str], job: str) -> int:
    """MASTER_PORT, or a port that every process of a job derives from its name, below the ephemeral ports."""
    return _read_number(env, "MASTER_PORT", 12_000 + zlib.crc32(job.encode()) % 18_000)


def _read_number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name)
    if text is None or text == "":
        return default
    if not text.isdecimal():
        raise ConfigError(f"{name} = {text!r} in the environment: must be a whole number")
    return int(text)
