"""How hard the twin is: the ideal ensemble against scaled white noise of exact mean and std.

    python tests/benchmarks/twin_hardness.py [--orography FILE] [--coarse-orography FILE] [--members 48]

Two kinds of scaled white noise are drawn around the exact conditional mean: white pixels, and white
coefficients of a lapped orthogonal transform (a denoiser that has learnt a scale and nothing else). Scores
are fair (unbiased in the number of members), on patches of 24 x 24 cells and all three variables, divided by
their residual's std; smaller is better, and the table says by how many per cent the noise is worse.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from ldmdown.data.grid import Grid
from ldmdown.twin.recipe import RECIPE, TwinWorld

BLOCK, PATCH, DRAWS, OBSERVED = 8, 24, 32, 12
PAIRS = ((0, 1), (1, 0), (0, 3), (3, 0), (4, 4), (0, 8), (8, 0))  # lags [cells] of the variogram score
TIMES = ("2021-01-14T03", "2021-01-20T13", "2021-04-08T05", "2021-04-17T14")
TIMES += ("2021-07-11T02", "2021-07-19T13", "2021-10-05T20", "2021-10-23T11")
NAMES = ("t2m", "u10", "v10")


def lapped(size: int) -> NDArray[np.float32]:
    """Malvar's fast lapped transform as a matrix: blocks of 8 overlap by half and wrap at the ends."""
    dct = fft.dct(np.eye(BLOCK), axis=0, norm="ortho")
    even, odd = dct[0::2], dct[1::2]
    turn = np.eye(BLOCK // 2)
    for i, angle in enumerate((0.13, 0.16, 0.13)):
        c, s = np.cos(angle * np.pi), np.sin(angle * np.pi)
        step = np.eye(BLOCK // 2)
        step[i : i + 2, i : i + 2] = [[c, s], [-s, c]]
        turn = turn @ step
    low = np.hstack([even - odd, (even - odd)[:, ::-1]]) / 2
    high = turn.T @ np.hstack([even - odd, -(even - odd)[:, ::-1]]) / 2
    kernel = np.vstack([low, high])  # (8, 16)
    matrix = np.zeros((size, size), "f4")
    for start in range(0, size, BLOCK):
        cells = np.arange(start - BLOCK // 2, start + BLOCK + BLOCK // 2) % size
        matrix[start : start + BLOCK, cells] = kernel
    return matrix


def patches(fields: NDArray) -> NDArray:
    """(members, 3, rows, cols) to (patches, members, 3, PATCH, PATCH), without the outer block."""
    inner = fields[..., BLOCK:-BLOCK, BLOCK:-BLOCK]
    members, names, rows, cols = inner.shape
    rows, cols = rows // PATCH, cols // PATCH
    inner = inner[..., : rows * PATCH, : cols * PATCH].reshape(members, names, rows, PATCH, cols, PATCH)
    return np.moveaxis(inner, (2, 4), (0, 1)).reshape(-1, members, names, PATCH, PATCH)


def energy(draws: NDArray, truths: NDArray) -> float:
    """Fair energy score (Gneiting and Raftery 2007, eq. 21), mean over patches and truths."""
    x, y = (part.reshape(*part.shape[:2], -1) for part in (patches(draws), patches(truths)))
    return float(
        np.mean(_distances(x, y)) - 0.5 * np.sum(_distances(x, x)) / (x.shape[0] * x.shape[1] * (x.shape[1] - 1))
    )


def _distances(x: NDArray, y: NDArray) -> NDArray:
    squares = (x**2).sum(-1)[:, :, None] + (y**2).sum(-1)[:, None] - 2 * x @ y.transpose(0, 2, 1)
    return np.sqrt(np.maximum(squares, 1e-9))


def variogram(draws: NDArray, truths: NDArray) -> float:
    """Fair variogram score of order 0.5 (Scheuerer and Hamill 2015), mean over pairs, patches and truths."""
    x, y = patches(draws), patches(truths)
    total = 0.0
    for rows, cols in PAIRS:
        a, b = (np.sqrt(np.abs(part[..., rows:, cols:] - part[..., : PATCH - rows, : PATCH - cols])) for part in (x, y))
        error = (b - a.mean(1, keepdims=True)) ** 2 - a.var(1, ddof=1, keepdims=True) / a.shape[1]
        total += float(error.mean())
    return total / len(PAIRS)


def crps(draws: NDArray, truths: NDArray) -> float:
    """Fair continuous ranked probability score, mean over variables, cells and truths."""
    ranks = np.arange(1, len(draws) + 1, dtype="f4")[:, None, None, None]
    spread = (np.sort(draws, axis=0) * (2 * ranks - len(draws) - 1)).sum(0) / (len(draws) * (len(draws) - 1))
    return float(np.mean([np.abs(draws - truth).mean() for truth in truths]) - spread.mean())


@dataclass
class Hour:
    """An hour's members, normalised, and what is known of their distribution."""

    interpolated: NDArray  # (3, rows, cols)
    known: NDArray  # (members, 3, rows, cols): what mean and std are taken from, and the ideal ensemble
    truths: NDArray  # (OBSERVED, 3, rows, cols)

    def white_pixels(self, random: np.random.Generator) -> NDArray:
        """Exact mean and std of every pixel."""
        noise = random.standard_normal((DRAWS, *self.known.shape[1:]), dtype=np.float32)
        return self.known.mean(0) + self.known.std(0, ddof=1) * noise

    def white_latents(self, random: np.random.Generator) -> NDArray:
        """Exact mean, and exact std of every coefficient."""
        mean = self.known.mean(0)
        rows, cols = (lapped(size) for size in mean.shape[1:])
        scale = (rows @ (self.known - mean) @ cols.T).std(0, ddof=1)
        noise = random.standard_normal((DRAWS, *mean.shape), dtype=np.float32)
        return mean + rows.T @ (scale * noise) @ cols


def draw(world: TwinWorld, hour: int, members: int, scale: NDArray) -> Hour:
    """Draw an hour's members; the truths come first and are not among the known ones."""
    coarse = world.coarse(hour)
    rows, cols = (size // BLOCK * BLOCK for size in world.lat.shape)
    fields = np.stack(
        [
            np.stack(world.fine_on_grid(hour, member, coarse))[:, :rows, :cols] / scale
            for member in range(OBSERVED + members)
        ]
    )
    state = world.state(hour, coarse)
    smooth = np.stack([part[:rows, :cols] for part in (state.t, state.u, state.v)]) / scale
    return Hour(smooth, fields[OBSERVED:], fields[:OBSERVED])


def residual_deviation(world: TwinWorld, hours: list[int]) -> NDArray[np.float32]:
    """Of fine minus interpolated coarse, (3, 1, 1)."""
    squares = []
    for hour in hours:
        one = draw(world, hour, 0, np.ones((3, 1, 1), "f4"))
        squares.append(((one.truths[0] - one.interpolated) ** 2).mean((1, 2)))
    return np.sqrt(np.mean(squares, axis=0))[:, None, None].astype("f4")


def hardness(hour: Hour, random: np.random.Generator) -> dict[str, NDArray]:
    """(energy, variogram, CRPS) of the ideal ensemble and of the two kinds of white noise."""
    kinds = {"ideal": hour.known, "pixels": hour.white_pixels(random), "latents": hour.white_latents(random)}
    return {
        kind: np.array([score(draws, hour.truths) for score in (energy, variogram, crps)])
        for kind, draws in kinds.items()
    }


def slope(fields: NDArray, first: float = 8, last: float = 40) -> float:
    """Exponent of the isotropic spectrum of (..., rows, cols) between two wavelengths [cells of 2.2 km]."""
    side = min(fields.shape[-2:])
    window = np.hanning(side)[:, None] * np.hanning(side)
    fields = fields[..., :side, :side]
    power = np.abs(fft.fft2((fields - fields.mean((-2, -1), keepdims=True)) * window)) ** 2
    power = power.reshape(-1, side, side).mean(0)
    k = np.hypot(fft.fftfreq(side)[:, None], fft.fftfreq(side)[None])
    edges = np.geomspace(1 / last, 1 / first, 9)
    inside = [(k >= low) & (k < high) for low, high in pairwise(edges)]
    density = [power[ring].mean() * k[ring].mean() for ring in inside]
    return float(np.polyfit(np.log([k[ring].mean() for ring in inside]), np.log(density), 1)[0])


def excess(scores: dict[str, NDArray]) -> dict[str, NDArray]:
    """By how many per cent each kind of white noise is worse than the ideal."""
    return {kind: 100 * (scores[kind] / scores["ideal"] - 1) for kind in ("pixels", "latents")}


def bimodality(deviations: NDArray) -> NDArray:
    """Sarle's coefficient of each cell, (skewness^2 + 1) / kurtosis: 1/3 if Gaussian, 1 if two values."""
    scaled = deviations / (deviations.std(0) + 1e-6)
    return ((scaled**3).mean(0) ** 2 + 1) / ((scaled**4).mean(0) + 1e-6)


def memory(world: TwinWorld, hour: int, pairs: int = 8) -> NDArray:
    """Correlation of an hour's std from the conditional mean with the next hour's, (3,)."""
    now, then = (
        np.stack([np.stack(world.fine_on_grid(h, member)) for member in range(pairs)]) for h in (hour, hour + 1)
    )
    now, then = now - now.mean(0), then - then.mean(0)
    axes = (0, 2, 3)
    return (now * then).mean(axes) / np.sqrt((now**2).mean(axes) * (then**2).mean(axes))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orography")
    parser.add_argument("--coarse-orography")
    parser.add_argument("--members", type=int, default=48, help="from which mean and std are taken")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    world = TwinWorld(
        Grid(),
        seed=arguments.seed,
        orography=arguments.orography,
        coarse_orography=arguments.coarse_orography,
    )
    hours = [int(np.datetime64(moment, "h").astype(int)) for moment in TIMES]
    random = np.random.default_rng(0)
    start = time.perf_counter()
    world.coarse(hours[0] + 3)
    coarse = time.perf_counter() - start
    scale = residual_deviation(world, hours)
    print(f"recipe {RECIPE}, {world.lat.shape}, {arguments.members} members; residual {scale.ravel().round(2)}")
    print(f"{'':16}{'RMSE of bilinear':20}{'of the ideal mean':20}{'slope t, wind':16}{'bimodality':18}"
          f"{'lag-1':18}{'ES  VS  CRPS: % worse, pixels':32}latents    [s]")  # fmt: skip
    total: dict[str, NDArray] = {}
    for moment, now in zip(TIMES, hours, strict=True):
        start = time.perf_counter()
        hour = draw(world, now, arguments.members, scale)
        seconds = (time.perf_counter() - start) / (arguments.members + OBSERVED)
        scores = hardness(hour, random)
        total = {kind: total.get(kind, 0) + score for kind, score in scores.items()}
        mean = hour.known.mean(0)
        bilinear, ideal = (
            np.sqrt(((hour.truths - field) ** 2).mean((0, 2, 3))) * scale.ravel() for field in (hour.interpolated, mean)
        )
        slopes = [slope(hour.truths[:, index]) for index in (slice(0, 1), slice(1, 3))]
        modes = bimodality(hour.known - mean).mean((1, 2))
        worse = [" ".join(f"{value:5.1f}" for value in values) for values in excess(scores).values()]
        cells = [bilinear, ideal, np.array(slopes), modes, memory(world, now)]
        widths = (20, 20, 16, 18, 18)
        row = "".join(
            f"{' '.join(f'{v:.2f}' for v in cell):{width}}" for cell, width in zip(cells, widths, strict=True)
        )
        print(f"{moment:16}{row}{worse[0]:32}{worse[1]}  {seconds:.2f}", flush=True)
    print(f"all, {NAMES} together; ES, VS, CRPS: ideal {total['ideal'] / len(hours)}")
    for kind, values in excess(total).items():
        print(f"  white {kind}: {' '.join(f'{value:+.1f} %' for value in values)}")
    print(f"coarse state: {coarse * 1e3:.0f} ms an hour")


if __name__ == "__main__":
    main()
