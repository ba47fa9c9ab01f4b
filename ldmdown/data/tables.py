"""Hourly values at sites: NetCDF with a time series for each site, or a table in CSV or Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pandas as pd

from ldmdown.atomic import replacing
from ldmdown.data.netcdf import NetcdfWriter
from ldmdown.data.template import RUN
from ldmdown.data.writer import FieldWriter
from ldmdown.errors import LdmdownError
from ldmdown.typing import Float32Array

HOURS_AT_ONCE = 240  # that are read from their files together


class _SiteWriter(FieldWriter):
    """What the writers of values at sites share."""

    def _blocks(self) -> Iterator[tuple[slice, dict[str, Float32Array]]]:
        """Hours, and by name the values (hour, [member,] site) of them."""
        for start in range(0, len(self.hours), HOURS_AT_ONCE):
            indices = range(start, min(start + HOURS_AT_ONCE, len(self.hours)))
            values = {name: self.stacked(name, indices) for name in self.template.names}
            yield slice(indices.start, indices.stop), values


class TimeSeriesWriter(_SiteWriter, NetcdfWriter):
    """A NetCDF file of CF's feature type timeSeries."""

    compressed = 1.0

    def _keep(self, path: Path, fields: Mapping[str, Float32Array]) -> None:
        FieldWriter._keep(self, path, fields)

    def _chunks(self, name: str) -> tuple[int, ...]:
        return (min(len(self.hours), HOURS_AT_ONCE), *self.template.shape(name))

    def _finish(self) -> None:
        with replacing(self.path) as beside:
            self._create(beside)
            with netCDF4.Dataset(beside, "a") as file:
                for hours, values in self._blocks():
                    for name, block in values.items():
                        file[name][hours] = block


class TableWriter(_SiteWriter):
    """A table with a row for each hour, site and member, in CSV or Parquet."""

    compressed = 4.0  # digits and repeated names

    def _finish(self) -> None:
        opened = _parquet if self.path.suffix == ".parquet" else _csv
        attributes = {**self.template.attributes, RUN: json.dumps(self.template.record(self.hours))}
        with replacing(self.path) as beside, opened(beside, attributes) as append:
            for hours, values in self._blocks():
                append(self._frame(hours, values))

    def _frame(self, hours: slice, values: Mapping[str, Float32Array]) -> pd.DataFrame:
        """Rows in the order of hours, then sites, then members."""
        sites, members = self.template.sites, self.template.kept_members
        assert sites is not None
        times = self.hours[hours].astype("datetime64[h]").astype("datetime64[s]")
        number, count = np.arange(len(sites)), members or 1
        place = np.tile(np.repeat(number, count), len(times))
        columns: dict[str, np.ndarray] = {"time": np.repeat(times, len(sites) * count)}
        columns |= {"name": np.array(sites.names, object)[place], "lat": sites.lat[place], "lon": sites.lon[place]}
        if members:
            columns["realization"] = np.tile(np.arange(members), len(times) * len(sites))
        for name, block in values.items():
            by_site = np.moveaxis(block, 1, 2) if block.ndim == 3 else np.repeat(block[..., None], count, axis=2)
            columns[name] = by_site.ravel()
        return pd.DataFrame(columns)

    def _run_attribute(self) -> object:
        if self.path.suffix != ".parquet" or not self.path.is_file():
            return None  # a CSV file says nothing of itself
        metadata = _arrow().parquet.read_schema(self.path).metadata
        return metadata.get(RUN.encode(), b"").decode() or None


@contextmanager
def _csv(path: Path, _: Mapping[str, str]) -> Iterator[Callable[[pd.DataFrame], None]]:
    """A function that appends a table to a CSV file, times in UTC, which has no room for attributes."""
    with path.open("w") as file:
        yield lambda frame: frame.to_csv(
            file, index=False, header=file.tell() == 0, float_format="%.4f", date_format="%Y-%m-%dT%H:%MZ"
        )


@contextmanager
def _parquet(path: Path, attributes: Mapping[str, str]) -> Iterator[Callable[[pd.DataFrame], None]]:
    """A function that appends a table to a Parquet file, whose metadata are the attributes."""
    arrow = _arrow()
    opened: list[Any] = []

    def append(frame: pd.DataFrame) -> None:
        table = arrow.Table.from_pandas(frame, preserve_index=False)
        table = table.replace_schema_metadata({**table.schema.metadata, **attributes})
        if not opened:
            opened.append(arrow.parquet.ParquetWriter(path, table.schema))
        opened[0].write_table(table)

    try:
        yield append
    finally:
        for one in opened:
            one.close()


def _arrow() -> Any:
    """The package pyarrow, which is needed for Parquet alone."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise LdmdownError(
            "pyarrow", "is not installed; Parquet needs it", fix="pip install pyarrow, or write .csv or .nc"
        ) from None
    return pyarrow
