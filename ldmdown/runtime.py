"""Where and how tensors are computed: device, precision, processes, and ways to trade time for memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

from ldmdown.config import Precision
from ldmdown.errors import LdmdownError

PATIENCE = timedelta(days=1)  # of processes that wait for the first one's work


def choose_device(name: str) -> torch.device:
    """auto: CUDA where there is one, else the CPU.

    Raises
    ------
    LdmdownError
        if the device is unknown or absent.
    """
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
    """The precision that auto stands for: bf16 on CUDA, fp32 on the CPU."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    return precision


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
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(
            distributed.get_rank(), distributed.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"]), device
        )
    finally:
        distributed.destroy_process_group()


def first_process() -> bool:
    """Whether this is the first of those that torchrun started, or the only one."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken: of the device, or of the machine and the control group it runs in."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except OSError:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no control group, or "max"
        return free


def kept_bytes(compute: Callable[[], Any], module: nn.Module) -> int:
    """Memory that automatic differentiation keeps of a computation until its gradients are taken, weights apart."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = compute()
    del result
    for parameter in module.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    return sum(kept.values())


@contextmanager
def compiled(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Modules whose forward pass is compiled for as long as the context lasts."""
    with _forwards({module: torch.compile(module.forward) for module in modules}):
        yield


@contextmanager
def checkpointed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Modules that keep their inputs only, and are computed again for the gradients (arXiv 1604.06174)."""

    def again(module: nn.Module) -> Callable[..., Any]:
        contexts = partial(_once_and_again, module)
        return partial(checkpoint, module.forward, use_reentrant=False, context_fn=contexts)

    with _forwards({module: again(module) for module in modules}):
        yield


def _once_and_again(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_at_rest(module)


@contextmanager
def _statistics_at_rest(module: nn.Module) -> Iterator[None]:
    """Batch normalisation that does not count its batch, which it has seen before."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    before = [count.clone() for count in counts]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for count, value in zip(counts, before, strict=True):
            count.copy_(value)


@contextmanager
def _forwards(forwards: dict[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward
