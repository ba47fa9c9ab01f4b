"""Hourly fields in a Cloud-Optimised GeoTIFF, a band for each hour, field and member.

It is written with rasterio: rioxarray gives bands no units, and would need all of them in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil

from ldmdown.atomic import replacing
from ldmdown.data.template import RUN, OutputTemplate
from ldmdown.data.writer import FieldWriter
from ldmdown.errors import LdmdownError
from ldmdown.typing import IntArray

MAX_BANDS = 65_535  # that a TIFF can have
TILES: dict[str, Any] = {"tiled": True, "blockxsize": 512, "blockysize": 512, "interleave": "band"}
OPTIMISED = {"compress": "deflate", "predictor": "yes", "interleave": "band", "overview_resampling": "average"}


class GeotiffWriter(FieldWriter):
    """The hourly fields of a GeoTIFF, whose bands say what they are; NaN stands for no data.

    Raises LdmdownError as `FieldWriter`, or if it would have more bands than a TIFF can have.
    """

    compressed = 0.8
    copies = 1 + 1 / compressed  # the plain file that the optimised one is made from, too

    def __init__(self, path: Path, template: OutputTemplate, hours: IntArray, **existing: bool) -> None:
        bands = len(hours) * sum(int(np.prod(template.shape(name)[:-2])) for name in template.names)
        if bands > MAX_BANDS:
            fix = "write a file for each month or hour, as with -o 'out_{time:%Y%m}.tif'"
            raise LdmdownError(path, "has too many bands", found=f"{bands}", expected=f"up to {MAX_BANDS}", fix=fix)
        super().__init__(path, template, hours, **existing)

    def _finish(self) -> None:
        plain, grid = self.part / "plain.tif", self.template.grid
        rows, cols = grid.shape
        bands = list(self._bands())
        profile = TILES | {"driver": "GTiff", "dtype": "float32", "nodata": np.nan, "bigtiff": "if_safer"}
        place = {"width": cols, "height": rows, "crs": grid.projection.to_wkt()}
        place["transform"] = rasterio.Affine(grid.spacing, 0, grid.west, 0, -grid.spacing, grid.north)
        with rasterio.open(plain, "w", count=len(bands), **profile, **place) as file:
            file.update_tags(**self.template.attributes, **{RUN: json.dumps(self.template.record(self.hours))})
            file.descriptions = [description for description, _ in bands]
            file.units = [meaning["units"] for _, meaning in bands]
            for number, (_, meaning) in enumerate(bands, 1):
                file.update_tags(number, **meaning)
            number = 0
            for index in range(len(self.hours)):
                with np.load(self.hour_file(index)) as fields:
                    for name in self.template.names:
                        for band in fields[name].reshape(-1, rows, cols):
                            number += 1
                            file.write(band, number)
        with replacing(self.path) as beside:
            rasterio.shutil.copy(plain, beside, driver="COG", **OPTIMISED)

    def _bands(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The description and the attributes of each band, in their order."""
        for hour in self.hours:
            moment = f"{np.datetime64(int(hour), 'h')}:00"
            for name in self.template.names:
                meaning = {**self.template.meaning(name)}
                del meaning["coordinates"], meaning["grid_mapping"]
                for member in range(int(np.prod(self.template.shape(name)[:-2]))):
                    several = "realization" in self.template.dims(name)
                    which = {"realization": member} if several else {}
                    yield f"{name} {moment}" + f" member {member}" * several, meaning | {"time": moment} | which

    def _run_attribute(self) -> object:
        try:
            with rasterio.open(self.path) as file:
                return file.tags().get(RUN)
        except rasterio.RasterioIOError:
            return None
