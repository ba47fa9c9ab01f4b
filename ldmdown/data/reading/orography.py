"""One static field of a NetCDF or GRIB file, such as heights or a land-sea mask, whatever it is called."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ldmdown.data.grid import SourceGrid
from ldmdown.data.reading.blocks import FieldBlock
from ldmdown.data.reading.files import GriddedFiles
from ldmdown.data.units import canonical, conversion
from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array


def read_heights(path: str | Path) -> tuple[SourceGrid, Float32Array]:
    """The grid, and heights of the ground [m] (rows, cols), of a file of heights or of geopotential.

    Raises
    ------
    LdmdownError
        if the file cannot be read, holds more than one field, or its units are not understood.
    """
    return read_static(path, "m")


def read_static(path: str | Path, units: str) -> tuple[SourceGrid, Float32Array]:
    """The grid of the one field of a file, at its first time, and its values (rows, cols) in these units.

    Values without units are taken to have them.

    Raises
    ------
    LdmdownError
        if the file cannot be read, holds more than one field, or its units are not understood.
    """
    with GriddedFiles([path]) as files:
        block = _only_block(files)
        found = units if block.units is None else str(block.units)
        convert = conversion(canonical(found), units)
        if convert is None or convert.rate:
            raise LdmdownError(
                path,
                "has units that are not understood",
                found=found,
                expected=units,
                fix="correct the units attribute",
            )
        grid = block.axes.grid
        values = block.read(slice(0, 1), np.arange(len(grid.y)), np.arange(len(grid.x)))[0]
        return grid, convert(values).astype(np.float32)


def _only_block(files: GriddedFiles) -> FieldBlock:
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
    return blocks[0]
