"""Several training processes on one or more machines, as torch.distributed runs them."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class TrainingProcess:
    """Which process this is, of how many."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """The first process writes files and the log."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def agree(self, elapsed_s: float, *, stop: bool, device: torch.device) -> tuple[float, bool]:
        """(elapsed_s, stop) of the first process, so that all stop at the same step."""
        if self.size == 1:
            return elapsed_s, stop
        shared = torch.tensor([elapsed_s, float(stop)], dtype=torch.float64, device=device)
        dist.broadcast(shared, 0)
        return float(shared[0]), bool(shared[1])


def choose_backend(device: str, on_this_machine: int) -> str:
    """nccl where each process has a GPU of its own, which it insists on; else gloo."""
    gpus = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    return "nccl" if gpus >= on_this_machine else "gloo"


def join(rank: int, size: int, port: int, device: str = "auto") -> TrainingProcess:
    """Enter the group of `size` processes that meet at `port` here. torchrun's environment wins over the arguments."""
    size = int(os.environ.get("WORLD_SIZE", size))
    if size > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(port))
        here = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        dist.init_process_group(choose_backend(device, here), rank=rank, world_size=size)
    return TrainingProcess(rank, size)
