"""train.py with batch statistics of all processes on CPUs, where torch has none: their sums meet through gloo."""

import runpy
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import vmp.finetune


def forward(self: nn.SyncBatchNorm, x: Tensor) -> Tensor:
    mean, var = self.running_mean, self.running_var
    if self.training:
        sides = [0, *range(2, x.ndim)]
        count = x.new_tensor([x.numel() / x.shape[1]])
        sums = torch.cat([x.detach().sum(sides), x.detach().square().sum(sides), count])
        dist.all_reduce(sums)  # waits for every process
        mean, squares = (part / sums[-1] for part in sums[:-1].chunk(2))
        var = squares - mean.square()
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)
    return F.batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)


nn.SyncBatchNorm.forward = forward
nn.parallel.DistributedDataParallel._passing_sync_batchnorm_handle = lambda self, module: None  # refuses CPUs
vmp.finetune.set_batch_norm = lambda model, how: nn.SyncBatchNorm.convert_sync_batchnorm(model)
runpy.run_path(str(Path(__file__).resolve().parent.parent / "train.py"), run_name="__main__")
