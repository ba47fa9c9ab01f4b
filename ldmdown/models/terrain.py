"""Features of the terrain at several scales, made from heights and the land-sea mask alone.

They decide how far what was learned on one mountain holds on another. Because they follow from two fields, a
checkpoint stores only those two.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter

from ldmdown.typing import Float32Array, FloatArray

SCALES = (1, 2, 4, 8)  # std of the Gaussian that smooths the terrain [cells]
DIRECTIONS = 8  # towards which a cell may be sheltered
REACH = (2, 4, 6, 9, 13)  # distances at which sheltering terrain is looked for [cells]
COASTS = (4, 16)  # distances over which the influence of the coast levels off [cells]
MAX_SHELTER = 4.0  # of a shelter's std, so that one cliff does not rule the scale
FEATURES = 3 * len(SCALES) + DIRECTIONS + len(COASTS)


def terrain_features(height: Float32Array, land: Float32Array) -> Float32Array:
    """Relief, slopes, shelter and distance to the coast, each of zero mean and unit std: (FEATURES, rows, cols).

    `height` and `land` (rows, cols) may be in any units: 0 to 1 is land's usual range, half of it the coast.
    """
    fields = [*_relief(height), *_shelter(height), *_coast(land)]
    return np.stack([(field - field.mean()) / (field.std() or 1) for field in fields]).astype(np.float32)


def _relief(height: FloatArray) -> list[FloatArray]:
    """Height above the smoothed terrain, and the smoothed terrain's slopes, at each scale."""
    fields = []
    for scale in SCALES:
        smooth = gaussian_filter(height, scale, mode="nearest")
        fields += [height - smooth, *np.gradient(smooth)]
    return fields


def _shelter(height: FloatArray) -> list[FloatArray]:
    """The steepest rise from a cell to the terrain in each direction (Winstral et al. 2002, negative on summits)."""
    reach = max(REACH)
    padded = np.pad(height, reach, mode="edge")
    rows, cols = height.shape
    fields = []
    for angle in 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS:
        rises = []
        for distance in REACH:
            row, col = (reach + round(distance * part) for part in (np.sin(angle), np.cos(angle)))
            rises.append((padded[row : row + rows, col : col + cols] - height) / distance)
        rise = np.max(rises, axis=0)
        fields.append(np.clip(rise, *(np.array([-1, 1]) * MAX_SHELTER * (rise.std() or 1))))
    return fields


def _coast(land: FloatArray) -> list[FloatArray]:
    """The signed distance to the coast, positive on land, levelled off at each of COASTS."""
    is_land = land >= 0.5
    if is_land.all() or not is_land.any():
        return [np.zeros_like(land)] * len(COASTS)
    distance = distance_transform_edt(is_land) - distance_transform_edt(~is_land)
    return [np.tanh(distance / scale) for scale in COASTS]
