"""How things look everywhere: one colour and line for a system, one scale for a variable, units for people."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ldmdown.data.variables import VARIABLES
from ldmdown.scoring.results import Results, ScoredSystem
from ldmdown.typing import FloatArray

FREEZING = 273.15  # [K]

REFERENCE = "#000000"
# Told apart with any colour vision: Okabe and Ito's colours (https://jfly.uni-koeln.de/color), two of Paul Tol's
# (https://sronpersonalpages.nl/~pault), and quiet ones for baselines
SYSTEMS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#332288", "#999933")
BASELINES = ("#8C8C8C", "#C9A227", "#882255", "#117733")
LINES = {  # by kind: dashed, dash and dot, dash and two dots, dotted; others are solid
    "interpolation": (0, (4, 1.5)),
    "regression": (0, (4, 1.5)),
    "ensemble mean": (0, (5, 1.2, 1, 1.2)),
    "reconstruction": (0, (5, 1.2, 1, 1.2, 1, 1.2)),
    "ideal": (0, (1, 1)),
}

# Perceptually uniform; of what has a sign, diverging
FIELDS = {"t2m": "plasma", "ws10": "viridis"}
DIVERGING = "RdBu_r"
ERRORS = "magma_r"


LOOK: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#5b6570",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7ea",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "xtick.color": "#5b6570",
    "ytick.color": "#5b6570",
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "figure.constrained_layout.use": True,
}  # of matplotlib's figures


def colours(systems: Sequence[ScoredSystem]) -> dict[str, str]:
    """By name, in table order; "reference" is black, an ensemble's mean as its members; lines tell these apart."""
    rest = cycle(SYSTEMS)
    baselines = cycle(BASELINES)
    pools = {"interpolation": baselines, "regression": baselines, "reconstruction": cycle(reversed(SYSTEMS))}
    result, members = {"reference": REFERENCE}, deque[str]()
    for system in systems:
        kind = system.kind
        colour = members.popleft() if kind == "ensemble mean" and members else next(pools.get(kind, rest))
        if kind == "member":
            members.append(colour)
        result[system.name] = colour
    return result


def displayed(field: FloatArray, units: str) -> FloatArray:
    """A field in units for people: degrees Celsius for kelvins."""
    return field - FREEZING if units == "K" else field


def units_of_fields(units: str) -> str:
    """Name the unit of what `displayed` returns."""
    return "°C" if units == "K" else written(units)


def written(units: str) -> str:
    """Units with raised exponents; nothing for "1"."""
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return "" if units == "1" else re.sub(r"-?\d+\b", lambda power: power[0].translate(raised), units)


def per(units: str) -> str:
    """The units of a density."""
    return f"1 / ({units})" if " " in units else f"1 / {units}"


def labelled(name: str, units: str) -> str:
    """A name with its units in brackets."""
    return f"{name} [{written(units)}]" if written(units) else name


def main_variables(results: Results) -> list[str]:
    """The variables that have figures of their own: wind by its speed where that is scored."""
    names = [name for name in results.variables if name in VARIABLES]
    return [name for name in names if name not in ("u10", "v10")] if "ws10" in names else names


def whole_degrees(values: FloatArray) -> FloatArray:
    """Round degrees among the values, so that they are few."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    step = next((step for step in (0.1, 0.2, 0.5, 1, 2, 4) if (high - low) / step <= 4.5), 5)
    return np.arange(np.ceil(low / step) * step, high, step)


def label_degrees(axis: Axes, ticks: int) -> None:
    """Label at most so many longitudes and latitudes along the sides of a map."""
    for side, sides in ((axis.xaxis, "EW"), (axis.yaxis, "NS")):
        side.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
        side.set_major_formatter(FuncFormatter(lambda value, _, sides=sides: degrees(round(value, 4), sides)))


def degrees(value: float, sides: str) -> str:
    """Such as 44°N or 10.5°E."""
    return f"{abs(value):g}°{'' if value == 0 else sides[0] if value > 0 else sides[1]}"
