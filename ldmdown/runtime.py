"""Where and how tensors are computed: device, precision, threads."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from ldmdown.errors import LdmdownError

Precision = Literal["auto", "fp32", "bf16"]


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
            cure="use --device auto, or install a PyTorch that fits the driver",
        )
    return device


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """bfloat16 for matrix products and convolutions; auto: on CUDA, and in float32 on the CPU."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()
