"""CF NetCDF or Zarr on the projected grid, written hour by hour so that a killed run loses nothing that was finished.

Each hour becomes a complete NetCDF of its own in the folder `OUT.part`, written beside and renamed: it opens in any
tool. When all are there they are put together, a few at a time, into `OUT.tmp`, which then takes its name.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from ldmdown.data.grid import Grid
from ldmdown.data.variables import attributes, variable
from ldmdown.errors import LdmdownError

EPOCH = "hours since 1970-01-01 00:00:00"
RECORD = "run.json"  # what makes the hours in a folder those of one run
COMPRESSION: dict[str, Any] = {"zlib": True, "complevel": 1, "shuffle": True}
ZARR = ".zarr"
SHARD = 24  # fields of a variable in a file of a Zarr store, each a chunk of its own

Field = NDArray[np.float32]


class FieldWriter:
    """Hourly fields of one run; nothing is touched before `begin`.

    Parameters
    ----------
    path
        the file to be, or the folder of a Zarr store if it ends in .zarr.
    grid
        of the fields, already cut to its window.
    names
        the variables, in the order of the fields' second axis.
    hours
        since 1970-01-01T00, rising.
    members
        None: one field an hour, without the dimension `realization`.
    card
        global attributes.
    earth
        whether wind components are known to point to true east and north.
    run
        what makes a run this one (checkpoint, seed, steps ...); a resumed run must agree with it.
    resume, overwrite
        keep or drop what an earlier run has left.

    Raises
    ------
    LdmdownError
        if the file or finished hours are in the way, or belong to another run.
    """

    def __init__(
        self,
        path: Path,
        grid: Grid,
        names: Sequence[str],
        hours: NDArray[np.int64],
        members: int | None,
        card: Mapping[str, str],
        run: Mapping[str, Any],
        *,
        earth: bool = True,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path, self.grid, self.names, self.hours = path, grid, tuple(names), hours
        self.members, self.card, self.earth = members, dict(card), earth
        self.part = self.part_of(path)
        self._claim(json.loads(json.dumps(run)), resume, overwrite)

    @staticmethod
    def part_of(path: Path) -> Path:
        """The folder of the finished hours of a file to be."""
        return path.with_name(path.name + ".part")

    def _claim(self, run: dict[str, Any], resume: bool, overwrite: bool) -> None:
        self._run = run
        record = self.part / RECORD
        begun = json.loads(record.read_text()) if record.exists() and not overwrite else None
        self._fresh = begun is None
        if begun is None:
            if self.path.exists() and not overwrite:
                fix = "name another file, or give --overwrite to replace it"
                raise LdmdownError(self.path, "exists already", fix=fix)
        elif not resume:
            raise LdmdownError(
                self.part,
                f"holds {len(list(self.part.glob('*.nc')))} finished hours of a run that was stopped",
                fix="give --resume to go on with it, or --overwrite to begin again",
            )
        elif differing := sorted(key for key in run | begun if run.get(key) != begun.get(key)):
            raise LdmdownError(
                self.part,
                "was begun with other options",
                found="; ".join(f"{key} {_short(begun.get(key))}" for key in differing),
                expected="; ".join(f"{key} {_short(run.get(key))}" for key in differing),
                fix="give --resume the options of that run, or --overwrite to begin again",
            )

    def begin(self) -> None:
        """Make the folder of finished hours, unless an earlier run's is gone on with.

        Raises
        ------
        LdmdownError
            if it cannot be made.
        """
        if not self._fresh:
            return
        try:
            if self.part.exists():
                shutil.rmtree(self.part)
            self.part.mkdir(parents=True)
        except OSError as error:
            raise LdmdownError(self.part, "cannot be made", found=str(error), fix="write somewhere else") from None
        beside = self.part / f"{RECORD}.tmp"
        beside.write_text(json.dumps(self._run, indent=1))
        beside.rename(self.part / RECORD)
        self._fresh = False

    def done(self, index: int) -> bool:
        """Whether this hour is finished, by this run or the one that is gone on with."""
        return not self._fresh and self._file(index).exists()

    def write(self, index: int, fields: Field) -> None:
        """One hour: (member, variable, rows, cols); without members the first axis has length 1.

        Raises
        ------
        LdmdownError
            if a value is not finite.
        """
        if not np.isfinite(fields).all():
            hour = np.datetime64(int(self.hours[index]), "h")
            raise LdmdownError(
                self.path,
                f"the fields of {hour}:00 are not finite; they were not written",
                fix="try --precision fp32; if that does not help, the checkpoint is broken",
            )
        file = self._file(index)
        beside = file.with_suffix(".tmp")
        with netCDF4.Dataset(beside, "w") as dataset:
            self._define(dataset)
            self._put(dataset, 0, int(self.hours[index]), fields)
        beside.rename(file)

    def close(self) -> None:
        """Put all hours together and remove the folder."""
        beside = self.path.with_name(self.path.name + ".tmp")
        if self.path.suffix == ZARR:
            self._join_zarr(beside)
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self._join_netcdf(beside)
        beside.rename(self.path)
        shutil.rmtree(self.part)

    def _join_netcdf(self, beside: Path) -> None:
        with netCDF4.Dataset(beside, "w") as whole:
            self._define(whole)
            for index, hour in enumerate(self.hours):
                with netCDF4.Dataset(self._file(index)) as one:
                    fields = np.stack([one[name][0].data for name in self.names], axis=-3)
                self._put(whole, index, int(hour), fields if self.members else fields[None])

    def _join_zarr(self, beside: Path) -> None:
        """The same variables and attributes, in shards of whole fields."""
        shutil.rmtree(beside, ignore_errors=True)
        members = [self.members] if self.members else []
        together = max(1, SHARD // (self.members or 1))  # hours
        chunk = {"chunks": (1, *[1] * len(members), *self.grid.shape), "shards": (together, *members, *self.grid.shape)}
        encoding = dict.fromkeys(self.names, chunk) | {"time": {"chunks": (SHARD,)}}
        for start in range(0, len(self.hours), together):
            files = [self._file(index) for index in range(start, min(start + together, len(self.hours)))]
            hours = [xr.load_dataset(file, engine="netcdf4", decode_cf=False).drop_encoding() for file in files]
            block = xr.concat(hours, "time", data_vars="minimal", coords="minimal", compat="override", join="override")
            if start:
                block[[*self.names]].drop_vars([name for name in block.coords if name != "time"]).to_zarr(
                    beside, append_dim="time", consolidated=False
                )
            else:
                block.to_zarr(beside, encoding=encoding, zarr_format=3, consolidated=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that other programs may not know metadata in one place yet
            zarr.consolidate_metadata(beside)

    def _file(self, index: int) -> Path:
        return self.part / f"{np.datetime64(int(self.hours[index]), 'h')}.nc"

    def _put(self, dataset: netCDF4.Dataset, index: int, hour: int, fields: Field) -> None:
        dataset["time"][index] = hour
        for channel, name in enumerate(self.names):
            dataset[name][index] = fields[:, channel] if self.members else fields[0, channel]

    def _define(self, dataset: netCDF4.Dataset) -> None:
        """Dimensions, coordinates and attributes (CF-1.11, sections 4 to 7)."""
        dataset.setncatts({"Conventions": "CF-1.11", **self.card})
        dataset.createDimension("time", None)
        if self.members:
            dataset.createDimension("realization", self.members)
            realization = {"standard_name": "realization", "long_name": "ensemble member", "units": "1"}
            _variable(dataset, "realization", "i4", ("realization",), realization, np.arange(self.members))
        time = {"standard_name": "time", "units": EPOCH, "calendar": "standard", "axis": "T"}
        time["units_metadata"] = "leap_seconds: none"
        _variable(dataset, "time", "i4", ("time",), time)
        dataset.createDimension("bnds", 2)
        grid = self.grid
        for axis, centres, step in (("y", grid.y, -grid.spacing), ("x", grid.x, grid.spacing)):
            dataset.createDimension(axis, len(centres))
            meaning = {
                "standard_name": f"projection_{axis}_coordinate",
                "long_name": f"{axis} coordinate of projection",
                "units": "m",
                "axis": axis.upper(),
                "bounds": f"{axis}_bnds",
            }
            _variable(dataset, axis, "f8", (axis,), meaning, centres)
            edges = np.stack([centres - step / 2, centres + step / 2], axis=-1)
            _variable(dataset, f"{axis}_bnds", "f8", (axis, "bnds"), {}, edges)
        for name, long_name, values in (("lat", "latitude", grid.lat), ("lon", "longitude", grid.lon)):
            units = "degrees_north" if name == "lat" else "degrees_east"
            meaning = {"standard_name": long_name, "long_name": long_name, "units": units}
            _variable(dataset, name, "f8", ("y", "x"), meaning, values)
        _variable(dataset, "crs", "i4", (), grid.grid_mapping(), 0)
        for height in sorted({height for name in self.names if (height := variable(name).height)}):
            meaning = {"standard_name": "height", "long_name": "height above ground", "units": "m"}
            _variable(dataset, f"height_{height:g}m", "f8", (), meaning | {"positive": "up"}, height)
        dims = ("time", "realization", "y", "x") if self.members else ("time", "y", "x")
        for name in self.names:
            height = variable(name).height
            place = "lat lon" + (f" height_{height:g}m" if height else "")
            meaning = attributes(name, earth=self.earth) | {"grid_mapping": "crs", "coordinates": place}
            _variable(dataset, name, "f4", dims, meaning, chunks=(*[1] * (len(dims) - 2), *grid.shape))


def _short(value: Any) -> str:
    text = f"{value[0]} to {value[-1]} ({len(value)})" if isinstance(value, list) and len(value) > 4 else str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."


def _variable(
    dataset: netCDF4.Dataset,
    name: str,
    kind: str,
    dims: tuple[str, ...],
    meaning: Mapping[str, Any],
    values: Any = None,
    chunks: tuple[int, ...] | None = None,
) -> None:
    options = COMPRESSION if len(dims) > 1 else {}
    created = dataset.createVariable(name, kind, dims, fill_value=False, chunksizes=chunks, **options)
    created.setncatts(meaning)
    if values is not None:
        created[...] = values
