"""Statistics of the members of an hour: their names, their values and what CF says of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array

METHODS = {"mean": "mean", "std": "standard_deviation", "min": "minimum", "max": "maximum", "p50": "median"}
"""CF's cell methods (appendix E), which has none for other percentiles."""
PERCENTILE = re.compile(r"p([1-9]\d?)")
EXPECTED = "mean, std, min, max, and percentiles from p1 to p99"


def check_statistics(names: Sequence[str]) -> None:
    """Refuse names of no statistic, and those given twice. Raises LdmdownError if there is one."""
    for name in names:
        if name not in METHODS and not PERCENTILE.fullmatch(name):
            raise LdmdownError("--statistics", "asks for what is not a statistic", found=name, expected=EXPECTED)
    if len(set(names)) < len(names):
        raise LdmdownError("--statistics", "names a statistic twice", found=", ".join(names))


def statistics(members: Float32Array, names: Sequence[str]) -> dict[str, Float32Array]:
    """Statistics over the first axis; percentiles are interpolated linearly, the std divides by the number of members.

    All percentiles come from one partial sort.
    """
    simple = {
        "mean": lambda: members.mean(axis=0, dtype=np.float64),
        "std": lambda: members.std(axis=0, dtype=np.float64),
        "min": lambda: members.min(axis=0),
        "max": lambda: members.max(axis=0),
    }
    found = {name: simple[name]() for name in names if name in simple}
    percents = {name: float(match[1]) for name in names if (match := PERCENTILE.fullmatch(name))}
    if percents:
        found |= dict(zip(percents, np.percentile(members, list(percents.values()), axis=0), strict=True))
    return {name: found[name].astype(np.float32) for name in names}


def described(name: str, of: dict[str, str]) -> dict[str, str]:
    """The attributes of a statistic of a variable with the attributes `of`."""
    match = PERCENTILE.fullmatch(name)
    words = f"percentile {match[1]}" if match else METHODS[name].replace("_", " ")
    meaning = of | {"long_name": f"{of['long_name']}, {words} of the members"}
    if name in METHODS:
        meaning["cell_methods"] += f" realization: {METHODS[name]}"
    if name == "std" and "units_metadata" in of:
        meaning["units_metadata"] = "temperature: difference"
    return meaning
