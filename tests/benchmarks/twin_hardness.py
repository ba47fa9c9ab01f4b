"""How hard the twin is: the ideal ensemble against scaled white noise of exact mean and std.

    python tests/benchmarks/twin_hardness.py [--orography FILE] [--coarse-orography FILE] [--members 48]

Two kinds of scaled white noise are drawn around the exact conditional mean: white pixels, and white coefficients of
the lapped transform (a denoiser that has learnt a scale and nothing else). Scores are fair, on patches of 24 x 24
cells and all three variables, divided by their residual's std; smaller is better, and the table says by how many per
cent the noise is worse.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ldmdown.data.grid import Grid
from ldmdown.metrics import crps, energy_score, variogram_score
from ldmdown.models.transform import LappedTransform
from ldmdown.twin.recipe import RECIPE, TwinWorld

BLOCK, PATCH, DRAWS, OBSERVED = 8, 24, 16, 4
LAGS = (1, 2, 3)  # cells, of the variogram score: what white noise gets wrong
TIMES = ("2021-01-14T03", "2021-01-20T13", "2021-04-08T05", "2021-04-17T14")
TIMES += ("2021-07-11T02", "2021-07-19T13", "2021-10-05T20", "2021-10-23T11")


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
        transform, mean = LappedTransform(3, 3), self.known.mean(0)
        scale = transform.encode(torch.from_numpy(self.known - mean)).std(0)
        noise = random.standard_normal((DRAWS, *scale.shape), dtype=np.float32)
        return mean + transform.decode(scale * torch.from_numpy(noise)).numpy()


def draw(world: TwinWorld, hour: int, members: int, scale: NDArray) -> Hour:
    """Draw an hour's members; the truths come first and are not among the known ones."""
    coarse = world.coarse(hour)
    rows, cols = (size // BLOCK * BLOCK for size in world.lat.shape)
    drawn = [world.fine_on_grid(hour, member, coarse)[:, :rows, :cols] for member in range(OBSERVED + members)]
    fields, state = (np.stack(drawn) / scale).astype("f4"), world.state(hour, coarse)
    smooth = np.stack([part[:rows, :cols] for part in (state.t, state.u, state.v)]) / scale
    return Hour(smooth, fields[OBSERVED:], fields[:OBSERVED])


def residual_std(world: TwinWorld, hours: list[int]) -> NDArray[np.float32]:
    """The std of fine minus interpolated coarse fields, (3, 1, 1)."""
    drawn = [draw(world, hour, 0, np.ones((3, 1, 1), "f4")) for hour in hours]
    squares = [((one.truths[0] - one.interpolated) ** 2).mean((1, 2)) for one in drawn]
    return np.sqrt(np.mean(squares, axis=0))[:, None, None].astype("f4")


def hardness(hour: Hour, random: np.random.Generator) -> dict[str, NDArray]:
    """Energy score, variogram score and CRPS of the ideal ensemble and of the two kinds of white noise."""
    kinds = {"ideal": hour.known[:DRAWS], "pixels": hour.white_pixels(random), "latents": hour.white_latents(random)}
    return {
        kind: np.mean(
            [
                (energy_score(one, truth, PATCH), variogram_score(one, truth, LAGS), crps(one, truth))
                for truth in hour.truths
            ],
            axis=0,
        )
        for kind, one in kinds.items()
    }


def excess(scores: dict[str, NDArray]) -> dict[str, NDArray]:
    """By how many per cent each kind of white noise is worse than the ideal."""
    return {kind: 100 * (scores[kind] / scores["ideal"] - 1) for kind in ("pixels", "latents")}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orography")
    parser.add_argument("--coarse-orography")
    parser.add_argument("--members", type=int, default=48, help="from which mean and std are taken")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    world = TwinWorld(
        Grid(), seed=arguments.seed, orography=arguments.orography, coarse_orography=arguments.coarse_orography
    )
    hours = [int(np.datetime64(moment, "h").astype(int)) for moment in TIMES]
    random, scale = np.random.default_rng(0), residual_std(world, hours)
    print(f"recipe {RECIPE}, {world.lat.shape}, {arguments.members} members; residual {scale.ravel().round(2)}")
    print(f"{'':16}{'RMSE of bilinear':20}{'of the ideal mean':20}{'ES  VS  CRPS: % worse, pixels':32}latents")
    total: dict[str, NDArray] = {}
    for moment, now in zip(TIMES, hours, strict=True):
        hour = draw(world, now, arguments.members, scale)
        scores = hardness(hour, random)
        total = {kind: total.get(kind, 0) + score for kind, score in scores.items()}
        errors = [
            " ".join(f"{value:.2f}" for value in np.sqrt(((hour.truths - field) ** 2).mean((0, 2, 3))) * scale.ravel())
            for field in (hour.interpolated, hour.known.mean(0))
        ]
        worse = [" ".join(f"{value:5.1f}" for value in values) for values in excess(scores).values()]
        print(f"{moment:16}{errors[0]:20}{errors[1]:20}{worse[0]:32}{worse[1]}", flush=True)
    for kind, values in excess(total).items():
        print(f"white {kind}: {' '.join(f'{value:+.1f} %' for value in values)}")


if __name__ == "__main__":
    main()
