"""Hourly fields in a NetCDF file: each hour is compressed once, when it is written, as the file will hold it.

An hour's file holds its chunks as HDF5's filters `shuffle` and `deflate` make them, so that the output is put together
by copying bytes (HDF5's direct chunk write), and processes share the work of compressing.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from ldmdown.atomic import replacing
from ldmdown.data.template import RUN, output_dataset
from ldmdown.data.writer import FieldWriter
from ldmdown.typing import Float32Array

COMPRESSION: dict[str, Any] = {"zlib": True, "complevel": 1, "shuffle": True}


class NetcdfWriter(FieldWriter):
    """The hourly fields of a NetCDF file, whose chunks are whole fields."""

    compressed = 0.7

    def _keep(self, path: Path, fields: Mapping[str, Float32Array]) -> None:
        chunks: dict[str, Any] = {
            f"{name} {number}": np.frombuffer(_compressed(chunk), np.uint8)
            for name, field in fields.items()
            for number, chunk in enumerate(field.reshape(-1, *field.shape[-2:]))
        }
        with path.open("wb") as file:
            np.savez(file, **chunks)

    def _finish(self) -> None:
        import h5py  # when it is needed, since it takes a quarter of a second

        with replacing(self.path) as beside:
            self._create(beside)
            with h5py.File(beside, "r+") as file:
                for name in self.template.names:
                    file[name].resize(len(self.hours), axis=0)
                for index in range(len(self.hours)):
                    with np.load(self.hour_file(index)) as chunks:
                        for key, chunk in chunks.items():
                            name, number = key.split()
                            field = file[name]
                            corner = (index, *([int(number)] if field.ndim > 3 else []), 0, 0)
                            field.id.write_direct_chunk(corner, chunk.tobytes())

    def _create(self, path: Path) -> None:
        """Write all but the fields; `to_netcdf` would import dask, which takes a second."""
        template = output_dataset(self.template, self.hours)
        with netCDF4.Dataset(path, "w") as dataset:
            dataset.setncatts(template.attrs)
            for dim, size in template.sizes.items():
                dataset.createDimension(str(dim), None if dim == "time" else size)
            for name, one in template.variables.items():
                compression = COMPRESSION if one.ndim > 1 else {}
                chunks = self._chunks(str(name)) if name in self.template.names else None
                kind, dims = str if one.dtype == object else one.dtype.str, tuple(map(str, one.dims))
                created: Any = dataset.createVariable(
                    str(name), kind, dims, fill_value=False, chunksizes=chunks, **compression
                )
                created.setncatts(one.attrs)
                created[...] = one.values
            for name, (_, values, _) in self.template.of_hours(self.hours).items():
                dataset[name][:] = values

    def _chunks(self, name: str) -> tuple[int, ...]:
        return (1,) * (len(self.template.dims(name)) - 2) + self.template.grid.shape

    def _run_attribute(self) -> object:
        try:
            with netCDF4.Dataset(self.path) as dataset:
                return getattr(dataset, RUN, None)
        except OSError:
            return None


def _compressed(field: Float32Array) -> bytes:
    """A chunk as the filters of COMPRESSION store it.

    Of zlib's strategies run lengths suit shuffled floats best: smaller than the usual one and in 60 % of its time.
    """
    planes = np.ascontiguousarray(field, "<f4").view(np.uint8).reshape(-1, 4).T
    deflate = zlib.compressobj(COMPRESSION["complevel"], strategy=zlib.Z_RLE)
    return deflate.compress(planes.tobytes()) + deflate.flush()
