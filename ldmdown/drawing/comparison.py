"""Fields on one map in the page, two at a time with a slider between them, and the values under the pointer.

Values are kept in steps of a tenth, as 16-bit differences of neighbours along the rows, compressed: a field of the
whole domain takes 0.1 to 0.3 MB. The page shows exactly what is kept.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from scipy.ndimage import map_coordinates

from ldmdown.drawing import style
from ldmdown.drawing.html import render
from ldmdown.drawing.map_fields import MapFields
from ldmdown.scoring.results import ScoredVariable
from ldmdown.typing import FloatArray

STEP = 0.1  # [K or m s-1]
MISSING = np.iinfo(np.int16).min
NODES = 33  # along each side, between which the page interpolates longitude and latitude


def comparison(
    fields: MapFields, left: str, right: str, systems: Sequence[str], variables: Mapping[str, ScoredVariable]
) -> Markup:
    """Draw the map as HTML.

    Args:
        left, right: the systems, or "reference", that are shown at first.
        systems: those to choose from.
        variables: long name and units by name; the first is shown at first.
    """
    rows, cols = fields.lat.shape
    nodes = np.meshgrid(np.linspace(0, rows - 1, NODES), np.linspace(0, cols - 1, NODES), indexing="ij")
    lon, lat = (map_coordinates(field, nodes, np.float64, order=1) for field in (fields.lon, fields.lat))
    content = {
        "rows": rows,
        "cols": cols,
        "cell": round(fields.cell_shape, 4),
        "step": STEP,
        "nodes": NODES,
        "lon": np.round(lon, 4).ravel().tolist(),
        "lat": np.round(lat, 4).ravel().tolist(),
        "lines": graticule(fields),
        "variables": {name: _variable(fields, systems, name, variables[name].units) for name in variables},
        "fields": {
            system: {
                name: encode(style.displayed(fields.snapshots[system][name], variables[name].units))
                for name in variables
            }
            for system in systems
        },
    }
    return render(
        "comparison.html",
        variables={name: one.long_name for name, one in variables.items()},
        systems=systems,
        sides={"left": left, "right": right},
        time=fields.snapshot_time,
        content=content,
    )


def encode(field: FloatArray) -> str:
    """Steps as little-endian 16-bit differences of successive cells, deflated, in base64."""
    steps = np.where(np.isfinite(field), np.rint(np.nan_to_num(field) / STEP), MISSING).astype(np.int16)
    differences = np.diff(steps.ravel(), prepend=np.int16(0)).astype("<i2")
    return base64.b64encode(zlib.compress(differences.tobytes(), 9)).decode()


def graticule(fields: MapFields) -> list[dict[str, Any]]:
    """Meridians and parallels as lines of (column, row) in cells, with their label and the side they leave by."""
    rows, cols = (np.unique(np.linspace(0, size - 1, NODES).astype(int)) for size in fields.lat.shape)
    lines = []
    for degrees in style.whole_degrees(fields.lon[-1]):
        points = [(_crossing(degrees, fields.lon[row]), float(row)) for row in rows]
        lines.append(_line(points, style.degrees(degrees, "EW"), "bottom"))
    for degrees in style.whole_degrees(fields.lat[:, 0]):
        points = [(float(col), _crossing(degrees, fields.lat[:, col])) for col in cols]
        lines.append(_line(points, style.degrees(degrees, "NS"), "left"))
    return lines


def _line(points: list[tuple[float, float]], label: str, side: str) -> dict[str, Any]:
    inside = [[round(x, 1), round(y, 1)] for x, y in points if np.isfinite(x) and np.isfinite(y)]
    return {"label": label, "side": side, "points": inside}


def _crossing(value: float, along: FloatArray) -> float:
    """Where a falling or rising series takes a value; NaN where it does not."""
    place = np.arange(len(along), dtype=float)
    order = slice(None) if along[0] < along[-1] else slice(None, None, -1)
    return float(np.interp(value, along[order], place[order], left=np.nan, right=np.nan))


def _variable(shown: MapFields, systems: Sequence[str], name: str, units: str) -> dict[str, Any]:
    """Units and colour scale of a variable: one for all systems."""
    fields = [style.displayed(shown.snapshots[system][name], units) for system in systems]
    low, high = (float(value) for value in np.nanpercentile(np.stack(fields), [0.2, 99.8]))
    colours = matplotlib.colormaps[style.FIELDS.get(name, style.DIVERGING)](np.arange(256), bytes=True)[:, :3]
    table = base64.b64encode(np.ascontiguousarray(colours).tobytes()).decode()
    return {"units": style.units_of_fields(units), "low": round(low, 1), "high": round(high, 1), "colours": table}
