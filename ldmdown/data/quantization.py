"""Lossy compression by quantization, as CF-1.12 describes it in section 8.4: digits that mean nothing become zero.

The algorithm is Granular BitRound, bit by bit as the netCDF library has it: a value keeps a number of significant
decimal digits, and is rounded to the power of two below half a unit of the last of them.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np

from ldmdown.typing import Float32Array

SIGNIFICANT_DIGITS = {"K": 5, "m s-1": 4}  # 0.01 K from 100 K to 1000 K, 0.01 m s-1 from 10 m s-1 to 100 m s-1
CONVENTIONS = "CF-1.12"
CONTAINER = "quantization_info"


def quantized(values: Float32Array, digits: int) -> Float32Array:
    """Values of which at least so many significant digits are kept: none changes by half a unit of the last."""
    size = np.abs(values.astype(np.float64))
    before_point = np.floor(np.log10(size, out=np.zeros_like(size), where=size > 0)) + 1
    step = np.exp2(np.floor(np.log2(10) * (before_point - digits)))
    return np.copysign(np.floor(size / step + 0.5) * step, values).astype(np.float32)


def of_variable(digits: int) -> dict[str, Any]:
    """The attributes of a quantized variable: CF's, and that of the netCDF library."""
    return {
        "quantization": CONTAINER,
        "quantization_nsd": np.int32(digits),
        "_QuantizeGranularBitRoundNumberOfSignificantDigits": np.int32(digits),
    }


def of_container() -> dict[str, str]:
    """The attributes of the variable that names the algorithm."""
    return {"algorithm": "granular_bitround", "implementation": f"ldmdown version {version('ldmdown')}"}
