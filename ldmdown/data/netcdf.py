"""The output: one template of CF variables on the projected grid, and a writer whose finished hours survive a kill.

`output_dataset` is the only definition of the output. `FieldWriter` keeps each finished hour in the folder `OUT.part`
as a plain array; a NetCDF file is compressed once, when all its hours are there. The blocks of a Zarr store are
written as soon as their hours are there, by whichever process made them.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr
import zarr

from ldmdown.atomic import move_into_place, replacing, sync
from ldmdown.data.grid import Grid
from ldmdown.data.variables import attributes, variable
from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array, IntArray

EPOCH = "hours since 1970-01-01 00:00:00"
ZARR = ".zarr"
RUN = "ldmdown_run"  # the global attribute that holds what an output was made with
RUN_FILE = "run.json"  # the same, of the hours in a folder
COMPRESSION: dict[str, Any] = {"zlib": True, "complevel": 1, "shuffle": True}
FIELDS_PER_SHARD = 24  # of a variable in a file of a Zarr store, each a chunk of its own
TIME = {
    "standard_name": "time",
    "units": EPOCH,
    "calendar": "standard",
    "axis": "T",
    "units_metadata": "leap_seconds: none",
}


@dataclass(frozen=True)
class OutputTemplate:
    """Everything that outputs of one run have in common.

    Parameters
    ----------
    grid
        the fine grid, already cut to its window.
    names
        the variables, in the order of the fields' axis.
    members
        None: one field an hour, without the dimension `realization`.
    attributes
        global attributes.
    run
        what decides the numbers (checkpoint, seed, steps, input ...): a run that is resumed must agree with it.
    earth_relative
        whether wind components are known to point to true east and north.
    """

    grid: Grid
    names: tuple[str, ...]
    members: int | None
    attributes: Mapping[str, str]
    run: Mapping[str, Any] = field(default_factory=dict)
    earth_relative: bool = True

    @property
    def field_shape(self) -> tuple[int, ...]:
        """([member,] rows, cols) of an hour of a variable."""
        return (*([self.members] if self.members else []), *self.grid.shape)

    def record(self, hours: IntArray) -> dict[str, Any]:
        """What an output of these hours was made with, as JSON holds it."""
        first, last = (str(np.datetime64(int(hour), "h")) for hour in (hours[0], hours[-1]))
        return json.loads(json.dumps({**self.run, "hours": f"{first} to {last} ({len(hours)})"}))


def output_dataset(template: OutputTemplate, hours: IntArray, fields: Float32Array | None = None) -> xr.Dataset:
    """The output as it lies in a file (CF-1.11, sections 4 to 7); `xarray.decode_cf` gives it as xarray opens it.

    Parameters
    ----------
    template
        what is common to all outputs of a run.
    hours
        since 1970-01-01T00, rising.
    fields
        (time, member, variable, rows, cols), a single field an hour being member 0; None: no hour yet.
    """
    if fields is None:
        fields = np.empty((0, template.members or 1, len(template.names), *template.grid.shape), np.float32)
    dims = ("time", "realization", "y", "x") if template.members else ("time", "y", "x")
    dataset = xr.Dataset(attrs={"Conventions": "CF-1.11", **template.attributes, "coordinates": "crs x_bnds y_bnds"})
    dataset.attrs[RUN] = json.dumps(template.record(hours))
    for channel, name in enumerate(template.names):
        values = fields[:, :, channel]
        height = variable(name).height
        meaning = attributes(name, earth_relative=template.earth_relative) | {"grid_mapping": "crs"}
        meaning["coordinates"] = "lat lon" + (f" height_{height:g}m" if height else "")
        dataset[name] = dims, values if template.members else values[:, 0], meaning
    dataset = dataset.assign(_coordinates(template) | {"time": ("time", hours[: len(fields)].astype(np.int32), TIME)})
    for one in dataset.variables.values():
        one.encoding["_FillValue"] = None
    return dataset


def _coordinates(template: OutputTemplate) -> dict[str, Any]:
    """(dimensions, values, attributes) of every variable that is neither a field nor time."""
    grid = template.grid
    found: dict[str, Any] = {}
    if template.members:
        meaning = {"standard_name": "realization", "long_name": "ensemble member", "units": "1"}
        found["realization"] = "realization", np.arange(template.members, dtype=np.int32), meaning
    for axis, centres, step in (("y", grid.y, -grid.spacing), ("x", grid.x, grid.spacing)):
        meaning = {
            "standard_name": f"projection_{axis}_coordinate",
            "long_name": f"{axis} coordinate of projection",
            "units": "m",
            "axis": axis.upper(),
            "bounds": f"{axis}_bnds",
        }
        found[axis] = axis, centres, meaning
        found[f"{axis}_bnds"] = (axis, "bnds"), np.stack([centres - step / 2, centres + step / 2], axis=-1), {}
    for name, long_name, values in (("lat", "latitude", grid.lat), ("lon", "longitude", grid.lon)):
        units = "degrees_north" if name == "lat" else "degrees_east"
        meaning = {"standard_name": long_name, "long_name": long_name, "units": units}
        found[name] = ("y", "x"), values, meaning
    found["crs"] = (), np.int32(0), grid.grid_mapping()
    for height in sorted({height for name in template.names if (height := variable(name).height)}):
        meaning = {"standard_name": "height", "long_name": "height above ground", "units": "m", "positive": "up"}
        found[f"height_{height:g}m"] = (), float(height), meaning
    return found


class FieldWriter:
    """The hourly fields of one output file or store; nothing is touched before `begin`.

    Parameters
    ----------
    path
        the file to be, or the folder of a Zarr store if it ends in .zarr.
    template
        what is common to all outputs of a run.
    hours
        since 1970-01-01T00, rising.
    resume, overwrite
        keep or drop what an earlier run has left.

    Raises
    ------
    LdmdownError
        if an output or finished hours are in the way, or were made with other options or another input.
    """

    def __init__(
        self, path: Path, template: OutputTemplate, hours: IntArray, *, resume: bool = False, overwrite: bool = False
    ) -> None:
        self.path, self.template, self.hours = path, template, hours
        self.part = path.with_name(path.name + ".part")
        self.finished = False  # by an earlier run, with the same options
        self._fresh = True
        self._store = self.part / "store"
        self._block_hours = max(1, FIELDS_PER_SHARD // (template.members or 1))
        self._own_blocks: set[int] = set()  # of a Zarr store: those that this process alone writes
        self._claim(resume, overwrite)
        done = {index for index in range(len(hours)) if self.finished or not (self._fresh or self._is_left(index))}
        self.left = [index for index in range(len(hours)) if index not in done]  # when this run began

    def begin(self) -> None:
        """Make the folder of finished hours, unless that of an earlier run is resumed.

        Raises
        ------
        LdmdownError
            if it cannot be made.
        """
        try:
            if self._fresh and self.part.exists():
                shutil.rmtree(self.part)
            if self._fresh:
                with replacing(self.part / RUN_FILE) as beside:
                    beside.write_text(json.dumps(self.template.record(self.hours), indent=1))
            if self.path.suffix == ZARR and not self._store.exists():
                with replacing(self._store) as beside:
                    self._create_store(beside)
        except OSError as error:
            raise LdmdownError(self.part, "cannot be made", found=str(error), fix="write somewhere else") from None

    def take(self, indices: Iterable[int]) -> None:
        """Say which of the hours that are left this process writes; whole blocks of a store are then its own."""
        if self.path.suffix != ZARR:
            return
        own = set(indices)
        others = {index // self._block_hours for index in self.left if index not in own}
        self._own_blocks = {index // self._block_hours for index in own} - others

    def write(self, index: int, fields: Float32Array) -> None:
        """Keep one hour: (member, variable, rows, cols); without members the first axis has length 1.

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
        with replacing(self._file(index)) as beside, beside.open("wb") as file:
            np.save(file, fields)
        block = index // self._block_hours
        if block in self._own_blocks and all(self._file(one).exists() for one in self._hours_of(block)):
            self._write_block(block)

    def close(self) -> None:
        """Give the output its name, all hours being there, and remove the folder."""
        if self.path.suffix == ZARR:
            for block in range(-(-len(self.hours) // self._block_hours)):
                if not self._marker(block).exists():
                    self._write_block(block)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that other programs may not know metadata in one place yet
                zarr.consolidate_metadata(self._store)
            move_into_place(self._store, self.path)
        else:
            with replacing(self.path) as beside:
                self._write_netcdf(beside)
        shutil.rmtree(self.part)

    def _claim(self, resume: bool, overwrite: bool) -> None:
        begun = _read_json(self.part / RUN_FILE)
        strangers = {one.name for one in self.part.iterdir()} - {f"{RUN_FILE}.tmp"} if self.part.exists() else set()
        if begun is None and strangers:
            raise LdmdownError(self.part, "is in the way: it holds no finished hours of ldmdown", fix="move it away")
        if self.path.is_dir() and self.path.suffix != ZARR:
            raise LdmdownError(self.path, "is a folder", fix="name another file")
        if overwrite or (begun is None and not self.path.exists()):
            return
        if begun is None:
            if not resume:
                fix = "name another file, or give --overwrite to replace it"
                raise LdmdownError(self.path, "exists already", fix=fix)
            self._compare(self.path, made_with(self.path), "was made")
            self.finished = True
        elif not resume:
            finished = sum(not self._is_left(index) for index in range(len(self.hours)))
            raise LdmdownError(
                self.part,
                f"holds {finished} finished hours of a run that was stopped",
                fix="give --resume to go on with it, or --overwrite to begin again",
            )
        else:
            self._compare(self.part, begun, "was begun")
        self._fresh = False

    def _compare(self, place: Path, made: Mapping[str, Any], was: str) -> None:
        wanted = self.template.record(self.hours)
        differing = sorted(key for key in wanted | dict(made) if wanted.get(key) != made.get(key))
        if differing:
            only_input = all(key.startswith("input") for key in differing)
            raise LdmdownError(
                place,
                f"{was} with {'another input' if only_input else 'other options'}",
                found="; ".join(f"{key} {_short(made.get(key))}" for key in differing),
                expected="; ".join(f"{key} {_short(wanted.get(key))}" for key in differing),
                fix="give --resume what that run was given, or --overwrite to begin again",
            )

    def _is_left(self, index: int) -> bool:
        return not (self._file(index).exists() or self._marker(index // self._block_hours).exists())

    def _file(self, index: int) -> Path:
        return self.part / f"{np.datetime64(int(self.hours[index]), 'h')}.npy"

    def _marker(self, block: int) -> Path:
        """What shows that a block of hours lies in the store."""
        return self.part / f"block-{block:06}"

    def _hours_of(self, block: int) -> range:
        start = block * self._block_hours
        return range(start, min(start + self._block_hours, len(self.hours)))

    def _fields(self, index: int, channel: int) -> Float32Array:
        """([member,] rows, cols) of a finished hour."""
        return np.load(self._file(index), mmap_mode="r")[:, channel].reshape(self.template.field_shape)

    def _write_netcdf(self, path: Path) -> None:
        """Write the template and one hour after the other; `to_netcdf` would import dask, which takes a second."""
        template = output_dataset(self.template, self.hours)
        with netCDF4.Dataset(path, "w") as dataset:
            dataset.setncatts(template.attrs)
            for dim, size in template.sizes.items():
                dataset.createDimension(str(dim), None if dim == "time" else size)
            for name, one in template.variables.items():
                compression = COMPRESSION if one.ndim > 1 else {}
                chunks = (1,) * (one.ndim - 2) + self.template.grid.shape if name in self.template.names else None
                kind, dims = one.dtype.str, tuple(map(str, one.dims))
                created: Any = dataset.createVariable(
                    str(name), kind, dims, fill_value=False, chunksizes=chunks, **compression
                )
                created.setncatts(one.attrs)
                created[...] = one.values
            for index, hour in enumerate(self.hours):
                dataset["time"][index] = hour
                for channel, name in enumerate(self.template.names):
                    dataset[name][index] = self._fields(index, channel)

    def _create_store(self, path: Path) -> None:
        """Write all of a store but the fields, which will lie in shards of whole fields."""
        members, shape = self.template.field_shape[:-2], self.template.grid.shape
        layout = {"chunks": (1, *[1] * len(members), *shape), "shards": (self._block_hours, *members, *shape)}
        encoding: dict[str, Any] = dict.fromkeys(self.template.names, layout) | {
            "time": {"chunks": (FIELDS_PER_SHARD,)}
        }
        output_dataset(self.template, self.hours).to_zarr(path, encoding=encoding, zarr_format=3, consolidated=False)
        group: Any = zarr.open_group(path, mode="r+")
        for name in ("time", *self.template.names):
            group[name].resize((len(self.hours), *group[name].shape[1:]))
        group["time"][:] = self.hours

    def _write_block(self, block: int) -> None:
        """Bring the finished hours of a block into the store."""
        indices = self._hours_of(block)
        group: Any = zarr.open_group(self._store, mode="r+")
        for channel, name in enumerate(self.template.names):
            values = np.stack([self._fields(index, channel) for index in indices])
            group[name][indices.start : indices.stop] = values
            sync(self._store / name / "c" / str(block))
        with replacing(self._marker(block)) as beside:
            beside.touch()
        for index in indices:
            self._file(index).unlink()


def made_with(path: Path) -> dict[str, Any]:
    """What a finished output says that it was made with.

    Raises
    ------
    LdmdownError
        if it does not say, or cannot be read.
    """
    try:
        if path.suffix == ZARR:
            text = zarr.open_group(path, mode="r").attrs.get(RUN)
        else:
            with netCDF4.Dataset(path) as dataset:
                text = getattr(dataset, RUN, None)
    except (OSError, zarr.errors.GroupNotFoundError):
        text = None
    if not isinstance(text, str):
        raise LdmdownError(
            path, "does not say what it was made with", expected=f"the attribute {RUN}", fix="give --overwrite"
        )
    return json.loads(text)


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:12]}..."
