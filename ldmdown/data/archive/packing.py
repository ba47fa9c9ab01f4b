"""Fields as 16-bit numbers, exact to the finest power of two with which the bounds of each variable fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmdown.data.variables import variable
from ldmdown.typing import Float32Array

FILL_VALUE = -(2**15)  # where there is no value
LARGEST = 2**15 - 1

Int16Array = NDArray[np.int16]


@dataclass(frozen=True)
class Packing:
    """Scale factors, powers of two, and offsets as CF defines them: number x scale_factor + add_offset is the value."""

    scale_factor: Float32Array  # (T, 1, 1)
    add_offset: Float32Array  # (T, 1, 1)

    @classmethod
    def of(cls, names: Sequence[str]) -> Packing:
        """The packing of variables, whose bounds lie within the largest number from their middle."""
        low, high = np.array([variable(name).bounds for name in names]).T[..., None, None]
        scale = 2 ** -np.floor(np.log2(LARGEST / ((high - low) / 2)))
        return cls(scale.astype(np.float32), (np.rint((low + high) / 2 / scale) * scale).astype(np.float32))

    @classmethod
    def read(cls, array: Any) -> Packing:
        """The packing that is noted at an array of an archive."""
        scale, offset = (
            np.array(array.attrs[key], np.float32)[:, None, None] for key in ("scale_factor", "add_offset")
        )
        return cls(scale, offset)

    def save(self, array: Any) -> None:
        """Note it at an array of an archive."""
        attributes = {"scale_factor": self.scale_factor, "add_offset": self.add_offset}
        array.attrs.update({key: values.ravel().tolist() for key, values in attributes.items()})

    def pack(self, fields: Float32Array) -> Int16Array:
        """Turn values (..., T, rows, cols) into numbers."""
        numbers = np.rint((fields - self.add_offset) / self.scale_factor)
        return np.where(np.isnan(numbers), FILL_VALUE, numbers).astype(np.int16)

    def unpack(self, numbers: Int16Array) -> Float32Array:
        """Turn numbers (..., T, rows, cols) into values, NaN where there are none."""
        values = (numbers * self.scale_factor + self.add_offset).astype(np.float32)
        return np.where(numbers == FILL_VALUE, np.float32(np.nan), values)
