"""Fields of the ground on the fine grid, as the networks are given them: terrain, land cover, latitude."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj  # noqa: F401  before rasterio, whose PROJ would otherwise be found first
from numpy.typing import NDArray

from ldmdown.data.grid import Grid
from ldmdown.errors import LdmdownError

Field = NDArray[np.float32]

PUBLISHED = ("dtm", "land_cover_classes", "lat")  # *_2km_domain_trim_EPSG3035.tif
CLASSES = 16  # of land cover


def read_published(folder: Path) -> tuple[tuple[str, ...], Field, Grid]:
    """Names, fields (S, rows, cols) and grid of the published archive's `static_var` folder.

    Terrain height and latitude have zero mean and unit deviation; between them stands a mask of 0 and 1 for
    each class of land cover, from as many bands or from one band of class numbers.

    Raises
    ------
    LdmdownError
        if a file is missing, or the files do not share a grid.
    """
    read = {kind: _raster(folder, kind) for kind in PUBLISHED}
    grids = {kind: grid for kind, (_, grid) in read.items()}
    for kind, grid in grids.items():
        if grid != grids["dtm"]:
            raise LdmdownError(
                folder, f"{kind} and dtm are on different grids", found=f"{grid}", expected=f"{grids['dtm']}"
            )
    cover = read["land_cover_classes"][0]
    if len(cover) == 1:
        classes = np.unique(cover[np.isfinite(cover)])
        cover = (cover == classes[:, None, None]).astype(np.float32)
    if len(cover) != CLASSES:
        raise LdmdownError(folder, "land_cover_classes does not hold what was published",
                           found=f"{len(cover)} classes", expected=f"{CLASSES} classes")  # fmt: skip
    names = ("z", *(f"land_cover_{number}" for number in range(CLASSES)), "lat")
    fields = [_standard(read["dtm"][0]), cover, _standard(read["lat"][0])]
    return names, np.concatenate(fields), grids["dtm"]


def _standard(field: Field) -> Field:
    return (field - field.mean()) / field.std()


def _raster(folder: Path, kind: str) -> tuple[Field, Grid]:
    import rasterio  # GDAL, which only this needs
    from rasterio.errors import RasterioIOError

    found = sorted(folder.glob(f"{kind}*.tif"))
    if not found:
        raise LdmdownError(folder, f"{kind} is missing", found=", ".join(sorted(p.name for p in folder.glob("*"))),
                           expected=f"{kind}_2km_domain_trim_EPSG3035.tif",
                           cure="give the folder static_var of the published archive")  # fmt: skip
    try:
        with rasterio.open(found[0]) as raster:
            transform = raster.transform
            grid = Grid(west=transform.c, north=transform.f, rows=raster.height, cols=raster.width, spacing=transform.a)
            return raster.read().astype(np.float32), grid
    except RasterioIOError as error:
        raise LdmdownError(found[0], "cannot be read as GeoTIFF", found=str(error)) from None
