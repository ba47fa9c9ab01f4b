"""Results, fields and files that tests share: systems as good as their kind is, an output, a reference."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import xarray as xr
import yaml

from ldmdown.config import Config
from ldmdown.data.archive.manifest import fingerprint
from ldmdown.data.archive.store import ArchiveSource, fine_cells
from ldmdown.data.archive.writer import ArchiveWriter, DayKey
from ldmdown.data.grid import LONLAT, Grid
from ldmdown.data.netcdf import NetcdfWriter
from ldmdown.data.normalization import Normalization
from ldmdown.data.template import OutputTemplate
from ldmdown.data.zarr_store import ZarrWriter
from ldmdown.drawing.map_fields import MapFields
from ldmdown.scoring.results import ReferenceFiles, Results
from ldmdown.scoring.scorecard import Scorecard

KINDS = {
    "bilinear": "interpolation",
    "U-Net": "mean",
    "GAN": "gan",
    "italy, a member": "member",
    "italy, mean of 8": "ensemble mean",
    "ideal": "ideal",
}
VARIABLES = {
    "t2m": {"long_name": "2 metre temperature", "units": "K"},
    "u10": {"long_name": "10 metre U wind component", "units": "m s-1"},
    "v10": {"long_name": "10 metre V wind component", "units": "m s-1"},
    "ws10": {"long_name": "10 metre wind speed", "units": "m s-1"},
}
EXTRA = {
    "wind": {"long_name": "10 metre wind vector", "units": "m s-1"},
    "divergence": {"long_name": "divergence of the 10 metre wind", "units": "s-1"},
    "vorticity": {"long_name": "vorticity of the 10 metre wind", "units": "s-1"},
}
ERROR = {"bilinear": 1.9, "U-Net": 1.0, "GAN": 1.12, "italy, a member": 1.35, "italy, mean of 8": 1.02, "ideal": 1.3}
SMOOTH = {"bilinear": 40, "U-Net": 12, "GAN": 7, "italy, a member": 5, "italy, mean of 8": 11, "ideal": 1}  # [km]
SCORES = {
    "rmse": ("Root mean square error", "field", "low"),
    "bias": ("Bias", "field", "zero"),
    "mae": ("Mean absolute error", "field", "low"),
    "pcc": ("Pearson's correlation", "1", "high"),
    "r2": ("Coefficient of determination", "1", "high"),
    "crps": ("Fair CRPS", "field", "low"),
    "spread_skill": ("Spread over error", "1", "one"),
}
DAYS = 12


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


def map_fields(grid: Grid) -> MapFields:
    """Two ridges and an island in a gradient; systems differ from the reference by noise and smoothing."""
    lon, lat = grid.lon, grid.lat
    ridges = 2600 * np.exp(-(((lat - 46.5 - 0.15 * (lon - 10)) / 0.8) ** 2)) + 1300 * np.exp(
        -((lat - 44 + 0.7 * (lon - 11)) ** 2)
    )
    terrain = np.maximum(0, ridges + 900 * np.exp(-((lon - 9) ** 2) - (lat - 40) ** 2)) * (1 + 0.6 * noise(grid, 2, 0))
    smooth = noise(grid, 4, 1)
    reference = {
        "t2m": 293 - 0.9 * (lat - 36) - 0.006 * terrain + 1.5 * smooth + 0.3 * noise(grid, 2, 2),
        "u10": 4 * noise(grid, 3, 3) + 0.001 * terrain,
        "v10": 4 * noise(grid, 3, 4),
    }
    snapshots, maps = {"reference": _with_speed(reference)}, {"rmse": {}, "bias": {}}  # type: ignore[var-annotated]
    for index, name in enumerate(KINDS):
        error = {key: 0.5 * ERROR[name] * noise(grid, 1.7, 10 + 3 * index + k) for k, key in enumerate(reference)}
        fields = {key: _blurred(field + error[key], SMOOTH[name], grid) for key, field in reference.items()}
        snapshots[name] = _with_speed(fields)
        for key in VARIABLES:
            rough = 1 + np.minimum(terrain, 3000) / 2000
            maps["rmse"].setdefault(key, {})[name] = (
                ERROR[name] * rough * (1 + 0.15 * noise(grid, 2, 40 + index))
            ).astype(np.float32)
            maps["bias"].setdefault(key, {})[name] = ((ERROR[name] - 1) * rough * noise(grid, 2.5, 50 + index)).astype(
                np.float32
            )
    return MapFields(lat, lon, grid.x, grid.y, maps, "2021-01-15T10", snapshots)


def _with_speed(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    fields = fields | {"ws10": np.hypot(fields["u10"], fields["v10"])}
    return {name: field.astype(np.float32) for name, field in fields.items()}


def _blurred(field: np.ndarray, scale: float, grid: Grid) -> np.ndarray:
    rows, cols = grid.shape
    wavenumber = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols)) / grid.spacing * 1000  # [1 / km]
    return np.fft.irfft2(np.fft.rfft2(field) / (1 + (wavenumber * scale) ** 4), grid.shape)


def results(grid: Grid) -> Results:
    """Every part of the results."""
    random = np.random.default_rng(5)
    systems = [
        {"name": name, "kind": kind, "members": 8 if kind in ("member", "ideal") else 1, "regridded": False}
        for name, kind in KINDS.items()
    ]
    scale = {"t2m": 1.0, "u10": 1.3, "v10": 1.35, "ws10": 1.2}
    times = np.arange("2021-01-01", "2021-01-13", dtype="datetime64[h]").astype(str).tolist()
    both = ["reference", *KINDS]
    wavelength = np.geomspace(600, grid.spacing / 500, 60)
    chance, change = np.linspace(0, 1, 9), np.abs(np.linspace(-3.9, 3.9, 40))
    cycle = np.sin((np.arange(24) - 9) / 24 * 2 * np.pi)
    steep = np.linspace(-0.005, 0.005, 301)
    edges = {"t2m": np.linspace(255, 310, 111), "ws10": np.linspace(0, 28, 57)}
    content = {
        "ldmdown": "0.1.0",
        "title": "italy against the twin",
        "created": "2021-02-01T12:00:00Z",
        "reference": {"name": "twin", "files": ["reference_202101.nc"]},
        "grid": {"rows": grid.rows, "cols": grid.cols, "spacing_km": grid.spacing / 1000, "crs": grid.crs},
        "hours": {"first": times[0], "last": times[-1], "count": len(times), "days": DAYS, "blocks": DAYS},
        "notes": ["era5.nc was regridded bilinearly to the grid of out.nc", "twin, recipe 2: a test world <not COSMO>"],
        "variables": VARIABLES | EXTRA,
        "systems": systems,
        "scores": {name: {key: _scores(name, ERROR[name] * scale[key]) for key in VARIABLES} for name in KINDS},
        "score_info": {
            key: {"long_name": name, "units": units, "better": better, "doi": "10.1175/2010MWR3456.1"}
            for key, (name, units, better) in SCORES.items()
        },
        "best": {
            key: {
                "rmse": {"system": "U-Net", "not_significantly_different_from": ["italy, mean of 8"]},
                "bias": {"system": "italy, a member", "not_significantly_different_from": []},
            } for key in VARIABLES
        },
        "ratio_to_ideal": {
            name: {key: {"rmse": _estimate(ERROR[name] / 1.0, 0.03)} for key in VARIABLES} for name in KINDS
        },
        "by_surface": {
            surface: {
                name: {key: {"rmse": factor * ERROR[name] * scale[key], "bias": 0.2 * (ERROR[name] - 1.2) * factor}
                       for key in VARIABLES} for name in KINDS
            } for surface, factor in (("land", 1.1), ("sea", 0.7), ("mountains", 1.6), ("coast", 1.2))
        },
        "hourly": {name: {key: _hourly(ERROR[name] * scale[key], times, random) for key in VARIABLES}
                   for name in KINDS},
        "distribution": {
            key: {"edges": edge.tolist(), "density": {name: _density(key, edge, SMOOTH.get(name, 0)) for name in both}}
            for key, edge in edges.items()
        } | {
            key: {"edges": steep.tolist(),
                  "density": {name: _steepness(steep, SMOOTH.get(name, 0)) for name in both}}
            for key in ("divergence", "vorticity")
        },
        "spectra": {
            key: {
                "wavelength_km": wavelength.tolist(),
                "power": {name: (strength * wavelength**slope / (1 + (SMOOTH.get(name, 0) / wavelength) ** 4)).tolist()
                          for name in both},
                "ratio_db": {name: (-10 * np.log10(1 + (SMOOTH[name] / wavelength) ** 4)).tolist() for name in KINDS},
                "error_db": np.full(wavelength.size, 0.1),
                "effective_resolution_km": {name: 1.4 * SMOOTH[name] for name in KINDS},
            } for key, strength, slope in (("t2m", 3.0, 2.6), ("ke", 10.0, 1.9))
        },
        "rank_histogram": {
            name: {key: (1000 + 300 * np.abs(np.arange(9) - 4) ** slope).tolist() for key in VARIABLES}
            for name, slope in (("italy, a member", 1.2), ("ideal", 0.0))
        },
        "reliability": {
            name: {event: {"forecast": chance.tolist(), "observed": (chance**power).tolist(),
                           "count": (1e6 * np.exp(-np.arange(9))).tolist()}
                   for event in ("ws10 above 15 m s-1", "t2m below 273.15 K")}
            for name, power in (("italy, a member", 1.3), ("ideal", 1.02))
        },
        "diurnal": {
            key: {name: (base + size * cycle + 0.3 * (ERROR.get(name, 1) - 1)).tolist() for name in both}
            for key, base, size in (("t2m", 283, 4), ("ws10", 5, 0.8))
        },
        "hour_to_hour": {
            key: {"edges": np.linspace(-4, 4, 41).tolist(),
                  "density": {name: np.exp(-change * (1.2 + 0.01 * SMOOTH.get(name, 0))).tolist() for name in both},
                  "lag1": dict.fromkeys(both, 0.9)}
            for key in ("t2m", "ws10")
        },
        "stations": _stations(random),
    }  # fmt: skip
    return Results.model_validate(content)


def _stations(random: np.random.Generator) -> dict[str, Any]:
    """Eighty in South Tyrol."""
    return {
        "file": "south_tyrol.csv",
        "interpolation": "bilinear",
        "height_corrected": True,
        "hours": 24,
        "stations": [
            {"name": f"station {place}", "lat": lat, "lon": lon, "height": 1000.0}
            for place, (lat, lon) in enumerate(random.uniform((46.25, 10.4), (47.05, 12.4), (80, 2)).tolist())
        ],
        "all": {
            name: {"t2m": {"count": 1900, "rmse": error, "bias": 0.1, "mae": 0.8 * error, "pcc": 0.9}}
            for name, error in ERROR.items()
        },
        "scores": {
            name: {
                "t2m": {
                    "count": np.full(80, 24),
                    "bias": random.normal(0, error, 80),
                    "mae": np.full(80, error),
                    "pcc": np.full(80, 0.9),
                    "rmse": error * random.gamma(20, 0.06, 80),
                }
            }
            for name, error in ERROR.items()
        },
    }


def _scores(name: str, error: float) -> dict[str, dict[str, float]]:
    values: dict[str, float] = {"rmse": error, "bias": 0.3 * (1.3 - error), "r2": 1 - error**2 / 12}
    values |= {"mae": 0.8 * error, "pcc": 1 - error**2 / 24}
    if KINDS[name] in ("member", "ideal"):
        values |= {"crps": 0.45 * error, "spread_skill": 0.9 if name != "ideal" else 1.0}
    return {key: _estimate(value, 0.04 * error) for key, value in values.items()}


def _estimate(value: float, wide: float) -> dict[str, float]:
    return {"value": value, "low": value - wide, "high": value + wide}


def _hourly(error: float, times: list[str], random: np.random.Generator) -> dict[str, Any]:
    rmse = error * random.gamma(30, 1 / 30, len(times))
    bias = 0.3 * (1.3 - error) + 0.2 * random.normal(size=len(times))
    r2 = 1 - rmse**2 / 12
    return {
        "time": times,
        "rmse": rmse.tolist(),
        "bias": bias.tolist(),
        "r2": r2.tolist(),
        "pcc": np.sqrt(np.maximum(0, r2)).tolist(),
    }


def _steepness(edges: np.ndarray, smooth: float) -> list[float]:
    middle = (edges[1:] + edges[:-1]) / 2
    density = np.exp(-np.abs(middle) * (4000 + 200 * smooth))
    return (density / (density * np.diff(edges)).sum()).tolist()


def _density(name: str, edges: np.ndarray, smooth: float) -> list[float]:
    middle = (edges[1:] + edges[:-1]) / 2
    if name == "t2m":
        density = np.exp(-(((middle - 284) / (8 - 0.04 * smooth)) ** 2) / 2)
    else:
        width = 5 - 0.04 * smooth
        density = middle / width * np.exp(-((middle / width) ** 1.8))
    return (density / (density * np.diff(edges)).sum()).tolist()


# Files

OUTPUT_GRID = Grid(west=4_700_000, north=2_200_000, rows=16, cols=24)
OUTPUT_HOURS = np.arange(448_608, 448_611)  # 2021-03-06T00 and on
OUTPUT_CARD = {"title": "A test", "history": "made", "source": "numbers", "references": "none"}
OUTPUT_FIELDS = np.random.default_rng(0).normal(280, 5, (3, 3, 3, *OUTPUT_GRID.shape)).astype(np.float32)
OUTPUT_FIELDS[:, :, 1:] -= 280


def write_output(path: Path, fields: np.ndarray, hours: np.ndarray = OUTPUT_HOURS) -> Path:
    """(hour, member, variable, rows, cols) as `downscale` writes them."""
    members = fields.shape[1] if fields.shape[1] > 1 else None
    template = OutputTemplate(OUTPUT_GRID, ("t2m", "u10", "v10"), members, OUTPUT_CARD)
    writer = (ZarrWriter if path.suffix == ".zarr" else NetcdfWriter)(path, template, hours)
    writer.begin()
    for index in range(len(hours)):
        writer.write(index, fields[index])
    writer.close()
    return path


ROTATED = {
    "grid_mapping_name": "rotated_latitude_longitude",
    "grid_north_pole_latitude": 47.0,
    "grid_north_pole_longitude": -168.0,
}
REFERENCE_TIMES = np.arange(3) * np.timedelta64(1, "h") + np.datetime64("2020-01-01", "ns")


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
    fields = {
        "T_2M": (lat + 240, "K"),
        "U_10M": (u, "m s-1"),
        "V_10M": (v, "m s-1"),
    }
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
SMALL = {
    "name": "small",
    "description": "Trained for a test.",
    "grid": {"west": 4_300_000, "north": 2_500_000, "rows": 64, "cols": 64},
    "data": {
        "split": {
            "train": [["2021-01-01", "2021-01-02"]],
            "validation": [["2021-01-05", "2021-01-05"]],
        }
    },
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
