"""ERA5 as it arrives -> predictors on the coarse grid.

`open_era5` gives every file the same form: dimensions (time, latitude, longitude), latitude falling,
longitude rising within -180..180, ECMWF short names, the units of data/variables, hours sorted and unique.
Values are read hour by hour. `CoarsePredictors` interpolates them to a window of the coarse grid.
"""

from __future__ import annotations

import glob
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ldmdown.data.grid import Array, Grid, SourceGrid, Window, regrid
from ldmdown.data.variables import Variable, variable
from ldmdown.errors import LdmdownError

RENAMED = {
    "valid_time": "time",
    "lat": "latitude",
    "lon": "longitude",
    "pressure_level": "level",
    "isobaricInhPa": "level",
    "plev": "level",
}
CONVERSIONS: dict[tuple[str, str], tuple[float, float]] = {  # (found, wanted): factor, offset
    ("degC", "K"): (1, 273.15),
    ("Celsius", "K"): (1, 273.15),
    ("C", "K"): (1, 273.15),
    ("hPa", "Pa"): (100, 0),
    ("mbar", "Pa"): (100, 0),
    ("millibars", "Pa"): (100, 0),
    ("mm", "m"): (1e-3, 0),
    ("kg m-2", "m"): (1e-3, 0),
    ("W m-2", "J m-2"): (3600, 0),
    ("g kg-1", "kg kg-1"): (1e-3, 0),
}
EQUAL_UNITS = {"m of water equivalent": "m", "m/s": "m s-1", "Kelvin": "K", "kelvin": "K", "(0 - 1)": "1"}
NATIVE_SPACING = 0.25  # of ERA5 [degrees]

Hours = NDArray[np.int64]


def open_era5(files: Sequence[str | Path], names: Sequence[str]) -> xr.Dataset:
    """The variables `names` from all files and globs together; derived ones are left out.

    Raises
    ------
    LdmdownError
        if a file is missing or unreadable, a variable is in none of them, or their grids or hours do not meet.
    """
    return as_era5({label: part for path in _expand(files) for label, part in _open(path).items()}, names)


def as_era5(contents: Mapping[Path, xr.Dataset], names: Sequence[str]) -> xr.Dataset:
    """As `open_era5`, of datasets that are open; the paths are what errors call them."""
    contents = {path: _one_form(dataset, path) for path, dataset in contents.items()}
    paths = list(contents)
    wanted = [variable(name) for name in names if not variable(name).derived]
    label = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    parts = {
        known.name: [part for path in paths if (part := _find(contents[path], known, path)) is not None]
        for known in wanted
    }
    missing = [known for known in wanted if not parts[known.name]]
    if missing:
        raise _missing(label, missing, contents)
    fields = {name: _one_series(pieces, label) for name, pieces in parts.items()}
    dataset = xr.Dataset(_common_hours(fields, label))
    return dataset.assign_attrs(source_files=[str(path) for path in paths])


def source_grid(dataset: xr.Dataset) -> SourceGrid:
    """The grid of what `open_era5` returned."""
    return SourceGrid(dataset.latitude.values.astype(float), dataset.longitude.values.astype(float))


def hours_of(dataset: xr.Dataset) -> Hours:
    """Its times as hours since 1970-01-01T00."""
    return dataset.time.values.astype("datetime64[h]").astype(np.int64)


def covered_window(dataset: xr.Dataset, grid: Grid) -> Window | None:
    """The largest window of coarse cells whose centres the data enclose; None if there is none."""
    coarse = grid.coarse
    return grid.covered(source_grid(dataset).covers(coarse.lat, coarse.lon))


def check_coverage(dataset: xr.Dataset, grid: Grid, window: Window) -> None:
    """Refuse data that do not enclose every coarse cell of a window.

    Raises
    ------
    LdmdownError
        naming the two boxes and the cures.
    """
    row, col, rows, cols = window
    coarse = grid.coarse
    lat, lon = (part[row : row + rows, col : col + cols] for part in (coarse.lat, coarse.lon))
    if source_grid(dataset).covers(lat, lon).all():
        return
    here = covered_window(dataset, grid)
    download = "download a larger area"
    raise LdmdownError(
        _label(dataset),
        "covers too little of the domain" if here else "lies outside the domain",
        found=_box(dataset.latitude.values, dataset.longitude.values),
        expected=f"at least {_box(lat, lon)}",
        cure=f"{download}, or downscale what is there with --region covered" if here else download,
    )


def cos_zenith(hour: float | Array, lat: Array, lon: Array) -> Array:
    """Cosine of the solar zenith angle at an hour since 1970-01-01T00 UTC; negative at night.

    Declination and equation of time of Spencer (1971); within 0.01 of an almanac.
    """
    day = np.asarray(hour) / 24
    date = day.astype("datetime64[D]") if np.ndim(day) else np.datetime64(int(np.floor(day)), "D")
    start = date.astype("datetime64[Y]").astype("datetime64[D]")
    angle = 2 * np.pi * ((date - start).astype(float) + day % 1 - 0.5) / 365.25
    declination = (
        0.006918
        - 0.399912 * np.cos(angle)
        + 0.070257 * np.sin(angle)
        - 0.006758 * np.cos(2 * angle)
        + 0.000907 * np.sin(2 * angle)
        - 0.002697 * np.cos(3 * angle)
        + 0.00148 * np.sin(3 * angle)
    )
    equation_of_time = 229.18 * (  # [minutes]
        0.000075
        + 0.001868 * np.cos(angle)
        - 0.032077 * np.sin(angle)
        - 0.014615 * np.cos(2 * angle)
        - 0.040849 * np.sin(2 * angle)
    )
    turn = 2 * np.pi * (day % 1 - 0.5 + lon / 360 + equation_of_time / 1440)
    latitude = np.radians(lat)
    return np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(turn)


def cds_script(names: Sequence[str], grid: Grid, first: date, last: date) -> str:
    """A Python program that downloads these variables over a grid, a month a file, with cdsapi."""
    known = [variable(name) for name in names if not variable(name).derived]
    lat, lon = grid.coarse.lat, grid.coarse.lon
    edges = (np.ceil(lat.max() / NATIVE_SPACING), np.floor(lon.min() / NATIVE_SPACING),
             np.floor(lat.min() / NATIVE_SPACING), np.ceil(lon.max() / NATIVE_SPACING))  # fmt: skip
    area = [float(edge) * NATIVE_SPACING + step for edge, step in zip(edges, (0.25, -0.25, -0.25, 0.25), strict=True)]
    kinds = {
        "single": ("reanalysis-era5-single-levels", [one for one in known if one.level is None], {}),
        "pressure": (
            "reanalysis-era5-pressure-levels",
            [one for one in known if one.level is not None],
            {"pressure_level": sorted({str(one.level) for one in known if one.level is not None})},
        ),
    }
    months = [
        np.datetime64(first, "M") + n
        for n in range(int((np.datetime64(last, "M") - np.datetime64(first, "M")).astype(int)) + 1)
    ]
    lines = [
        "# needs `pip install cdsapi` and an account: https://cds.climate.copernicus.eu/how-to-api",
        "import cdsapi",
        "",
        "client = cdsapi.Client()",
    ]
    for month in months:
        days = np.arange(month.astype("datetime64[D]"), (month + 1).astype("datetime64[D]"))
        days = days[(days >= np.datetime64(first, "D")) & (days <= np.datetime64(last, "D"))]
        for kind, (dataset, variables, levels) in kinds.items():
            if not variables:
                continue
            request = {
                "product_type": ["reanalysis"],
                "variable": [str(one.cds) for one in variables],
                **levels,
                "year": [str(month)[:4]],
                "month": [str(month)[5:7]],
                "day": [str(day)[8:10] for day in days],
                "time": [f"{hour:02}:00" for hour in range(24)],
                "area": area,
                "data_format": "netcdf",
            }
            body = "".join(f"        {key!r}: {value!r},\n" for key, value in request.items())
            name = f"era5_{kind}_{str(month).replace('-', '')}.nc"
            lines.append(f"client.retrieve(\n    {dataset!r},\n    {{\n{body}    }},\n    {name!r},\n)")
    return "\n".join(lines) + "\n"


class CoarsePredictors:
    """Predictors of a dataset on a window of the coarse grid, an hour at a time.

    Cells beyond the data's own box, which only a margin of the networks asks for, take the value at its edge.

    Parameters
    ----------
    dataset
        from `open_era5`.
    grid
        the fine grid of the system.
    window
        (row, col, rows, cols) of coarse cells.
    names
        the predictors in the order of the channels, derived ones included.
    nearest
        take the nearest value instead of interpolating bilinearly.
    """

    def __init__(
        self, dataset: xr.Dataset, grid: Grid, window: Window, names: Sequence[str], *, nearest: bool = False
    ) -> None:
        self.dataset = dataset
        self.variables = [variable(name) for name in names]
        self.times = dataset.time.values
        self.hours = hours_of(dataset)
        row, col, rows, cols = window
        coarse = grid.coarse
        self.lat, self.lon = (part[row : row + rows, col : col + cols] for part in (coarse.lat, coarse.lon))
        source = source_grid(dataset)
        lat = np.clip(self.lat, source.y.min(), source.y.max())
        lon = np.clip(self.lon, source.x.min(), source.x.max()) if not source.turns else self.lon
        weights = source.weights(lat, lon, nearest=nearest)
        used = np.unique(weights.indices)
        y, x = np.unravel_index(used, source.shape)
        self.rows, self.cols = (slice(part.min(), part.max() + 1) for part in (y, x))
        flat = np.arange(source.y.size * source.x.size).reshape(source.shape)[self.rows, self.cols]
        self.weights = weights[:, flat.ravel()]

    def __len__(self) -> int:
        return len(self.hours)

    def read(self, index: int) -> NDArray[np.float32]:
        """(P, rows, cols) of one hour in physical units; NaN where a variable may be missing and is.

        Raises
        ------
        LdmdownError
            if a value is missing that must not be, or outside its physical bounds.
        """
        hour = self.dataset.isel(time=index)
        fields = []
        for known in self.variables:
            if known.name == "cossza":
                fields.append(cos_zenith(int(self.hours[index]), self.lat, self.lon))
                continue
            field = hour[known.name][self.rows, self.cols].values
            self._check(field, known, hour)
            fields.append(regrid(self.weights, field.astype(np.float32), self.lat.shape))
        return np.stack(fields).astype(np.float32)

    def _check(self, field: Array, known: Variable, hour: xr.Dataset) -> None:
        low, high = known.bounds
        wrong = (field < low) | (field > high)
        if known.fill is None:
            wrong |= np.isnan(field)
        if not wrong.any():
            return
        y, x = np.argwhere(wrong)[0]
        lat, lon = (float(hour.latitude[self.rows][y]), float(hour.longitude[self.cols][x]))
        raise LdmdownError(
            _label(self.dataset),
            f"{known.name} is {'missing' if np.isnan(field[y, x]) else 'not physical'}",
            found=f"{field[y, x]:g} {known.units} at {lat:g} N, {lon:g} E, {_time(hour.time.values)}",
            expected=f"{low:g} to {high:g} {known.units}",
            cure="check the units attribute of the file, or download these hours again",
        )


def _expand(files: Sequence[str | Path]) -> list[Path]:
    paths: list[Path] = []
    for file in files:
        found = sorted(glob.glob(str(file))) if any(sign in str(file) for sign in "*?[") else [str(file)]  # noqa: PTH207
        if not found or not Path(found[0]).exists():
            raise LdmdownError(file, "no such file", cure="check the path; quote a glob or let the shell expand it")
        paths.extend(Path(one) for one in found)
    return paths


def _open(path: Path) -> dict[Path, xr.Dataset]:
    """One file, whatever its format, by its first bytes: as many datasets as it holds."""
    with path.open("rb") as file:
        start = file.read(4)
    try:
        if start.startswith((b"\x89HDF", b"CDF")):
            return {path: xr.open_dataset(path, engine="netcdf4", chunks={})}
        if start == b"GRIB":
            return _open_grib(path)
        if start.startswith(b"PK"):
            return _open_zip(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise LdmdownError(path, "cannot be read", found=str(error), cure="download it again") from None
    raise LdmdownError(
        path, "is no NetCDF, GRIB or zip file", found=f"first bytes {start!r}", cure="check the download"
    )


def _open_grib(path: Path) -> dict[Path, xr.Dataset]:
    """Opened as one dataset, fields at 2 m and at 10 m would hide each other."""
    import cfgrib  # after pyproj, which crashes otherwise

    parts = cfgrib.open_datasets(str(path), indexpath="", chunks={})
    return (
        {Path(f"{path}, part {number}"): part for number, part in enumerate(parts, 1)}
        if parts[1:]
        else {path: parts[0]}
    )


def _open_zip(path: Path) -> dict[Path, xr.Dataset]:
    """As the CDS packs instantaneous and accumulated variables; unpacked for as long as the program runs."""
    folder = tempfile.TemporaryDirectory(prefix="ldmdown-")
    _unpacked.append(folder)
    found: dict[Path, xr.Dataset] = {}
    with zipfile.ZipFile(path) as archive:
        for number, member in enumerate(archive.infolist()):
            if member.is_dir():
                continue
            inside = Path(folder.name) / f"{number}-{Path(member.filename).name}"
            with archive.open(member) as packed, inside.open("wb") as file:
                shutil.copyfileobj(packed, file)
            found |= {path / Path(member.filename).name: part for part in _open(inside).values()}
    return found


_unpacked: list[tempfile.TemporaryDirectory[str]] = []


def _one_form(dataset: xr.Dataset, path: Path) -> xr.Dataset:
    """Dimensions and coordinates as `open_era5` promises."""
    names = {*dataset.dims, *dataset.coords}
    if "valid_time" in names and "time" in names:
        dataset = dataset.drop_vars("time") if "time" not in dataset.dims else dataset.drop_vars("valid_time")
        names = {*dataset.dims, *dataset.coords}
    dataset = dataset.rename({old: new for old, new in RENAMED.items() if old in names})
    if "expver" in dataset.dims:
        dataset = _final_first(dataset)
    absent = [name for name in ("time", "latitude", "longitude") if name not in dataset.coords]
    if absent:
        raise LdmdownError(
            path,
            f"has no coordinate {', '.join(absent)}",
            found=", ".join(map(str, dataset.coords)),
            expected="time, latitude, longitude (or valid_time, lat, lon)",
            cure="give ERA5 on its regular longitude-latitude grid",
        )
    if "time" not in dataset.dims:
        dataset = dataset.expand_dims("time")
    kept = {"time", "latitude", "longitude", "level"}
    dataset = dataset.drop_vars([str(name) for name in dataset.coords if name not in kept])
    dataset = dataset.assign_coords(longitude=(dataset.longitude + 180) % 360 - 180)
    return dataset.sortby("longitude").sortby("latitude", ascending=False)


def _final_first(dataset: xr.Dataset) -> xr.Dataset:
    """ERA5 (expver 1) where it is there, then the preliminary ERA5T (5)."""
    versions = sorted(dataset.expver.values, key=int)
    combined = dataset.sel(expver=versions[0], drop=True)
    for version in versions[1:]:
        combined = combined.combine_first(dataset.sel(expver=version, drop=True))
    return combined


def _find(dataset: xr.Dataset, known: Variable, path: Path) -> xr.DataArray | None:
    """A variable under any of its names, in its units; None if the file has it not."""
    for name in (known.name, *known.aliases):
        if name not in dataset:
            continue
        field = dataset[name]
        if known.level is not None and name != known.name:
            if "level" not in field.coords:
                continue
            pressure = np.atleast_1d(field.level.values).astype(float)
            pressure = pressure / 100 if pressure.max() > 2000 else pressure  # [hPa]
            if known.level not in pressure:
                continue
            field = field.isel(level=int(np.flatnonzero(pressure == known.level)[0])) if field.level.ndim else field
        field = field.drop_vars("level", errors="ignore").squeeze(
            [dim for dim in field.dims if dim not in ("time", "latitude", "longitude")]
        )
        return _convert(field, known, path).transpose("time", "latitude", "longitude").rename(known.name)
    return None


def _convert(field: xr.DataArray, known: Variable, path: Path) -> xr.DataArray:
    units = str(field.attrs.get("units", known.units)).replace("**", "").strip()
    units = EQUAL_UNITS.get(units, units)
    if units == known.units or (known.units == "1" and units in ("", "dimensionless")):
        return field
    if (units, known.units) not in CONVERSIONS:
        raise LdmdownError(
            path,
            f"{field.name} has units that are not understood",
            found=units,
            expected=known.units,
            cure="correct its units attribute",
        )
    factor, offset = CONVERSIONS[units, known.units]
    return field * factor + offset


def _one_series(pieces: list[xr.DataArray], label: str) -> xr.DataArray:
    """Files of one variable joined along time, sorted, the first of duplicated hours kept."""
    first = pieces[0]
    for piece in pieces[1:]:
        same = all(
            piece[axis].size == first[axis].size and np.allclose(piece[axis], first[axis], atol=1e-4)
            for axis in ("latitude", "longitude")
        )
        if not same:
            raise LdmdownError(
                label,
                f"the files hold {first.name} on different grids",
                found=f"{_box(first.latitude, first.longitude)} and {_box(piece.latitude, piece.longitude)}",
                cure="give files of one area",
            )
    axes = {axis: first[axis] for axis in ("latitude", "longitude")}
    joined = xr.concat([piece.assign_coords(axes) for piece in pieces], dim="time", join="exact")
    return joined.sortby("time").drop_duplicates("time")


def _common_hours(fields: dict[str, xr.DataArray], label: str) -> dict[str, xr.DataArray]:
    first = next(iter(fields.values()))
    for name, field in fields.items():
        if field.shape[1:] != first.shape[1:] or not (
            np.allclose(field.latitude, first.latitude, atol=1e-4)
            and np.allclose(field.longitude, first.longitude, atol=1e-4)
        ):
            raise LdmdownError(
                label,
                f"{name} and {first.name} are on different grids",
                found=f"{_box(field.latitude, field.longitude)} and {_box(first.latitude, first.longitude)}",
                cure="give files of one area",
            )
    axes = {axis: first[axis] for axis in ("latitude", "longitude")}
    common = first.time.values
    for field in fields.values():
        common = np.intersect1d(common, field.time.values)
    if not len(common):
        raise LdmdownError(label, f"{', '.join(fields)} have no hour in common", cure="give files of the same hours")
    return {name: field.assign_coords(axes).sel(time=common) for name, field in fields.items()}


def _missing(label: str, missing: list[Variable], contents: Mapping[Path, xr.Dataset]) -> LdmdownError:
    names = ", ".join(known.name for known in missing)
    held = sorted({str(name) for dataset in contents.values() for name in dataset.data_vars})
    looked = "; ".join(", ".join((known.name, *known.aliases)) for known in missing)
    return LdmdownError(
        label,
        f"{names} {'is' if len(missing) == 1 else 'are'} missing",
        found=", ".join(held) or "no variables",
        expected=f"under one of the names {looked}",
        cure="name all files together; `ldmdown request --start DAY --end DAY` prints the script that gets them",
    )


def _label(dataset: xr.Dataset) -> str:
    files = dataset.attrs.get("source_files", ["the dataset"])
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def _box(lat: Array | xr.DataArray, lon: Array | xr.DataArray) -> str:
    west, east, south, north = (float(edge) for edge in (lon.min(), lon.max(), lat.min(), lat.max()))
    return f"{west:.2f} to {east:.2f} E, {south:.2f} to {north:.2f} N"


def _time(value: np.datetime64) -> str:
    return f"{np.datetime_as_string(value, unit='h')}:00"
