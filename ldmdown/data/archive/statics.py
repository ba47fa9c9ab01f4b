"""Static fields on the fine grid, as the networks are given them: terrain, sea, land cover, latitude.

They are made from files that the configuration names in `data.statics`, or read from the published archive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
from scipy.ndimage import distance_transform_edt, zoom

from ldmdown.config import Config
from ldmdown.data.archive.sources import list_files
from ldmdown.data.grid import Grid, regrid
from ldmdown.data.reading.orography import read_heights
from ldmdown.data.reading.published import STATICS
from ldmdown.data.reading.raster import cell_means, values_held
from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array, FloatArray

PUBLISHED = ("dtm", "land_cover_classes", "lat")  # *_2km_domain_trim_EPSG3035.tif
CLASSES = 16  # of land cover


@dataclass(frozen=True)
class StaticFields:
    """Static fields (S, rows, cols), by name what was done to each to normalise it, and the files they come from."""

    fields: Float32Array
    normalization: dict[str, dict[str, Any]]  # name: mean, std, units
    files: tuple[Path, ...]


def static_fields(config: Config, root: Path) -> StaticFields | None:
    """Make the static fields that a configuration names; None where the networks learn an embedding.

    Terrain height and its std within a cell, latitude and distance to the coast have zero mean and
    unit standard deviation; the share of land and of each class of land cover stays between 0 and 1.

    Raises LdmdownError if a field is asked for that is not known or whose files are not named, or files do not cover
    the grid.
    """
    names, grid = config.statics.fields, Grid.of(config.grid)
    if not names:
        return None
    for pair in config.data.pairs:
        if pair.published is not None:
            return _published(root / pair.published / STATICS, names, grid)
    maker = _Maker(config, root, grid)
    fields, normalization = [], {}
    for name in names:
        field, units = maker.make(name)
        mean, std = (float(field.mean()), float(field.std()) or 1.0) if units != "1" else (0.0, 1.0)
        fields.append((field - mean) / std)
        normalization[name] = {"mean": mean, "std": std, "units": units}
    return StaticFields(np.stack(fields).astype(np.float32), normalization, tuple(sorted(maker.used)))


class _Maker:
    """Makes one field after another, each kind of files averaged once."""

    def __init__(self, config: Config, root: Path, grid: Grid) -> None:
        self.config, self.root, self.grid = config, root, grid
        self.used: set[Path] = set()

    def make(self, name: str) -> tuple[FloatArray, str]:
        """A field (rows, cols) and its units."""
        if name in ("z", "z_std"):
            return self._terrain[name], "m"
        if name == "coarse_z":
            return self._coarse_terrain(), "m"
        if name == "land_sea_mask":
            return self._land, "1"
        if name == "coast_distance":
            return self._coast_distance(), "m"
        if name == "lat":
            return self.grid.lat, "degrees_north"
        kind, _, number = name.rpartition("_")
        if kind == "land_cover" and number.isdigit():
            return self._land_cover[name], "1"
        raise LdmdownError(
            self.config.name,
            "statics.fields names a field that nothing makes",
            found=name,
            expected="z, z_std, coarse_z, land_sea_mask, coast_distance, lat, land_cover_NUMBER",
            fix="correct statics.fields; without it the networks learn an embedding",
        )

    def _files(self, kind: str, wanted: str) -> list[Path]:
        patterns = getattr(self.config.data.statics, kind)
        if not patterns:
            raise LdmdownError(
                self.config.name,
                f"statics.fields has {wanted}, which is made from files",
                expected=f"data.statics.{kind}: a GeoTIFF, NetCDF or GRIB file",
                fix=f"name it, or leave out {wanted}",
            )
        tiles = [f"{name}/*.tif*" if (self.root / name).is_dir() else name for name in patterns]
        files = [Path(name) for name in list_files(self.root, tiles, f"statics.{kind}")]
        self.used.update(files)
        return files

    @cached_property
    def _terrain(self) -> dict[str, FloatArray]:
        """Mean height over each cell, and the std of the heights within it; the open sea may have no tiles."""
        files = self._files("terrain", "z")
        means, pixel = cell_means(files, self.grid, {"z": lambda z: z, "squares": np.square})
        if pixel > self.grid.spacing / 2 and "z_std" in self.config.statics.fields:
            raise LdmdownError(
                files[0],
                "is too coarse for z_std",
                found=f"pixels of {pixel:.0f} m",
                expected=f"up to {self.grid.spacing / 2:g} m",
                fix="leave out z_std, or give a finer terrain",
            )
        if self.config.data.statics.land_sea_mask:
            sea = np.isnan(means["z"]) & (self._land == 0)
            means = {name: np.where(sea, 0, mean) for name, mean in means.items()}
            fix = "add the tiles that are missing, or choose a smaller grid"
        else:
            fix = "add the tiles that are missing, choose a smaller grid, or name data.statics.land_sea_mask: "
            fix += "where it has no land, terrain may be missing"
        _check_covers(means["z"], self.grid, files, fix)
        variance = np.maximum(means["squares"] - np.square(means["z"]), 0)
        return {"z": means["z"], "z_std": np.sqrt(variance)}

    def _coarse_terrain(self) -> FloatArray:
        """Heights of the terrain that the coarse fields belong to, interpolated as these are."""
        files = self._files("coarse_terrain", "coarse_z")
        if len(files) > 1:
            raise LdmdownError(files[1], "is a second file of data.statics.coarse_terrain", expected="one file")
        source, heights = read_heights(files[0])
        coarse = self.grid.coarse
        on_coarse = regrid(source.weights(coarse.lat, coarse.lon), heights, coarse.shape)
        _check_covers(on_coarse, coarse, files, "give a terrain of the whole grid")
        return zoom(on_coarse, self.grid.factor, order=1, mode="nearest", grid_mode=True)

    @cached_property
    def _land(self) -> FloatArray:
        """The share of each cell that is land: of the mask, or above sea level where no mask is named."""
        named = bool(self.config.data.statics.land_sea_mask)
        files = self._files("land_sea_mask" if named else "terrain", "land_sea_mask")
        measure = (lambda land: land) if named else (lambda z: np.where(np.isnan(z), np.nan, z > 0))
        share = cell_means(files, self.grid, {"land": measure})[0]["land"].round(6)  # sums are rounded
        _check_covers(share, self.grid, files, "give a mask of the whole grid")
        if share.min() < 0 or share.max() > 1:
            raise LdmdownError(
                files[0],
                "is no land-sea mask",
                found=f"{share.min():g} to {share.max():g}",
                expected="0 (sea) to 1 (land)",
            )
        return share

    @cached_property
    def _land_cover(self) -> dict[str, FloatArray]:
        """The share of each cell that is of each class, by name."""
        files = self._files("land_cover", "land_cover")
        names = [name for name in self.config.statics.fields if name.startswith("land_cover_")]
        classes = {name: int(name.rpartition("_")[2]) for name in names}
        held = values_held(files, self.grid)
        absent = [name for name, number in classes.items() if number not in held]
        if absent:
            raise LdmdownError(
                files[0],
                "has no pixel near the grid of a class that is named",
                found="classes " + ", ".join(f"{value:g}" for value in held[:50]),
                expected=", ".join(absent),
                fix="correct statics.fields",
            )
        measures = {name: partial(np.equal, number) for name, number in classes.items()}
        shares: dict[str, FloatArray] = dict(cell_means(files, self.grid, measures)[0])
        for share in shares.values():
            _check_covers(share, self.grid, files, "give land cover of the whole grid")
        return shares

    def _coast_distance(self) -> FloatArray:
        """From a cell's centre to the coast that lies in the grid [m], negative at sea."""
        land = self._land >= 0.5
        if land.all() or not land.any():
            raise LdmdownError(
                self.config.name,
                "statics.fields has coast_distance, but the grid has no coast",
                fix="leave out coast_distance",
            )
        inland, offshore = distance_transform_edt(land), distance_transform_edt(~land)
        return np.where(land, inland - 0.5, 0.5 - offshore) * self.grid.spacing


def _check_covers(field: FloatArray, grid: Grid, files: Sequence[Path], fix: str) -> None:
    missing = np.isnan(field)
    if not missing.any():
        return
    row, col = np.argwhere(missing)[0]
    held = ~missing
    found = f"{held.mean():.1%} of its cells"
    if held.any():
        lat, lon = grid.lat[held], grid.lon[held]
        found += f", within {lon.min():.2f} to {lon.max():.2f} E, {lat.min():.2f} to {lat.max():.2f} N"
    raise LdmdownError(
        files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more",
        "does not cover the grid of the configuration",
        found=found,
        expected=f"all, such as {grid.lat[row, col]:.2f} N, {grid.lon[row, col]:.2f} E",
        fix=fix,
    )


def _published(folder: Path, wanted: tuple[str, ...], grid: Grid) -> StaticFields:
    names, fields, found = read_published(folder)
    if names != wanted or found.shape != grid.shape:
        raise LdmdownError(
            folder,
            "does not hold what the configuration names",
            found=f"{', '.join(names)} on {found.rows} x {found.cols}",
            expected=f"{', '.join(wanted)} on {grid.rows} x {grid.cols}",
        )
    return StaticFields(fields, {name: {} for name in names}, tuple(sorted(folder.glob("*.tif"))))


def read_published(folder: Path) -> tuple[tuple[str, ...], Float32Array, Grid]:
    """Names, fields (S, rows, cols) and grid of the published archive's `static_var` folder.

    Terrain height and latitude have zero mean and unit standard deviation; between them stands a mask of 0 and 1 for
    each class of land cover, from as many bands or from one band of class numbers.

    Raises LdmdownError if a file is missing, or the files do not share a grid.
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
        raise LdmdownError(
            folder,
            "land_cover_classes does not hold what was published",
            found=f"{len(cover)} classes",
            expected=f"{CLASSES} classes",
        )
    names = ("z", *(f"land_cover_{number}" for number in range(CLASSES)), "lat")
    fields = [_standard(read["dtm"][0]), cover, _standard(read["lat"][0])]
    return names, np.concatenate(fields), grids["dtm"]


def _standard(field: Float32Array) -> Float32Array:
    return (field - field.mean()) / field.std()


def _raster(folder: Path, kind: str) -> tuple[Float32Array, Grid]:
    import rioxarray  # GDAL, which only this needs
    from rasterio.errors import RasterioIOError

    found = sorted(folder.glob(f"{kind}*.tif"))
    if not found:
        raise LdmdownError(
            folder,
            f"{kind} is missing",
            found=", ".join(sorted(p.name for p in folder.glob("*"))),
            expected=f"{kind}_2km_domain_trim_EPSG3035.tif",
            fix="give the folder static_var of the published archive",
        )
    try:
        with cast(xr.DataArray, rioxarray.open_rasterio(found[0])) as raster:
            place, (_, rows, cols) = raster.rio.transform(), raster.shape
            return raster.values.astype(np.float32), Grid("EPSG:3035", place.c, place.f, rows, cols, place.a)
    except RasterioIOError as error:
        raise LdmdownError(found[0], "cannot be read as GeoTIFF", found=str(error)) from None
