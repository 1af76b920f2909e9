"""The parts of result.json that describe how a run was made, i.e. everything but the accuracies."""

import shlex
import time
from typing import Any

import torch

from vmp.config import Config
from vmp.engine.dist import Processes
from vmp.engine.plan import Throughput, TrainingPlan, TrainingState
from vmp.finetune import trained
from vmp.invocation import typed_command
from vmp.machine import device_name, peak_memory
from vmp.model import PromptedClassifier
from vmp.provenance import provenance
from vmp.runs.records import read_weights


def describe_training(
    config: Config,
    model: PromptedClassifier,
    plan: TrainingPlan,
    state: TrainingState,
    throughput: Throughput,
    processes: Processes,
) -> dict[str, Any]:
    validated, timed = state.best_epoch > 0, throughput.trained > 0
    return {
        "best_val_top1": state.best if validated else None,
        "best_val_epoch": state.best_epoch if validated else None,
        "scalars": {name: float(value) for name, value in model.scalars().items()},
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_trained": trained(model),
        "weights": {k: len(v) if k == "matched" else v for k, v in read_weights(config.folder).items()},
        "steps": state.step,
        "batch": {"clips": plan.batch, "micro": plan.micro_batch, "accumulate": plan.accumulate},
        "seed": config.seed,
        "seconds": round(state.seconds, 1),
        "clips_per_second": round(throughput.clips / throughput.trained, 1) if timed else None,
        "share_waiting_for_data": round(throughput.share_waiting, 4) if timed else None,
        "command": shlex.join(typed_command()),
        "device": describe_devices(processes),
        "sessions": state.sessions,
        "peak_memory_gb": peak_memory(processes.device),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        **provenance(),
    }


def describe_devices(processes: Processes) -> str:
    name = device_name(processes.device)
    threads = f" x {torch.get_num_threads()} threads" if name == "CPU" else ""
    return f"{processes.world} x {name}{threads}"
