"""Fields on one map in the page, two at a time with a slider between them, and the values under the pointer.

Values are kept in steps of a tenth, as 16-bit differences of neighbours along the rows, compressed: a field of the
whole domain takes 0.1 to 0.3 MB. The page shows exactly what is kept.
"""

from __future__ import annotations

import base64
import html
import json
import zlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from ldmdown.drawing import style
from ldmdown.drawing.pictures import Pictures

Array = NDArray[np.floating]

STEP = 0.1  # [K or m s-1]
MISSING = np.iinfo(np.int16).min
NODES = 33  # along each side, between which the page interpolates longitude and latitude


def comparison(
    pictures: Pictures, left: str, right: str, systems: Sequence[str], variables: Mapping[str, Mapping[str, str]]
) -> str:
    """The map as HTML.

    Parameters
    ----------
    left, right
        the systems, or "reference", that are shown at first.
    systems
        those to choose from.
    variables
        long name and units by name; the first is shown at first.
    """
    rows, cols = pictures.lat.shape
    nodes = np.ix_(np.linspace(0, rows - 1, NODES), np.linspace(0, cols - 1, NODES))
    content = {
        "rows": rows,
        "cols": cols,
        "cell": round(pictures.cell_shape, 4),
        "step": STEP,
        "nodes": NODES,
        "lon": np.round(_between(pictures.lon, *nodes), 4).ravel().tolist(),
        "lat": np.round(_between(pictures.lat, *nodes), 4).ravel().tolist(),
        "lines": graticule(pictures),
        "variables": {name: _variable(pictures, systems, name, variables[name]["units"]) for name in variables},
        "fields": {
            system: {
                name: encode(style.displayed(pictures.snapshots[system][name], variables[name]["units"]))
                for name in variables
            }
            for system in systems
        },
    }
    radios = "".join(
        f'<label><input type="radio" name="variable" value="{html.escape(name)}"{" checked" if place == 0 else ""}> '
        f"{html.escape(one['long_name'])}</label>"
        for place, (name, one) in enumerate(variables.items())
    )
    written = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<figure class="compare" id="compare">
<div class="controls">
<fieldset><legend>Variable</legend>{radios}</fieldset>
<label>Left {_select("left", systems, left)}</label>
<label>Right {_select("right", systems, right)}</label>
</div>
<canvas class="map" tabindex="0" role="img" aria-describedby="compare-values"
 aria-label="Map of two fields side by side. Arrow keys move the point whose values are read out."></canvas>
<input class="divider" type="range" min="0" max="100" value="50"
 aria-label="Boundary between the left and the right field">
<output id="compare-values">Point at the map, touch it, or focus it and use the arrow keys, to read values.</output>
<div class="scale" aria-hidden="true"><span></span><canvas width="256" height="1"></canvas><span></span></div>
<noscript><p>The map needs JavaScript; the figures below show the same fields.</p></noscript>
<figcaption>{html.escape(pictures.snapshot_time)} UTC, of ensembles the first member. Values are kept in steps of
{STEP:g}; the point is the centre of its cell.</figcaption>
<script type="application/json">{written}</script>
<script>
{files("ldmdown.drawing").joinpath("comparison.js").read_text()}</script>
</figure>"""


def encode(field: Array) -> str:
    """Steps as little-endian 16-bit differences of successive cells, deflated, in base64."""
    steps = np.where(np.isfinite(field), np.rint(np.nan_to_num(field) / STEP), MISSING).astype(np.int16)
    differences = np.diff(steps.ravel(), prepend=np.int16(0)).astype("<i2")
    return base64.b64encode(zlib.compress(differences.tobytes(), 9)).decode()


def graticule(pictures: Pictures) -> list[dict[str, Any]]:
    """Meridians and parallels as lines of (column, row) in cells, with their label and the side they leave by."""
    rows, cols = (np.unique(np.linspace(0, size - 1, NODES).astype(int)) for size in pictures.lat.shape)
    lines = []
    for degrees in style.whole_degrees(pictures.lon[-1]):
        points = [(_crossing(degrees, pictures.lon[row]), float(row)) for row in rows]
        lines.append(_line(points, style.degrees(degrees, "EW"), "bottom"))
    for degrees in style.whole_degrees(pictures.lat[:, 0]):
        points = [(float(col), _crossing(degrees, pictures.lat[:, col])) for col in cols]
        lines.append(_line(points, style.degrees(degrees, "NS"), "left"))
    return lines


def _line(points: list[tuple[float, float]], label: str, side: str) -> dict[str, Any]:
    inside = [[round(x, 1), round(y, 1)] for x, y in points if np.isfinite(x) and np.isfinite(y)]
    return {"label": label, "side": side, "points": inside}


def _crossing(value: float, along: Array) -> float:
    """Where a falling or rising series takes a value; NaN where it does not."""
    place = np.arange(len(along), dtype=float)
    order = slice(None) if along[0] < along[-1] else slice(None, None, -1)
    return float(np.interp(value, along[order], place[order], left=np.nan, right=np.nan))


def _between(field: Array, rows: Array, cols: Array) -> Array:
    """Bilinear values at fractional rows and columns."""
    row, col = rows.astype(int), cols.astype(int)
    below, beside = np.minimum(row + 1, field.shape[0] - 1), np.minimum(col + 1, field.shape[1] - 1)
    upper = field[row, col] * (1 - cols + col) + field[row, beside] * (cols - col)
    lower = field[below, col] * (1 - cols + col) + field[below, beside] * (cols - col)
    return upper * (1 - rows + row) + lower * (rows - row)


def _variable(pictures: Pictures, systems: Sequence[str], name: str, units: str) -> dict[str, Any]:
    """Units and colour scale of a variable: one for all systems."""
    fields = [style.displayed(pictures.snapshots[system][name], units) for system in systems]
    low, high = (float(value) for value in np.nanpercentile(np.stack(fields), [0.2, 99.8]))
    colours = matplotlib.colormaps[style.FIELDS.get(name, style.DIVERGING)](np.arange(256), bytes=True)[:, :3]
    table = base64.b64encode(np.ascontiguousarray(colours).tobytes()).decode()
    return {"units": style.units_of_fields(units), "low": round(low, 1), "high": round(high, 1), "colours": table}


def _select(side: str, systems: Sequence[str], chosen: str) -> str:
    options = "".join(
        f"<option{' selected' if system == chosen else ''}>{html.escape(system)}</option>" for system in systems
    )
    return f'<select name="{side}">{options}</select>'
