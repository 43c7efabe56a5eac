"""Training with several processes on one or more machines, by torch.distributed."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class TrainingProcess:
    """This process among those of one run: its rank, and their number."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and the log."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            dist.barrier()

    def agree(self, elapsed_s: float, *, stop: bool, device: torch.device) -> tuple[float, bool]:
        """Return elapsed_s and stop of the first process, so that all processes stop at the same step."""
        if self.size == 1:
            return elapsed_s, stop
        shared = torch.tensor([elapsed_s, float(stop)], dtype=torch.float64, device=device)
        dist.broadcast(shared, 0)
        return float(shared[0]), bool(shared[1])


def choose_backend(device: str, on_this_machine: int) -> str:
    """The torch.distributed backend: nccl where each process on this machine has its own GPU, else gloo."""
    gpus = torch.cuda.device_count() if device != "cpu" and torch.cuda.is_available() else 0
    return "nccl" if gpus >= on_this_machine else "gloo"


def join(rank: int, size: int, port: int, device: str = "auto") -> TrainingProcess:
    """Join the process group of `size` processes at `port` on this machine. torchrun's environment has priority."""
    size = int(os.environ.get("WORLD_SIZE", size))
    if size > 1:
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(port))
        here = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        dist.init_process_group(choose_backend(device, here), rank=rank, world_size=size)
    return TrainingProcess(rank, size)
