"""Processes that train together, started by torchrun; a process on its own is a group of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module

import torch
import torch.distributed as dist
from torch import Tensor, nn

from artifusion.device import resolve_device

TIMEOUT = timedelta(minutes=30)     # the others wait while the first one reads back and draws at a checkpoint


def rank() -> int:
    """This process' number among those that torchrun started; 0 where it did not."""
    return int(os.environ.get("RANK", "0"))


@dataclass(frozen=True)
class Group:
    """This process' number, how many there are, and the device that is its own."""

    rank: int
    size: int
    device: torch.device

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value over the processes; every one must ask."""
        if self.size > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
            value /= self.size
        return value

    def agree(self, value: float) -> float:
        """The first process' value; every one must ask."""
        if self.size > 1:
            held = torch.tensor(value, dtype=torch.float64, device=self.device)
            dist.broadcast(held, 0)
            value = held.item()
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one of the processes; every one must ask."""
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def average_gradients(self, network: nn.Module) -> None:
        """Replace each gradient of the network by its mean over the processes; every process must ask.

        DistributedDataParallel would do this too, but it holds the process group: the last one to let go of the group
        waits for its threads, and must not hold the lock of the interpreter meanwhile (see `process_group`).
        """
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        means = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, mean in zip(gradients, means.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


@contextmanager
def process_group(device: str) -> Iterator[Group]:
    """The group that torchrun's environment names, else a group of one; `device` as `resolve_device` takes it.

    Each process of a machine gets a CUDA device of its own. The group's threads have ended when the block has: a
    thread that lets go of a tensor takes the interpreter's lock, and to do so while the interpreter shuts down aborts
    the process ("terminate called without an active exception").
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    own = resolve_device(device)
    if size == 1:
        yield Group(0, 1, own)
        return
    if own.type == "cuda":
        own = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(own)
    # imported first: its functions have the group as a default argument and would keep it, with its threads, for ever
    import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Group(rank(), size, own)
    finally:
        dist.destroy_process_group()
