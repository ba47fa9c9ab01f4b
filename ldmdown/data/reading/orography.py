"""One static field of a NetCDF or GRIB file, such as heights or a land-sea mask, whatever it is called."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ldmdown.data.grid import SourceGrid
from ldmdown.data.reading.files import GriddedFiles
from ldmdown.data.units import canonical, require_conversion
from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array, FloatArray

SHORE = 0.5  # [m] above which ground is land


def check_complete(path: str | Path, heights: FloatArray) -> None:
    """Refuse missing values among the heights (rows, cols) that are used of a file.

    Raises LdmdownError with how many there are.
    """
    missing = np.count_nonzero(np.isnan(heights))
    if missing:
        raise LdmdownError(
            path,
            "lacks heights that are used",
            found=f"no value in {missing} of {heights.size} cells",
            expected="a height everywhere, 0 m at sea",
            fix="where only the sea is missing, fill it with `cdo setmisstoc,0`",
        )


def read_heights(path: str | Path) -> tuple[SourceGrid, Float32Array]:
    """The grid, and heights of the ground [m] (rows, cols), of a file of heights or of geopotential.

    Heights without units are taken for metres.

    Raises LdmdownError if the file cannot be read, holds more than one field, or its units are not understood.
    """
    grid, values, units = read_static(path)
    convert = require_conversion(path, "the height", units or "m", "m", expected="m, or m2 s-2 of geopotential")
    return grid, convert(values).astype(np.float32)


def read_static(path: str | Path) -> tuple[SourceGrid, Float32Array, str]:
    """The grid of the one field of a file, its values (rows, cols) at its first time, and their units, if any.

    Raises LdmdownError if the file cannot be read, or holds more than one field.
    """
    with GriddedFiles([path]) as files:
        names = [(source, name) for source in files.sources for name in source.gridded]
        blocks = [block for source, name in names for block in source.blocks(name, None, static=True)]
        if len(blocks) != 1:
            raise LdmdownError(
                files.label,
                "does not hold one static field",
                found=", ".join(name for _, name in names) or "none",
                expected="one field on a regular grid",
                fix="take the one that is meant out of it with `cdo selname`",
            )
        grid, units = blocks[0].axes.grid, blocks[0].units
        values = blocks[0].read(slice(0, 1), np.arange(len(grid.y)), np.arange(len(grid.x)))[0]
        return grid, values, canonical(str(units)) if units else ""
