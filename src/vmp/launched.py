"""Which process of a run this is, as whoever started it says: torchrun, Open MPI, MPICH or Slurm's srun.

Only environment variables are read; torch is not imported.

Notable here:
- torchrun wins, so torchrun below srun keeps working; then mpirun, whose processes inherit what Slurm told the script;
- Slurm sets its variables for the script of a job (sbatch) too, where a single process runs. A job step of srun has
  SLURM_STEP_NUM_TASKS, and that decides. Without it, task 0 of several may be alone: it waits for the others, but not
  for long.
"""

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from vmp.errors import ConfigError

# what says which of several processes one is; a command of its own must not inherit it. And TORCHELASTIC_*
TORCHRUN = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK"),
    *("ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
)
MPI = {  # starter -> rank, world, local rank, local world
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
RANKS = (*TORCHRUN, *(name for names in MPI.values() for name in names), *SLURM)

STARTERS = {"Slurm": "srun", "Open MPI": "mpirun", "MPICH": "mpirun"}  # of several processes; else torchrun


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """Rank `rank` of `world` processes, `local` of the `beside` on this machine.

    by: who started them; "" for a process alone.
    address, port: where the first process listens; None under torchrun, which has its own store.
    sure: False where Slurm's variables may be those of a job's script, which runs once, without srun.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    beside: int = 1
    by: str = ""
    address: str | None = None
    port: int | None = None
    sure: bool = True

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world == 1


def launched(env: Mapping[str, str] | None = None) -> Launched:
    """Read it from the environment.

    Raises:
        ConfigError: variables that contradict each other, or do not say where the first process is.
    """
    env = os.environ if env is None else env
    if "WORLD_SIZE" in env or "TORCHELASTIC_RUN_ID" in env:
        world = _number(env, "WORLD_SIZE", 1)
        found = Launched(
            rank=_number(env, "RANK", 0),
            world=world,
            local=_number(env, "LOCAL_RANK", 0),
            beside=_number(env, "LOCAL_WORLD_SIZE", world),
            by="torchrun",
        )
    else:
        found = _from_mpi(env) or _from_slurm(env) or Launched()
    if not (found.rank < found.world and found.local < found.beside <= found.world):
        raise ConfigError(
            f"{found.by} says that this is process {found.rank} of {found.world}, {found.local} of {found.beside} on "
            "this machine, which cannot be; are variables of another program set?"
        )
    return found if found.world > 1 else Launched()


def _from_mpi(env: Mapping[str, str]) -> Launched | None:
    for by, names in MPI.items():
        if not all(name in env for name in names):
            continue
        rank, world, local, beside = (_number(env, name, 0) for name in names)
        address = env.get("MASTER_ADDR") or ("127.0.0.1" if beside == world else None)
        if world > 1 and address is None:
            raise ConfigError(
                f"{by} started {world} processes on several machines and does not say where the first one is: set "
                "MASTER_ADDR (its host) and MASTER_PORT for all of them, or use torchrun (docs/running.md)"
            )
        job = env.get("PMIX_NAMESPACE") or env.get("OMPI_MCA_ess_base_jobid") or by
        port = _port(env, job)
        return Launched(rank=rank, world=world, local=local, beside=beside, by=by, address=address, port=port)
    return None


def _from_slurm(env: Mapping[str, str]) -> Launched | None:
    in_step = "SLURM_STEP_NUM_TASKS" in env
    world = _number(env, "SLURM_STEP_NUM_TASKS" if in_step else "SLURM_NTASKS", 1)
    if "SLURM_PROCID" not in env or world < 2:
        return None
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or ""
    count = _number(env, "SLURM_STEP_NUM_NODES", _number(env, "SLURM_NNODES", 1))
    node = _number(env, "SLURM_NODEID", 0)
    each = _per_node(env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or "")
    beside = world if count == 1 else each[node] if node < len(each) else -(-world // count)
    address = env.get("MASTER_ADDR") or ("127.0.0.1" if count == 1 else first_host(nodes))
    if not address:
        raise ConfigError(
            f"SLURM_JOB_NODELIST = {nodes!r}: names no host for the first of {world} tasks; set MASTER_ADDR"
        )
    return Launched(
        rank=_number(env, "SLURM_PROCID", 0),
        world=world,
        local=_number(env, "SLURM_LOCALID", 0),
        beside=min(beside, world),
        by="Slurm",
        address=address,
        port=_port(env, f"{env.get('SLURM_JOB_ID', '')}.{env.get('SLURM_STEP_ID', '')}"),
        sure=in_step or _number(env, "SLURM_PROCID", 0) > 0,
    )


def first_host(nodes: str) -> str:
    """Of a list as Slurm writes it: `gpu[003-007,9],login1` -> `gpu003`."""
    found = re.match(r"([^,\[\]]*)(?:\[(\w+)[^\]]*\])?([^,\[\]]*)", nodes.strip())
    return "".join(part or "" for part in found.groups()) if found else ""


def _per_node(text: str) -> list[int]:
    """`2(x3),1` -> [2, 2, 2, 1]."""
    out: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        out += [int(count)] * int(times or 1)
    return out


def _port(env: Mapping[str, str], job: str) -> int:
    """MASTER_PORT, or one that all processes of a job find by themselves, below those that systems hand out."""
    return _number(env, "MASTER_PORT", 12_000 + zlib.crc32(job.encode()) % 18_000)


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name)
    if text is None or text == "":
        return default
    if not text.isdecimal():
        raise ConfigError(f"{name} = {text!r} in the environment: must be a whole number")
    return int(text)
