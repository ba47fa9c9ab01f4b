"""Ways to fit a step into the memory of a device or to speed it up: micro-batches, recomputation, compilation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ldmdown.models.conditioner import Fusion
from ldmdown.models.denoiser import CrossBlock, TimeResBlock
from ldmdown.models.layers import DoubleConv, MixingBlock, ResBlock2D

BLOCKS = (DoubleConv, ResBlock2D, TimeResBlock, CrossBlock, MixingBlock, Fusion)
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def find_micro_batch(attempt: Callable[[int], object], count: int) -> int:
    """The largest of `count`, a half, a quarter ... of it that `attempt` takes; 0 if it fails with a single crop."""
    while count:
        try:
            attempt(count)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            count //= 2
        else:
            break
    return count


def blocks(module: nn.Module) -> list[nn.Module]:
    """The outermost blocks of a module's networks."""
    found: list[nn.Module] = []
    for child in module.children():
        found += [child] if isinstance(child, BLOCKS) else blocks(child)
    return found


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
    norms = [part for part in module.modules() if isinstance(part, NORMS)]
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
