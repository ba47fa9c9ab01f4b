"""Scores of checkpoints on twin hours that they never saw, beside interpolation, noise and the ideal ensemble.

    python tests/benchmarks/twin_scores.py italy.yaml CHECKPOINT [CHECKPOINT ...] -o scores.json

The configuration names the twin and the test days; no archive is needed. Every system predicts the same hours of
the whole domain. The ideal ensemble is drawn from the twin's own p(fine | coarse) and brought to the grid as the
reference is. Scaled white noise is a checkpoint's own mean and predicted scale, without its diffusion.

Columns: RMSE of t2m [K], u10, v10 [m s-1]; fair CRPS of the same (the absolute error, for one field); fair energy
and variogram score of 24 x 24 cells, all three variables divided by the RMSE of bilinear; power against the
reference's [dB] by wavelength, of t2m and of kinetic energy.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.ndimage
import torch
import xarray as xr
from numpy.typing import NDArray

from ldmdown import metrics
from ldmdown.checkpoint import Checkpoint, load
from ldmdown.config import Config, parse_config
from ldmdown.data.era5 import CoarsePredictors
from ldmdown.data.grid import Grid, SourceGrid, regrid, rotated_pole
from ldmdown.data.twin import RECIPE, TwinWorld
from ldmdown.data.twin_recipe import POLE_LATITUDE, POLE_LONGITUDE
from ldmdown.models.sampling import white_noise

WAVELENGTHS = (32.0, 16.0, 10.0, 8.0, 6.0, 5.0, 4.2)  # [km]; 4 is the grid's shortest
PATCH = 24
NAMES = ("t2m", "u10", "v10")
ROTATED = rotated_pole(POLE_LATITUDE, POLE_LONGITUDE)

Fields = NDArray[np.float32]  # (..., 3, rows, cols), t2m [K], u10 and v10 [m s-1]


class Truth:
    """The twin on the fine grid."""

    def __init__(self, config: Config, folder: Path) -> None:
        assert config.twin is not None
        twin, self.grid = config.twin, Grid(**config.grid.model_dump())
        terrain = [folder / name if name else None for name in (twin.orography, twin.coarse_orography)]
        self.world = TwinWorld(self.grid, seed=twin.seed, orography=terrain[0], coarse_orography=terrain[1])
        source = SourceGrid(self.world.rlat, self.world.rlon, ROTATED)
        self.weights = source.weights(self.grid.lat, self.grid.lon)
        era5 = SourceGrid(self.world.latitude, self.world.longitude)
        self.interpolation = era5.weights(self.grid.lat, self.grid.lon)

    def draw(self, hour: int, member: int) -> Fields:
        """(3, rows, cols)."""
        fine = self.world.fine(hour, member)
        return regrid(self.weights, np.stack([fine[name] for name in NAMES]), self.grid.shape).astype(np.float32)

    def coarse(self, hour: int, names: tuple[str, ...]) -> CoarsePredictors:
        """The predictors of an hour."""
        state = self.world.coarse(hour)
        dims = ("time", "latitude", "longitude")
        coords = {
            "time": [np.datetime64(hour, "h").astype("datetime64[ns]")],
            "latitude": self.world.latitude,
            "longitude": self.world.longitude,
        }
        dataset = xr.Dataset({name: (dims, field[None]) for name, field in state.items()}, coords)
        return CoarsePredictors(dataset, self.grid, self.grid.whole, names)

    def bilinear(self, hour: int) -> Fields:
        """ERA5's own grid to the fine one."""
        state = self.world.coarse(hour)
        return regrid(self.interpolation, np.stack([state[name] for name in NAMES]), self.grid.shape)

    def quadratic(self, coarse: Fields) -> Fields:
        """The coarse grid (3, h, w) to the fine one by splines of order two, as in the paper."""
        factor = self.grid.factor
        places = [(np.arange(size) + 0.5) / factor - 0.5 for size in self.grid.shape]
        points = np.meshgrid(*places, indexing="ij")
        return np.stack([scipy.ndimage.map_coordinates(f, points, order=2, mode="nearest") for f in coarse])


@torch.inference_mode()
def systems(checkpoint: Checkpoint, predictors: CoarsePredictors, members: int) -> Iterator[tuple[str, Fields]]:
    """(name, (member, 3, rows, cols)): the mean, the members, and scaled white noise where there is a scale."""
    model, config, normalization = checkpoint.model, checkpoint.config, checkpoint.normalization
    coarse = normalization["predictors"].normalize(predictors.read(0), config.predictors)
    given = torch.from_numpy(coarse)[None]
    h, w = coarse.shape[-2:]
    statics = model.statics_at([(0, 0)], h, w)
    mean = model.mean(given, statics)

    def physical(fields: list[torch.Tensor]) -> Fields:
        return normalization["target"].denormalize(torch.cat(fields).numpy(), config.targets)

    yield "U-Net", physical([mean])
    condition = model.condition(given, statics)
    sampler = config.sampler
    assert model.autoencoder is not None
    shape = (model.autoencoder.latent_channels, h, w)
    noises = [white_noise(0, member, int(predictors.hours[0]), shape)[None] for member in range(members)]
    if model.scale is not None:
        yield "scaled white noise", physical([model.decode(mean, condition, noise) for noise in noises])
    yield (
        "LDM",
        physical(
            [
                model.sample(mean, condition, noise, sampler=sampler.name, steps=sampler.steps, spacing=sampler.spacing)
                for noise in noises
            ]
        ),
    )


def score(fields: Fields, truth: Fields, scale: NDArray[np.float64]) -> dict[str, list[float]]:
    """Of one hour: squared errors of the first member and of the mean, CRPS, energy and variogram score."""
    single = len(fields) == 1
    first, mean = fields[0], fields.mean(axis=0)
    result = {
        "squared error": [float(np.square(first[i] - truth[i]).mean()) for i in range(3)],
        "squared error of mean": [float(np.square(mean[i] - truth[i]).mean()) for i in range(3)],
        "crps": [
            float(np.abs(first[i] - truth[i]).mean()) if single else metrics.crps(fields[:, i], truth[i])
            for i in range(3)
        ],
        "power t2m": _power(first[:1]),
        "power wind": _power(first[1:]),
    }
    if not single:
        result["energy"] = [metrics.energy_score(fields / scale, truth / scale, PATCH)]
        result["variogram"] = [metrics.variogram_score(fields / scale, truth / scale)]
        result["spread"] = [float(np.var(fields[:, i], axis=0, ddof=1).mean()) for i in range(3)]
    return result


def _power(field: Fields) -> list[float]:
    length, power = metrics.power_spectrum(field, 2.0)
    return [float(power[np.abs(np.log(length / wavelength)) < 0.1].mean()) for wavelength in WAVELENGTHS]


def hours_of(config: Config, every: int) -> list[int]:
    """Absolute hours of the test days."""
    hours: list[int] = []
    for first, last in config.data.split.test:
        start, end = (np.datetime64(day, "h").astype(int) for day in (first, last))
        hours += range(start, end + 24)
    return hours[::every]


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("-o", "--output", type=Path, default=Path("scores.json"))
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--ideal-mean", type=int, default=24, help="members that the ideal mean is taken over")
    parser.add_argument("--every", type=int, default=5, help="of the test hours take every n-th")
    arguments = parser.parse_args()
    config = parse_config(arguments.config)
    truths, hours = Truth(config, arguments.config.parent), hours_of(config, arguments.every)
    checkpoints = [load(name) for name in arguments.checkpoints]
    scale = np.sqrt(
        np.mean([np.square(truths.draw(h, 0) - truths.bilinear(h)).mean((1, 2)) for h in hours[::3]], axis=0)
    )[:, None, None]
    totals: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    seconds: dict[str, float] = defaultdict(float)

    def note(system: str, fields: Fields, truth: Fields) -> None:
        for key, values in score(fields, truth, scale).items():
            totals[system][key].append(values)

    for number, hour in enumerate(hours):
        truth = truths.draw(hour, 0)
        note("truth", truth[None], truth)
        ideal = np.stack([truths.draw(hour, 1 + member) for member in range(arguments.ideal_mean)])
        note("ideal ensemble", ideal[: arguments.members], truth)
        note("ideal mean", ideal.mean(axis=0, keepdims=True), truth)
        note("bilinear", truths.bilinear(hour)[None], truth)
        predictors = truths.coarse(hour, checkpoints[0].config.predictors)
        note("quadratic", truths.quadratic(predictors.read(0)[:3])[None], truth)
        for checkpoint in checkpoints:
            began = time.perf_counter()
            for kind, fields in systems(checkpoint, predictors, arguments.members):
                name = f"{checkpoint.header['name']} {kind}"
                seconds[name] += time.perf_counter() - began
                note(name, fields, truth)
                began = time.perf_counter()
        print(f"{number + 1}/{len(hours)} {np.datetime64(hour, 'h')}", flush=True)
    table = {
        name: summary(parts, totals["truth"], arguments.members) for name, parts in totals.items() if name != "truth"
    }
    for name, spent in seconds.items():
        table[name]["seconds an hour"] = [spent / len(hours)]
    record = {"recipe": RECIPE, "hours": len(hours), "members": arguments.members, "wavelengths": WAVELENGTHS}
    arguments.output.write_text(json.dumps(record | {"systems": table}, indent=1))
    show(table)


def summary(
    parts: dict[str, list[list[float]]], truth: dict[str, list[list[float]]], members: int
) -> dict[str, list[float]]:
    """Means over the hours."""
    mean = {key: np.mean(values, axis=0) for key, values in parts.items()}
    result = {
        "rmse": np.sqrt(mean["squared error"]),
        "rmse of mean": np.sqrt(mean["squared error of mean"]),
        "crps": mean["crps"],
    }
    result |= {key: mean[key] for key in ("energy", "variogram") if key in mean}
    if "spread" in mean:
        result["spread/skill"] = np.sqrt(mean["spread"] * (1 + 1 / members) / mean["squared error of mean"])
    for key in ("t2m", "wind"):
        result[f"dB {key}"] = 10 * np.log10(mean[f"power {key}"] / np.mean(truth[f"power {key}"], axis=0))
    return {key: values.tolist() for key, values in result.items()}


def show(table: dict[str, dict[str, list[float]]]) -> None:
    """As text."""
    for name, scores in table.items():
        cells = [f"{key} {' '.join(f'{value:.3g}' for value in values)}" for key, values in scores.items()]
        print(f"{name}\n    " + "\n    ".join(cells))


if __name__ == "__main__":
    main()
