"""Where and how tensors are computed: device, precision and processes."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.distributed.rendezvous import rendezvous

from ldmdown.choices import Precision
from ldmdown.errors import LdmdownError

STARTING = timedelta(seconds=20)  # that torchrun, which started a process, takes to answer it
PATIENCE = timedelta(days=1)  # of processes that wait for the first one's work


def choose_device(name: str) -> torch.device:
    """auto: CUDA where there is one, else the CPU. Raises LdmdownError if the device is unknown or absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise LdmdownError("--device", "is not a device", found=name, expected="auto, cpu, cuda or cuda:0")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LdmdownError(
            "--device",
            "there is no such CUDA device",
            found=f"{torch.cuda.device_count()} CUDA devices, PyTorch {torch.__version__}",
            expected=name,
            fix="use --device auto, or install a PyTorch that fits the driver",
        )
    return device


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision that auto stands for: bf16 on CUDA and on CPUs with instructions for it, fp32 on others."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" or _cpu_computes_bf16() else "fp32"
    return precision


def _cpu_computes_bf16() -> bool:
    """Whether the CPU has AVX-512 or AMX instructions for bf16; without them bf16 takes several times fp32's time."""
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older PyTorch has none
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def peak_memory(device: torch.device) -> float:
    """The most memory [GB] that this process has taken so far, of the device that computes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource  # which Windows lacks

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Compute matrix products and convolutions in a precision."""
    if resolve_precision(precision, device) == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


@dataclass(frozen=True)
class Processes:
    """Those that train together, seen from one of them; without torchrun there is only that one."""

    rank: int
    size: int
    on_machine: int  # of them, where this one runs
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Which of `count` things this process takes; all take equally many if it divides."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def mean(self, values: Tensor) -> Tensor:
        """Over the processes, the same on all."""
        return self._reduced(values, distributed.ReduceOp.SUM) / self.size

    def least(self, number: int) -> int:
        """The smallest that any process gives."""
        return int(self._reduced(torch.tensor(number, device=self.device), distributed.ReduceOp.MIN))

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    def parallel(self, module: nn.Module, *, partly: bool) -> nn.Module:
        """The module with gradients averaged over the processes; `partly`: at times some parameters have none."""
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=partly)

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        if self.size > 1:
            values = values.clone()
            distributed.all_reduce(values, operation)
        return values


@contextmanager
def processes() -> Iterator[Processes]:
    """This process among those that torchrun started, joined by NCCL on CUDA and Gloo on the CPU."""
    device = choose_device("auto")
    if not distributed.is_torchelastic_launched():
        yield Processes(0, 1, 1, device)
        return
    if device.type == "cuda":
        device = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(device)
    _end_with_launcher()
    store, rank, size = next(rendezvous("env://", timeout=STARTING))
    store.set_timeout(PATIENCE)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Processes(rank, size, int(os.environ["LOCAL_WORLD_SIZE"]), device)
    finally:
        distributed.destroy_process_group()


def _end_with_launcher() -> None:
    """Let this process end when torchrun, which started it, is killed; it would hold the output's lock."""
    launcher = os.getppid()

    def wait_and_end() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()
