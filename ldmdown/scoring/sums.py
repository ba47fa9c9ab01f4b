"""Sums by name that begin as zeros and that others, of other hours, are added to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ldmdown.typing import FloatArray


def zeros(shape: int | tuple[int, ...]) -> defaultdict[Any, FloatArray]:
    """Arrays of zeros by whatever name is asked for; other processes can take them."""
    return defaultdict(partial(np.zeros, shape))


def add_sums(total: dict[Any, Any], part: Mapping[Any, Any]) -> None:
    """Add sums to those of the same names; lists are continued."""
    for name, value in part.items():
        total[name] = total[name] + value if name in total else value
