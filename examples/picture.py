"""Draw ERA5 beside the 2 km field: python examples/picture.py examples/era5_italy.nc out.nc examples/picture.png."""

import sys

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pyproj
import xarray as xr

HOUR = 1
ALPS = (4_230_000, 4_520_000, 2_480_000, 2_670_000)  # west, east, south, north [m]
QUANTITIES = (("2-m temperature [°C]", "RdYlBu_r"), ("10-m wind [m/s]", "viridis"))


def main(era5_file: str, output_file: str, picture: str) -> None:
    """Rows: temperature and wind; columns: all Italy from ERA5 and downscaled, then the central Alps."""
    with xr.open_dataset(output_file, engine="netcdf4") as output:
        fine = output.isel(time=HOUR).load()
    with xr.open_dataset(era5_file, engine="netcdf4") as era5:
        coarse = era5.isel(valid_time=HOUR).load()
    to_grid = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3035", always_xy=True)
    places = to_grid.transform(*np.meshgrid(coarse.longitude, coarse.latitude))
    fields = [
        (coarse.t2m.values - 273.15, fine.t2m.values - 273.15),
        (np.hypot(coarse.u10, coarse.v10).values, np.hypot(fine.u10, fine.v10).values),
    ]
    whole = (fine.x.values[0], fine.x.values[-1], fine.y.values[-1], fine.y.values[0])
    figure, axes = plt.subplots(2, 4, figsize=(14, 7.4), layout="constrained")
    for row, (before, after), (label, colours) in zip(axes, fields, QUANTITIES, strict=True):
        low, high = np.percentile(after, [0.5, 99.5])
        for axis, box, ours in zip(row, (whole, whole, ALPS, ALPS), (False, True) * 2, strict=True):
            x, y, field = (fine.x, fine.y, after) if ours else (*places, before)
            mesh = axis.pcolormesh(x, y, field, vmin=low, vmax=high, cmap=colours, shading="nearest", rasterized=True)
            axis.set(xlim=box[:2], ylim=box[2:], xticks=[], yticks=[], aspect="equal")
            axis.set_title(("ldmdown, 2 km" if ours else "ERA5, 31 km") + (", the Alps" if box is ALPS else ""))
        figure.colorbar(mesh, ax=row, shrink=0.8, label=label)
    figure.savefig(picture, dpi=80)


if __name__ == "__main__":
    main(*sys.argv[1:])
