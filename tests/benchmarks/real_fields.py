"""Score a checkpoint on real 2.2 km fields over Sicily beside what a careful person does by hand.

    LDMDOWN_TEST_DATA=... python tests/benchmarks/real_fields.py CHECKPOINT \\
        [FIRST LAST EVERY MEMBERS HEIGHTS CONSISTENCY SAMPLER]

The fields are ICON-2I's (ItaliaMeteo-ARPAE, CC BY 4.0). Their exact means over boxes of 0.25 degrees stand for ERA5,
and the public Python interface downscales them, as a user would. t2m is moved to the heights of ERA5's terrain, or
with HEIGHTS `reference` stays at the heights of the model's own. CONSISTENCY and SAMPLER are those of `ldmdown
downscale`. With EVERY 1 the correlation of an hour with the next is printed too, of what is beside the baseline.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import scipy.fft
import xarray as xr

import ldmdown
from ldmdown import metrics
from ldmdown.config import LAPSE_RATE
from ldmdown.data.archive.box_means import Boxes
from ldmdown.data.grid import regrid
from ldmdown.data.reading.fields import open_fields
from ldmdown.data.reading.orography import read_heights
from ldmdown.data.variables import variable

DATA = Path(os.environ.get("LDMDOWN_TEST_DATA", ".")) / "data"
NAMES = ("t2m", "u10", "v10")
WAVELENGTHS = (64, 32, 16, 10, 8, 6, 5)  # [km]
BANDS = ((4, 6), (6, 16), (16, 64), (64, 1000))  # [km]


def main(checkpoint: str, first: str, last: str, every: int, members: int, at: str, **options: str) -> None:
    """Print the table."""
    grid, times, fields = read(first, last, every)
    boxes = Boxes(grid, 0.25)
    inner = np.isfinite(boxes.means(boxes.of_source, fields[0, 0]))
    rows, cols = np.flatnonzero(inner.any(axis=1)), np.flatnonzero(inner.any(axis=0))
    centres = boxes.centres.part(slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
    coarse = np.array([[cut(boxes, boxes.of_source, field, rows, cols) for field in hour] for hour in fields])
    terrain, heights = read_heights(DATA / "terrain/icon2i_orography_lonlat.grib2")
    coarse_heights = cut(boxes, Boxes.weights(terrain, boxes.grid), heights, rows, cols)
    if at == "era5":
        era5_terrain, of_era5 = read_heights(DATA / "era5/surface_height_europe.nc")
        box_lon, box_lat = centres.lonlat()
        of_era5 = regrid(era5_terrain.weights(box_lat, box_lon), of_era5, coarse_heights.shape)
        coarse[:, 0] -= LAPSE_RATE * (of_era5 - coarse_heights)
        coarse_heights = of_era5
    era5 = xr.Dataset(
        {
            name: (
                ("valid_time", "latitude", "longitude"),
                coarse[:, i].astype(np.float32),
                {"units": variable(name).units},
            )
            for i, name in enumerate(NAMES)
        },
        {"valid_time": times.astype("datetime64[ns]"), "latitude": centres.y, "longitude": centres.x},
    )
    out = ldmdown.load(checkpoint).downscale(era5, members=members, region="covered", **options)
    lat, lon = out["lat"].values, out["lon"].values
    to_fine, to_cells, to_terrain = (one.weights(lat, lon, to_edge=True) for one in (centres, grid, terrain))
    height = regrid(to_terrain, heights, lat.shape)
    coarse_height = regrid(to_fine, coarse_heights, lat.shape)
    land = height > 0.5
    print(f"{checkpoint}: {len(times)} hours, {lat.shape[0]} x {lat.shape[1]} cells, {land.mean():.0%} land")
    for i, name in enumerate(NAMES):
        truth = np.stack([regrid(to_cells, hour[i], lat.shape) for hour in fields])
        by_hand = np.stack([regrid(to_fine, hour[i], lat.shape) for hour in coarse])
        if name == "t2m":
            by_hand += LAPSE_RATE * (coarse_height - height)
        ensemble = out[name].transpose("realization", "time", "y", "x").values.astype(np.float64)
        report(name, ensemble, truth, by_hand, {"land": land, "sea": ~land, "east of 15 E": lon > 15})
        if every == 1:
            found, expected = ([lag1(part - by_hand, band) for band in BANDS] for part in (ensemble, truth))
            for band, ours, theirs in zip(BANDS, found, expected, strict=True):
                print(f"  lag 1, {'-'.join(map(str, band))} km{ours:6.2f} of fields {theirs:.2f}")


def read(first: str, last: str, every: int) -> tuple:
    """The grid, the hours, and (hour, variable, rows, cols) of the run that began last for each hour."""
    newest, grid = {}, None
    for path in sorted((DATA / "icon2i").glob("*.nc")):
        with open_fields([path], NAMES) as run:
            grid = run.grid
            part = run.between(first, last)
            newest |= {int(hour): part.read(index) for index, hour in enumerate(part.hours)}
    hours = sorted(newest)[::every]
    return grid, np.array(hours).astype("datetime64[h]"), np.array([newest[hour] for hour in hours], np.float64)


def cut(boxes: Boxes, weights, field: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Means over the boxes that the fields cover."""
    return boxes.means(weights, field)[np.ix_(rows, cols)]


def report(name: str, ensemble: np.ndarray, truth: np.ndarray, by_hand: np.ndarray, parts: dict) -> None:
    """Print a variable's scores beside the baseline's, and by part of the region."""
    mean, units = ensemble.mean(axis=0), variable(name).units
    print(f"{name} [{units}], baseline {'bilinear + 6.5 K/km' if name == 't2m' else 'bilinear'}")
    for what, ours, theirs in (
        ("RMSE of the mean", metrics.rmse(mean, truth), metrics.rmse(by_hand, truth)),
        ("fair CRPS", metrics.crps(ensemble, truth), metrics.mae(by_hand, truth)),
    ):
        print(f"  {what:<18}{ours:8.3f}  baseline {theirs:.3f}  ratio {ours / theirs:.2f}")
    for part, cells in parts.items():
        ratio = metrics.rmse(mean[:, cells], truth[:, cells]) / metrics.rmse(by_hand[:, cells], truth[:, cells])
        spread = metrics.spread_skill(ensemble[..., cells], truth[:, cells])
        print(f"  {part:<18}RMSE ratio {ratio:.2f}  spread / skill {spread:.2f}")
    spectra = [metrics.power_spectrum(field, (2.0, 2.0)) for field in (ensemble, truth)]
    wavelength = spectra[0][0]
    for at in WAVELENGTHS:
        near = np.abs(np.log2(wavelength / at)) < 1 / 6
        power, expected = (spectrum[near].sum() for _, spectrum in spectra)
        print(f"  power at {at} km{10 * np.log10(power / expected):8.1f} dB")


def lag1(fields: np.ndarray, band: tuple[float, float]) -> float:
    """Correlation of an hour with the next over waves of a band [km] of fields (..., time, rows, cols)."""
    cycles = [np.arange(size) / (2 * size * 2.0) for size in fields.shape[-2:]]  # [1/km]
    wave_number = np.hypot(cycles[0][:, None], cycles[1])
    waves = scipy.fft.dctn(fields, axes=(-2, -1), norm="ortho")[
        ..., (wave_number > 1 / band[1]) & (wave_number <= 1 / band[0])
    ]
    now, later = waves[..., :-1, :], waves[..., 1:, :]
    return float((now * later).sum() / np.sqrt(np.square(now).sum() * np.square(later).sum()))


if __name__ == "__main__":
    defaults = ["italy", "2026-02-06T12", "2026-02-07T11", "3", "8", "era5"]
    name, first, last, every, members, at = [*sys.argv[1:7], *defaults[len(sys.argv) - 1 :]]
    chosen = dict(zip(("consistency", "sampler"), sys.argv[7:], strict=False))
    main(name, first, last, int(every), int(members), at, **chosen)
