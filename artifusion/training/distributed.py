"""Processes that train together, started by torchrun; a process on its own is a group of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

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

    def parallel(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over the processes."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network, [self.device] if self.device.type == "cuda" else None)


@contextmanager
def process_group(device: str) -> Iterator[Group]:
    """The group that torchrun's environment names, else a group of one; `device` as `resolve_device` takes it.

    Each process of a machine gets a CUDA device of its own.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    own = resolve_device(device)
    if size == 1:
        yield Group(0, 1, own)
        return
    if own.type == "cuda":
        own = resolve_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Group(rank(), size, own)
    finally:
        dist.destroy_process_group()
