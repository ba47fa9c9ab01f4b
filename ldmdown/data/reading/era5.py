"""ERA5 as it arrives -> predictors on the coarse grid.

`open_era5` gives every file the same form: dimensions (time, latitude, longitude), latitude falling,
longitude rising, ECMWF short names, the units of data/variables, hours sorted and unique. Values are read
when they are asked for. `CoarsePredictors` interpolates them to a window of the coarse grid.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse
import xarray as xr
from numpy.typing import NDArray
from xarray.core.indexing import LazilyIndexedArray

from ldmdown.data.grid import Array, Grid, SourceGrid, Window, regrid
from ldmdown.data.reading.files import Source, open_files
from ldmdown.data.reading.layout import Axes, Hours, Layout, Piece
from ldmdown.data.reading.series import Series
from ldmdown.data.units import Conversion, canonical, conversion, likely
from ldmdown.data.variables import Variable, variable
from ldmdown.errors import LdmdownError

NATIVE_SPACING = 0.25  # of ERA5 [degrees]
BLOCK = 24  # hours read at once


def open_era5(files: Sequence[str | Path], names: Sequence[str], *, checkpoint: str | None = None) -> xr.Dataset:
    """The variables `names` from all files together; derived ones are left out.

    Parameters
    ----------
    files
        NetCDF of the old or the new CDS, GRIB, zips, folders, globs, and Zarr, also behind an address such as gs://.
    names
        of data/variables.
    checkpoint
        for which they are meant, as `ldmdown request` would be told.

    Returns
    -------
    xr.Dataset
        with the attributes `source_files`, and `notes` on what was decided that a user should know.

    Raises
    ------
    LdmdownError
        if a file is missing or unreadable, a variable is in none of them, or their grids or hours do not meet.
    """
    return _joined(open_files(files), names, checkpoint)


def as_era5(contents: Mapping[Path, xr.Dataset], names: Sequence[str]) -> xr.Dataset:
    """As `open_era5`, of datasets that are open; the paths are what errors call them."""
    return _joined([(str(path), dataset) for path, dataset in contents.items()], names, None)


def _joined(sources: Sequence[Source], names: Sequence[str], checkpoint: str | None) -> xr.Dataset:
    labels = list(dict.fromkeys(label for label, _ in sources))
    wanted = [variable(name) for name in names if not variable(name).derived]
    layouts = [Layout(label, dataset) for label, dataset in sources]
    pieces = {known.name: _find(layouts, known) for known in wanted}
    missing = [known for known in wanted if not pieces[known.name]]
    if missing:
        raise _missing(_called(labels), missing, layouts, checkpoint)
    axes = _common_axes([(name, piece) for name, found in pieces.items() for piece, _ in found])
    series = {
        known.name: Series(*zip(*pieces[known.name], strict=True), accumulated=known.accumulated) for known in wanted
    }
    timed = {known.name: series[known.name].hours for known in wanted if not known.static}
    hours = _common_hours(timed, _called(labels))
    times = hours.astype("datetime64[h]").astype("datetime64[s]")
    dataset = xr.Dataset(coords={"time": times, "latitude": axes.lat, "longitude": axes.lon})
    for known in wanted:
        one = series[known.name]
        field = xr.Variable(("time", "latitude", "longitude"), LazilyIndexedArray(one), {"units": known.units})
        places = np.zeros(len(hours), np.int64) if known.static else np.searchsorted(one.hours, hours)
        dataset[known.name] = field if np.array_equal(one.hours, hours) else field.isel(time=places)
    notes = list(_notes(layouts, series, hours))
    return dataset.assign_attrs(source_files=labels, notes=notes)


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
        fix=f"{download}, or downscale what is there with --region covered" if here else download,
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


class CoarsePredictors:
    """Predictors of a dataset on a window of the coarse grid, an hour at a time.

    Cells beyond the data's own box, which only a margin of the networks asks for, take the value at its edge.
    Amounts are regridded conservatively, all else bilinearly.

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
        take the nearest value instead of interpolating.
    """

    def __init__(
        self, dataset: xr.Dataset, grid: Grid, window: Window, names: Sequence[str], *, nearest: bool = False
    ) -> None:
        self.dataset = dataset
        self.variables = [variable(name) for name in names]
        self.times = dataset.time.values
        self.hours = hours_of(dataset)
        self.notes: Sequence[str] = dataset.attrs["notes"]
        row, col, rows, cols = window
        coarse = grid.coarse
        self.lat, self.lon = (part[row : row + rows, col : col + cols] for part in (coarse.lat, coarse.lon))
        source = source_grid(dataset)
        lat = np.clip(self.lat, source.y.min(), source.y.max())
        lon = np.clip(self.lon, source.x.min(), source.x.max()) if not source.turns else self.lon
        weights = {"bilinear": source.weights(lat, lon, nearest=nearest)}
        if not nearest and any(known.regridding == "conservative" for known in self.variables):
            shares = source.conservative(grid.window(window).coarse)
            beyond = np.diff(shares.indptr) == 0
            weights["conservative"] = shares + scipy.sparse.diags_array(beyond.astype(np.float32)) @ weights["bilinear"]
        used = np.unique(np.concatenate([one.indices for one in weights.values()]))
        y, x = np.unravel_index(used, source.shape)
        self.rows, self.cols = (slice(part.min(), part.max() + 1) for part in (y, x))
        flat = np.arange(source.y.size * source.x.size).reshape(source.shape)[self.rows, self.cols].ravel()
        self.weights = {kind: one.tocsr()[:, flat] for kind, one in weights.items()}
        self._block = -1
        self._fields: NDArray[np.float32] | None = None
        self._wrong: dict[int, LdmdownError] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.hours)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def read(self, index: int) -> NDArray[np.float32]:
        """(P, rows, cols) of one hour in physical units; NaN where a variable may be missing and is.

        Hours near it are read with it, and kept until others are asked for.

        Raises
        ------
        LdmdownError
            if a value is missing that must not be, or outside its physical bounds.
        """
        block, place = divmod(int(index), BLOCK)
        with self._lock:
            if self._fields is None or block != self._block:
                self._fields, self._wrong = self._load(block * BLOCK)
                self._block = block
            if place in self._wrong:
                raise self._wrong[place]
            return self._fields[place]

    def _load(self, start: int) -> tuple[NDArray[np.float32], dict[int, LdmdownError]]:
        """(hours, P, rows, cols) of a block, and what is wrong with which of its hours."""
        some = self.dataset.isel(time=slice(start, start + BLOCK))
        hours = hours_of(some)
        fields: list[Array] = []
        wrong: dict[int, LdmdownError] = {}
        for known in self.variables:
            if known.name == "cossza":
                fields.append(np.stack([cos_zenith(int(hour), self.lat, self.lon) for hour in hours]))
                continue
            values = some[known.name][:, self.rows, self.cols].values.astype(np.float32)
            wrong = self._errors(values, known, hours) | wrong
            weights = self.weights.get(known.regridding, self.weights["bilinear"])
            fields.append(regrid(weights, values, self.lat.shape))
        return np.stack(fields, axis=1).astype(np.float32), wrong

    def _errors(self, values: Array, known: Variable, hours: Hours) -> dict[int, LdmdownError]:
        low, high = known.bounds
        wrong = (values < low) | (values > high)
        if known.fill is None:
            wrong |= np.isnan(values)
        return {
            int(place): self._error(values[place], wrong[place], known, hours[place])
            for place in np.flatnonzero(wrong.any(axis=(1, 2)))
        }

    def _error(self, field: Array, wrong: NDArray[np.bool_], known: Variable, hour: np.integer) -> LdmdownError:
        y, x = np.argwhere(wrong)[0]
        lat, lon = (float(self.dataset[axis][some][at]) for axis, some, at in
                    (("latitude", self.rows, y), ("longitude", self.cols, x)))  # fmt: skip
        missing = bool(np.isnan(field[y, x]))
        low, high = known.bounds
        units = None if missing else likely(float(np.nanmin(field)), float(np.nanmax(field)), known.units, known.bounds)
        return LdmdownError(
            _label(self.dataset),
            f"{known.name} is {'missing' if missing else 'not physical'}",
            found=f"{field[y, x]:g} {known.units} at {lat:g} N, {lon:g} E, {_moment(hour)}",
            expected=f"{low:g} to {high:g} {known.units}",
            fix=f"these look like {units}: correct the units attribute of the file"
            if units
            else "check the units attribute of the file, or download these hours again",
        )


def _find(layouts: Sequence[Layout], known: Variable) -> list[tuple[Piece, Conversion]]:
    """A variable under any of its names, from every file that has it."""
    found = []
    for layout in layouts:
        for name in (known.name, *known.aliases):
            if name not in layout.dataset.data_vars:
                continue
            level = None if name == known.name else known.level
            pieces = list(layout.pieces(name, level, static=known.static))
            if pieces:
                conversion = _conversion(layout, name, known)
                found += [(piece, conversion) for piece in pieces]
                break
    return found


def _conversion(layout: Layout, name: str, known: Variable) -> Conversion:
    units = str(layout.dataset[name].attrs.get("units", known.units))
    found = conversion(canonical(units), known.units)
    if found is None:
        raise LdmdownError(
            layout.label,
            f"{known.name} has units that are not understood",
            found=units,
            expected=known.units,
            fix="correct its units attribute",
        )
    return found


def _common_axes(pieces: Iterable[tuple[str, Piece]]) -> Axes:
    (name, first), *others = pieces
    for other, piece in others:
        if piece.axes is not first.axes and not piece.axes.same(first.axes):
            raise LdmdownError(
                piece.label,
                f"{other} and {name} are on different grids" if other != name else f"{name} is on two grids",
                found=piece.axes.box,
                expected=f"{first.axes.box}, as in {first.label}",
                fix="give files of one area",
            )
    return first.axes


def _common_hours(hours: Mapping[str, Hours], label: str) -> Hours:
    if not hours:
        return np.zeros(1, np.int64)  # fields of the ground alone have no time
    common = None
    for found in hours.values():
        common = found if common is None else np.intersect1d(common, found, assume_unique=True)
    if common is None or not len(common):
        held = [f"{name} {_span(found)}" for name, found in hours.items()]
        raise LdmdownError(label, f"{', '.join(hours)} have no hour in common", found="; ".join(held),
                           fix="give files of the same hours")  # fmt: skip
    return common


def _notes(layouts: Sequence[Layout], series: Mapping[str, Series], hours: Hours) -> Iterable[str]:
    """What a user should know of the hours."""
    every = np.unique(
        np.concatenate([one.hours for name, one in series.items() if not variable(name).static] or [hours])
    )
    left = np.setdiff1d(every, hours)
    if len(left):
        yield f"{len(left)} hours are left out that not every variable has, the first {_moment(left[0])}"
    if len(hours) > 2:
        step = int(np.diff(hours).min())
        gaps = np.setdiff1d(np.arange(hours[0], hours[-1], step), hours)
        if len(gaps):
            yield f"{len(gaps)} hours are missing between the first and the last, the first {_moment(gaps[0])}"
    spread = {name: one.longest for name, one in series.items() if one.longest > 1}
    if spread:
        held = ", ".join(f"{name} over {length} hours" for name, length in spread.items())
        yield f"sums over more than an hour are spread evenly: {held}"
    if any(one.overlapping for one in series.values()):
        yield "several runs of a forecast hold the same hours: the one with the shortest lead is taken"
    calendars = sorted({layout.calendar for layout in layouts if layout.calendar})
    if calendars:
        unreal = sum(layout.unreal for layout in layouts)
        yield f"dates of the calendar {', '.join(calendars)} are kept as they read" + (
            f"; those that the standard calendar lacks, such as 30 February, are left out ({unreal})" if unreal else ""
        )


def _missing(
    label: str, missing: Sequence[Variable], layouts: Sequence[Layout], checkpoint: str | None
) -> LdmdownError:
    names = ", ".join(known.name for known in missing)
    looked = "; ".join(_looked_for(known) for known in missing)
    held = dict.fromkeys(text for layout in layouts for text in layout.contents())
    return LdmdownError(
        label,
        f"{names} {'is' if len(missing) == 1 else 'are'} missing",
        found=", ".join(sorted(held)) or "no variables",
        expected=f"under one of the names {looked}",
        fix=f"name all files together; this prints the script that gets them: {_request(layouts, checkpoint)}",
    )


def _looked_for(known: Variable) -> str:
    level = f" on {known.level} hPa" if known.level else ""
    return ", ".join((known.name, *(f"{name}{level}" for name in known.aliases)))


def _request(layouts: Sequence[Layout], checkpoint: str | None) -> str:
    """The command for the days that the files hold."""
    hours = [hour for layout in layouts for hour in layout.span()]
    first, last = (_moment(edge)[:10] for edge in (min(hours), max(hours))) if hours else ("DAY", "DAY")
    return f"ldmdown request --start {first} --end {last}" + (f" --checkpoint {checkpoint}" if checkpoint else "")


def _label(dataset: xr.Dataset) -> str:
    return _called(dataset.attrs.get("source_files", ["the dataset"]))


def _called(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def _box(lat: Array | xr.DataArray, lon: Array | xr.DataArray) -> str:
    west, east, south, north = (float(edge) for edge in (lon.min(), lon.max(), lat.min(), lat.max()))
    return f"{west:.2f} to {east:.2f} E, {south:.2f} to {north:.2f} N"


def _span(hours: Hours) -> str:
    return f"{_moment(hours[0])} to {_moment(hours[-1])}" if len(hours) else "never"


def _moment(hour: int | np.integer) -> str:
    return f"{np.datetime64(int(hour), 'h')}:00"
