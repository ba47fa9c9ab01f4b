"""Results, fields and files that tests share: systems as good as their kind is, an output, a reference."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyproj
import xarray as xr
import yaml

from ldmdown.commands.evaluate import score
from ldmdown.config import Config
from ldmdown.data.archive.manifest import fingerprint
from ldmdown.data.archive.store import ArchiveSource, fine_cells
from ldmdown.data.archive.writer import ArchiveWriter, DayKey
from ldmdown.data.grid import LONLAT, Grid, SourceGrid
from ldmdown.data.netcdf import NetcdfWriter
from ldmdown.data.normalization import Normalization
from ldmdown.data.template import OutputTemplate
from ldmdown.data.zarr_store import ZarrWriter
from ldmdown.drawing.map_fields import MapFields
from ldmdown.options import StationOptions
from ldmdown.scoring.results import ReferenceFiles, Results, ScoredSystem
from ldmdown.scoring.scorecard import Scorecard
from ldmdown.scoring.terrain import Terrain

KINDS = {
    "bilinear": "interpolation",
    "U-Net": "mean",
    "GAN": "gan",
    "italy, a member": "member",
    "italy, mean of 8": "ensemble mean",
    "ideal": "ideal",
}
ERROR = {"bilinear": 1.9, "U-Net": 1.0, "GAN": 1.12, "italy, a member": 1.35, "italy, mean of 8": 1.02, "ideal": 1.3}
SMOOTH = {"bilinear": 40, "U-Net": 12, "GAN": 7, "italy, a member": 5, "italy, mean of 8": 11, "ideal": 1}  # [km]
HOURS = [448_608 + 24 * day + hour for day in range(6) for hour in (0, 1)]  # from 2021-03-06 on


def as_written(results: Results) -> dict[str, Any]:
    """The content of scores.json."""
    return json.loads(results.model_dump_json())


def results_of(card: Scorecard) -> dict[str, Any]:
    """The content of scores.json of a scorecard alone."""
    about = {"ldmdown": "0", "title": "", "created": "", "reference": ReferenceFiles(name="", files=[]), "notes": []}
    return as_written(Results(**about, **card.results()))


def noise(grid: Grid, slope: float, seed: int) -> np.ndarray:
    """Unit noise whose power falls with the wavenumber to this power."""
    rows, cols = grid.shape
    wavenumber = np.hypot(np.fft.fftfreq(rows)[:, None] * rows, np.fft.rfftfreq(cols) * rows)
    white = np.fft.rfft2(np.random.default_rng(seed).normal(size=grid.shape))
    field = np.fft.irfft2(white * np.maximum(wavenumber, 2) ** (-(slope + 1) / 2), grid.shape)
    return (field - field.mean()) / field.std()


class MadeUpSystems:
    """Two ridges and an island in a gradient; systems differ from the reference by noise and smoothing."""

    names = ("t2m", "u10", "v10")
    hours = HOURS
    reference = ReferenceFiles(name="the twin", files=["reference_202101.nc"])
    notes = ("era5.nc was regridded bilinearly to the grid of out.nc", "twin, recipe 2: a test world <not COSMO>")

    def __init__(self, grid: Grid) -> None:
        self.fine, self.grid = grid, SourceGrid(grid.y, grid.x, grid.projection)
        members = {"member": 4, "ideal": 4}
        self.systems = [
            ScoredSystem(name=name, kind=kind, members=members.get(kind, 1)) for name, kind in KINDS.items()
        ]
        lon, lat = grid.lon, grid.lat
        ridges = 2600 * np.exp(-(((lat - 46.5 - 0.15 * (lon - 10)) / 0.8) ** 2))
        ridges += 1300 * np.exp(-((lat - 44 + 0.7 * (lon - 11)) ** 2)) + 900 * np.exp(
            -((lon - 9) ** 2) - (lat - 40) ** 2
        )
        self.terrain = Terrain(np.maximum(ridges - 30, 0) * np.abs(1 + 0.6 * noise(grid, 2, 0)))

    def read(self, hour: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        rough = [noise(self.fine, slope, 10 * hour + place) for place, slope in enumerate((4, 3, 3))]
        t2m = 293 - 0.9 * (self.fine.lat - 36) - 0.006 * self.terrain.fine + 1.5 * rough[0]
        truth = np.stack([t2m, 4 * rough[1] + 0.001 * self.terrain.fine, 4 * rough[2]])
        return truth.astype(np.float32), {one.name: self._fields(one, truth, hour) for one in self.systems}

    def _fields(self, system: ScoredSystem, truth: np.ndarray, hour: int) -> np.ndarray:
        seeds = iter(range(1000 * hour + 100 * list(KINDS).index(system.name), 10**9))
        rough = [[noise(self.fine, 1.7, next(seeds)) for _ in truth] for _ in range(system.members)]
        rows, cols = self.fine.shape
        wavenumber = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols)) / self.fine.spacing * 1000  # [km-1]
        smooth = np.fft.rfft2(truth + 0.5 * ERROR[system.name] * np.array(rough))
        smooth /= 1 + (wavenumber * SMOOTH[system.name]) ** 4
        return np.fft.irfft2(smooth, self.fine.shape).astype(np.float32)


@lru_cache(maxsize=1)
def scored(grid: Grid) -> tuple[Results, MapFields]:
    """Every part of the results, and the fields beside them; temperatures at eighty stations in South Tyrol."""
    systems, random = MadeUpSystems(grid), np.random.default_rng(5)
    places = random.uniform((46.25, 10.4), (47.05, 12.4), (80, 2)).round(4)
    lines = ["time,name,lat,lon,height,t2m"]
    for time in np.array(HOURS, "datetime64[h]"):
        lines += [
            f"{time}:00,{name},{lat},{lon},1000,{random.normal(5, 3):.1f}" for name, (lat, lon) in enumerate(places)
        ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "south_tyrol.csv"
        file.write_text("\n".join(lines))
        return score(systems, StationOptions(file))


# Files

OUTPUT_GRID = Grid(west=4_700_000, north=2_200_000, rows=16, cols=24)
OUTPUT_HOURS = np.arange(448_608, 448_611)  # 2021-03-06T00 and on
OUTPUT_CARD = {"title": "A test", "history": "made", "source": "numbers", "references": "none"}
OUTPUT_FIELDS = np.random.default_rng(0).normal(280, 5, (3, 3, 3, *OUTPUT_GRID.shape)).astype(np.float32)
OUTPUT_FIELDS[:, :, 1:] -= 280


def damage_hour(path: Path, name: str, hour: int) -> None:
    """Change bytes of a compressed chunk, which is an hour of a variable."""
    with h5py.File(path) as file:
        chunk = file[name].id.get_chunk_info(hour)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)


def write_output(path: Path, fields: np.ndarray, hours: np.ndarray = OUTPUT_HOURS) -> Path:
    """(hour, member, variable, rows, cols) as `downscale` writes them."""
    members = fields.shape[1] if fields.shape[1] > 1 else None
    template = OutputTemplate(OUTPUT_GRID, ("t2m", "u10", "v10"), members, OUTPUT_CARD)
    writer = (ZarrWriter if path.suffix == ".zarr" else NetcdfWriter)(path, template, hours)
    writer.begin()
    for index in range(len(hours)):
        writer.write(index, template.reduced(fields[index]))
    writer.close()
    return path


ROTATED = {
    "grid_mapping_name": "rotated_latitude_longitude",
    "grid_north_pole_latitude": 47.0,
    "grid_north_pole_longitude": -168.0,
}
REFERENCE_TIMES = np.arange(3) * np.timedelta64(1, "h") + np.datetime64("2020-01-01", "ns")


def cf_problems(output: Path, report: Path) -> list[str]:
    """What the compliance checker finds in a file that CF does not allow; it writes its report."""
    tool = Path(sys.executable).with_name("compliance-checker")
    command = [tool, "--test=cf:1.11", "--criteria=strict", "-f", "json", "-o", report, output]
    subprocess.run([str(part) for part in command], capture_output=True, check=False)
    result = json.loads(report.read_text())["cf:1.11"]
    return [
        message
        for level in ("high", "medium", "low")
        for check in result[f"{level}_priorities"]
        if check["value"][0] < check["value"][1]
        for message in check["msgs"]
    ]


def rotated_reference(east: float, north: float) -> xr.Dataset:
    """VHR-REA_IT's layout with a wind that is the same everywhere on earth, turned onto the rotated grid.

    A step of the wind on the sphere, seen from the rotated pole: no formula of an angle in it.
    """
    rlat, rlon = np.arange(-1.2, 0.8, 0.02), np.arange(0.9, 2.9, 0.02)
    crs = pyproj.CRS.from_cf(ROTATED)
    there = pyproj.Transformer.from_crs(LONLAT, crs, always_xy=True)
    lon, lat = there.transform(*np.meshgrid(rlon, rlat), direction="INVERSE")
    step = 1e-4  # [degrees]
    forward = there.transform(lon + step * east / np.cos(np.radians(lat)), lat + step * north)
    back = there.transform(lon - step * east / np.cos(np.radians(lat)), lat - step * north)
    u = (forward[0] - back[0]) / (2 * step) * np.cos(np.radians(rlat))[:, None]
    v = (forward[1] - back[1]) / (2 * step)
    dims = ("time", "rlat", "rlon")
    fields = {"T_2M": (lat + 240, "K"), "U_10M": (u, "m s-1"), "V_10M": (v, "m s-1")}
    return xr.Dataset(
        {
            name: (dims, np.stack([field] * 3).astype(np.float32), {"units": units, "grid_mapping": "crs"})
            for name, (field, units) in fields.items()
        }
        | {"crs": ((), 0, ROTATED)},
        {"time": REFERENCE_TIMES, "rlat": rlat, "rlon": rlon},
    )


def write_grib(path: Path, dataset: xr.Dataset) -> Path:
    """ERA5 of t2m, u10 and v10 (valid_time, latitude, longitude) as messages of GRIB 2."""
    from eccodes import codes_grib_new_from_samples, codes_release, codes_set, codes_set_values, codes_write

    lat, lon = dataset.latitude.values, dataset.longitude.values
    handle = codes_grib_new_from_samples("regular_ll_sfc_grib2")
    first, last = (f"{{}}Of{end}GridPointInDegrees" for end in ("First", "Last"))
    keys = {"centre": "ecmf", "Ni": lon.size, "Nj": lat.size, "bitsPerValue": 24}
    keys |= dict.fromkeys(("iDirectionIncrementInDegrees", "jDirectionIncrementInDegrees"), 0.25)
    keys |= {first.format("latitude"): lat[0], last.format("latitude"): lat[-1]}
    keys |= {first.format("longitude"): lon[0], last.format("longitude"): lon[-1]}
    for key, value in keys.items():
        codes_set(handle, key, value)
    with path.open("wb") as file:
        for name, parameter in {"t2m": 167, "u10": 165, "v10": 166}.items():
            codes_set(handle, "paramId", parameter)
            for field in dataset[name]:
                time = field.valid_time.dt
                codes_set(handle, "dataDate", int(time.strftime("%Y%m%d")))
                codes_set(handle, "dataTime", 100 * int(time.hour))
                codes_set_values(handle, field.values.ravel().astype(float))
                codes_write(handle, file)
    codes_release(handle)
    return path


# A system in training that is so small that it takes seconds

SMALL_CONDITIONER = {"statics_dim": 16, "predictors_dim": 16, "out_dim": 16, "depth": 1}
SMALL_STAGE = {"batch": 4, "crop": 4, "validate_every": 5, "ema": 0.5}
SHORT = {name: SMALL_STAGE | {"steps": 5, "learning_rate": 0.001} for name in ("unet", "scale", "ldm")}
SMALL = {
    "name": "small",
    "description": "Trained for a test.",
    "grid": {"west": 4_300_000, "north": 2_500_000, "rows": 64, "cols": 64},
    "data": {"split": {"train": [["2021-01-01", "2021-01-02"]], "validation": [["2021-01-05", "2021-01-05"]]}},
    "twin": {"periods": [["2021-01-01", "2021-01-02"], ["2021-01-05", "2021-01-05"]]},
    "statics": {"embedding": 4},
    "unet": {"features": [8], "bottleneck": 8},
    "autoencoder": {"multiplier": 2, "minimum": 4},
    "conditioner": SMALL_CONDITIONER,
    "scale": {"conditioner": SMALL_CONDITIONER},
    "denoiser": {"channels": 32, "multipliers": [1], "blocks": 1, "cross_levels": [0]},
    "sampler": {"steps": 4},
    "train": {
        "unet": SMALL_STAGE | {"steps": 30, "learning_rate": 0.01, "ema": [0.5, 0.9]},
        "vae": SMALL_STAGE | {"steps": 10, "learning_rate": 0.001},
        "scale": SMALL_STAGE | {"steps": 10, "learning_rate": 0.001},
        "ldm": SMALL_STAGE | {"steps": 20, "learning_rate": 0.001},
    },
}


def write_small(folder: Path, **changes: object) -> Path:
    """`small.yaml` in a folder: `SMALL` with other sections."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return path


def write_archive(path: Path, config: Config, *valid: np.ndarray) -> None:
    """An archive of made-up hours: the target is the coarse state, changed by a terrain and by noise that persists.

    For each of the configuration's sources, `valid` says in which coarse cells it has values; by default in all.
    """
    grid, random = Grid.of(config.grid), np.random.default_rng(0)
    names = {"predictors": config.predictors, "targets": config.targets}
    decided, everywhere = fingerprint(config), np.ones(grid.coarse.shape, bool)
    sources, days = [], []
    for index, pair in enumerate(config.data.pairs):
        where = valid[index] if valid else everywhere
        sources.append(ArchiveSource(pair.name, "made up", decided["split"][pair.name], where))
        for period in (*pair.split.train, *pair.split.validation):
            days += [DayKey(index, 0, int(day.astype(int))) for day in np.arange(*_closed(period))]
    writer = ArchiveWriter.begin(path, grid, names, sources, days, decided, [])
    size = {"t2m": 285.0, "u10": 1.0, "v10": -1.0, "cossza": 0.2}
    terrain = noise(grid, 2, 1)
    eddies = np.zeros((len(config.targets), *grid.shape))
    stored: dict[str, list[np.ndarray]] = {"predictors": [], "target": []}
    for key in days:
        day = writer.new_day()
        hours = range(24 * key.day, 24 * key.day + 24)
        for hour in hours:
            wave = np.sin(
                hour / 4 + np.arange(len(config.predictors))[:, None, None] + np.indices(grid.coarse.shape).sum(0)
            )
            coarse = np.array([size[name] for name in config.predictors])[:, None, None] + 3 * wave
            fine = coarse[: len(config.targets)].repeat(grid.factor, -2).repeat(grid.factor, -1)
            eddies = 0.8 * eddies + 0.6 * random.normal(size=eddies.shape)
            target = np.where(fine_cells(sources[key.source].valid, grid), fine - 2 * terrain + eddies, np.nan)
            coarse = np.where(sources[key.source].valid, coarse, np.nan)
            fields = writer.put(day, hour, coarse.astype("f4"), target.astype("f4"))
            for kind, values in fields.items():
                stored[kind].append(values)
        writer.write(key, day, {"hours": list(hours)})
    normalization = {}
    for kind, part in (("predictors", config.predictors), ("target", config.targets)):
        values = np.stack(stored[kind][: 24 * 2]).astype(float)
        mean, std = (dict(zip(part, one(values, (0, 2, 3)).tolist(), strict=True)) for one in (np.nanmean, np.nanstd))
        normalization[kind] = Normalization(mean, std)
    writer.close(normalization, {"twin": "synthetic, recipe 0, seed 0"})


def _closed(period: tuple[date, date]) -> tuple[np.datetime64, np.datetime64]:
    return np.datetime64(period[0], "D"), np.datetime64(period[1], "D") + 1
