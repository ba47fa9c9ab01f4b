"""What some features take, beside doing it by hand: a plain run to NetCDF, and xarray after it.

    OMP_NUM_THREADS=1 python tests/benchmarks/by_hand.py

Prints, for the hours of examples/era5_italy.nc and the student of the bundled checkpoint, seconds of CPU and
the largest memory of a process; by hand, those of the plain run and of the script together.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

ERA5 = Path(__file__).parents[2] / "examples" / "era5_italy.nc"
VARIABLES = ["t2m", "u10", "v10"]
EIGHT = "--variables", "t2m", "--members", "8"
LINE = np.array([[44.4, 8.9], [43.8, 11.2], [41.9, 12.6], [40.8, 14.3], [38.2, 15.8]])  # Genoa to Reggio
Cost = tuple[float, float]  # CPU [s] and memory [MB]


def main(folder: Path) -> None:
    """Print a row for each feature."""
    print("| | CPU [s] | by hand [s] | memory [MB] | by hand [MB] |\n|---|---|---|---|---|")
    plain = downscale(folder / "plain.nc")
    sites = sites_along_the_peninsula(folder / "sites.csv")
    values = downscale(folder / "sites.nc", "--points", str(sites))
    show("values at 100 sites", values, [plain, script(at_sites, folder)])
    show("GeoTIFF", downscale(folder / "a.tif"), [plain, script(geotiff, folder)])
    quantized = downscale(folder / "q.nc", "--compression", "quantized")
    show("quantized", quantized, [plain, script(rounded, folder)])
    check = ldmdown("evaluate", folder / "plain.nc", ERA5, "-o", folder / "check")
    show("check without a reference", check, [script(compared, folder)])
    of_members = downscale(folder / "a.nc", *EIGHT, "--statistics", "mean,std,p10,p50,p90")
    members = downscale(folder / "members.nc", *EIGHT)
    show("statistics of 8 members of t2m", of_members, [members, script(statistics, folder)])
    files = ensemble(folder)
    singles = [downscale(folder / f"out{i}.nc", "--seed", str(i), era5=file) for i, file in enumerate(files)]
    together = downscale(folder / "b.nc", era5=folder / "eda.nc")
    show("ensemble of 4 in the input", together, [*singles, script(joined, folder)])


def show(name: str, ours: Cost, by_hand: Sequence[Cost]) -> None:
    """Print a row; what is done by hand takes several processes."""
    seconds, memory = sum(one for one, _ in by_hand), max(one for _, one in by_hand)
    print(f"| {name} | {ours[0]:.1f} | {seconds:.1f} | {ours[1]:.0f} | {memory:.0f} |", flush=True)


def script(function: Callable[[Path], None], folder: Path) -> Cost:
    """Run one of the functions below as a script."""
    return cost(sys.executable, __file__, function.__name__, folder)


def downscale(output: Path, *options: str, era5: Path = ERA5) -> Cost:
    """Run `ldmdown downscale` with the student."""
    return ldmdown("downscale", era5, "-o", output, "--sampler", "student", *options)


def ldmdown(*words: str | Path) -> Cost:
    """Run a command of ldmdown."""
    return cost(sys.executable, "-m", "ldmdown", "--quiet", *words)


def cost(*command: str | Path) -> Cost:
    """What a process takes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def sites_along_the_peninsula(path: Path) -> Path:
    """Write a table of 100 sites."""
    along = np.linspace(0, len(LINE) - 1, 100)
    places = np.array([np.interp(along, range(len(LINE)), part) for part in LINE.T])
    places += np.random.default_rng(0).normal(0, 0.2, (2, 100))
    path.write_text("name,lat,lon\n" + "".join(f"s{i},{lat},{lon}\n" for i, (lat, lon) in enumerate(places.T)))
    return path


def ensemble(folder: Path) -> list[Path]:
    """Write an ensemble of four members, and files of one each."""
    members = [(xr.load_dataset(ERA5)[VARIABLES] + 0.3 * i).assign_coords(number=i) for i in range(4)]
    xr.concat(members, "number").to_netcdf(folder / "eda.nc")
    files = [folder / f"member{i}.nc" for i in range(4)]
    for file, member in zip(files, members, strict=True):
        member.to_netcdf(file)
    return files


def statistics(folder: Path) -> None:
    """Statistics of members that are on the disk."""
    members = xr.load_dataset(folder / "members.nc")["t2m"]
    percentiles = members.quantile([0.1, 0.5, 0.9], "realization").assign_coords(quantile=["p10", "p50", "p90"])
    parts = {"mean": members.mean("realization"), "std": members.std("realization")}
    parts |= {name: percentiles.sel(quantile=name, drop=True) for name in ("p10", "p50", "p90")}
    xr.Dataset({f"t2m_{name}": part for name, part in parts.items()}).to_netcdf(folder / "hand.nc")


def at_sites(folder: Path) -> None:
    """Values of whole fields at sites."""
    import pandas as pd
    import pyproj

    sites = pd.read_csv(folder / "sites.csv")
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3035", always_xy=True)
    x, y = (xr.DataArray(part, dims="site") for part in to_plane.transform(sites["lon"], sites["lat"]))
    xr.load_dataset(folder / "plain.nc")[VARIABLES].interp(x=x, y=y).to_netcdf(folder / "hand.nc")


def geotiff(folder: Path) -> None:
    """A Cloud-Optimised GeoTIFF of the hours of all variables."""
    import rioxarray  # noqa: F401

    fields = xr.load_dataset(folder / "plain.nc")
    bands = xr.concat([fields[name] for name in VARIABLES], "band").stack(all=("band", "time"))
    bands = bands.transpose("all", "y", "x").drop_vars(["all", "band", "time"])
    bands.rio.write_crs("EPSG:3035").rio.to_raster(folder / "hand.tif", driver="COG", compress="deflate")


def rounded(folder: Path) -> None:
    """Fields with the digits that mean something, by the netCDF library."""
    digits = dict.fromkeys(VARIABLES, 4) | {"t2m": 5}
    how = {"zlib": True, "quantize_mode": "GranularBitRound"}
    fields = xr.load_dataset(folder / "plain.nc")[VARIABLES]
    for name in VARIABLES:
        fields[name].encoding = {}
    encoding = {name: how | {"significant_digits": count} for name, count in digits.items()}
    fields.to_netcdf(folder / "hand.nc", encoding=encoding)


def joined(folder: Path) -> None:
    """One file of the members that were downscaled each by itself."""
    members = [xr.load_dataset(folder / f"out{i}.nc")[VARIABLES] for i in range(4)]
    xr.concat(members, "realization").to_netcdf(folder / "hand.nc")


def compared(folder: Path) -> None:
    """Box means less ERA5, what varies within boxes, hour-to-hour change, spectra, divergence and vorticity."""
    fields, era5 = xr.load_dataset(folder / "plain.nc"), xr.load_dataset(ERA5)
    fields["ws10"] = np.hypot(fields["u10"], fields["v10"])
    at_boxes = fields.assign_coords(north=(fields["lat"] * 4).round(), east=(fields["lon"] * 4).round())
    boxes = at_boxes.groupby(["north", "east"])
    means = boxes.mean()
    for name in VARIABLES:
        coarse = era5[name].sel(latitude=means["north"] / 4, longitude=means["east"] / 4)
        difference = means[name] - coarse.rename(valid_time="time")
        print(name, float(difference.mean()), float(difference.std()), difference.groupby("time.hour").mean())
        print(float(fields[name].diff("time").std()), fields[name].quantile([0.001, 0.999]).values)
        print(np.abs(np.fft.rfft2(fields[name].values)).mean(axis=0) ** 2)
    print(float(boxes.std()["t2m"].mean()))
    u, v = fields["u10"], fields["v10"]
    for one in (u.differentiate("x") + v.differentiate("y"), v.differentiate("x") - u.differentiate("y")):
        print(float(one.std()), np.histogram(one.values, 100))


SCRIPTS = {one.__name__: one for one in (at_sites, geotiff, rounded, compared, statistics, joined)}

if __name__ == "__main__":
    if len(sys.argv) == 3:
        SCRIPTS[sys.argv[1]](Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
