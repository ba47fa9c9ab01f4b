"""Means of fields over ERA5's boxes: as they are, as far from ERA5 as in training, or ERA5's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from conftest import CONFIG, NORMALIZATION, untrained
from conftest import ldmdown as command
from made_up import noise

import ldmdown
from ldmdown import checkpoint, metrics
from ldmdown.consistency import BoxConsistency
from ldmdown.data.archive.box_means import era5_boxes
from ldmdown.data.grid import Grid, SourceGrid, regrid
from ldmdown.data.reading.fields import Fields, open_fields
from ldmdown.errors import LdmdownError

GRID = Grid.of(CONFIG.grid)
BOXES = era5_boxes(GRID)
NAMES = ("t2m", "u10", "v10")
EVERYWHERE = np.ones(BOXES.grid.shape)
Write = Callable[..., Path]


def differences(mean: dict[str, float], std: dict[str, float]) -> dict[str, Any]:
    """Those of the header of a checkpoint, the same in all boxes."""
    held = {"lat": BOXES.centres.y.tolist(), "lon": BOXES.centres.x.tolist()}
    parts = {"mean": mean, "std": std}
    return held | {
        part: {name: (value * EVERYWHERE).tolist() for name, value in one.items()} for part, one in parts.items()
    }


KNOWN = differences({"t2m": 0.5, "u10": 0.0, "v10": 0.0}, {"t2m": 0.5, "u10": 0.25, "v10": 0.25})


def means(field: np.ndarray) -> np.ndarray:
    """Over the boxes that lie wholly in the grid."""
    found = BOXES.means(BOXES.of_source, field)
    return found[np.isfinite(found)]


@pytest.fixture
def fields(era5: Write) -> Fields:
    with open_fields([era5(range(2))], NAMES) as opened:
        yield opened


def corrected(fields: Fields, made: np.ndarray, way: str, known: dict[str, Any] = KNOWN) -> tuple[np.ndarray, Any]:
    """Fields (member, variable, rows, cols) of the first hour, and ERA5 on the boxes of the grid."""
    covered, result = dict.fromkeys(NAMES, fields.grid.covers(*BOXES.latlon())), made.copy()
    consistency = BoxConsistency(BOXES, NAMES, covered, [known], exact=way == "exact")
    era5 = np.stack([one.read(0) for one in consistency.era5(fields)])
    consistency.agree(result, era5)
    whole = np.isfinite(BOXES.means(BOXES.of_source, GRID.lat))
    return result, era5[0][:, whole]


def rough(seed: int, *, members: int = 2) -> np.ndarray:
    made = [[10 * noise(GRID, 2, seed + 3 * member + channel) for channel in range(3)] for member in range(members)]
    return (np.array(made) + np.array([285.0, 0.0, 0.0])[:, None, None]).astype(np.float32)


def test_exact_means_are_those_of_era5(fields: Fields) -> None:
    """Those of t2m with the 0.5 K by which the ground of the model is warmer; each member keeps its own detail."""
    made, era5 = corrected(fields, rough(0), "exact")
    for member in made:
        for field, expected, warmer in zip(member, era5, (0.5, 0.0, 0.0), strict=True):
            np.testing.assert_allclose(means(field), expected + warmer, rtol=1e-5, atol=1e-5)
    assert (made[0] - made[1]).std() > 1


def test_learned_differences_are_shrunk_to_those_of_training(fields: Fields) -> None:
    """Where the root mean square distance is over one standard deviation it becomes one, in all boxes by one factor."""
    before, made = rough(0), corrected(fields, rough(0), "learned")
    after, era5 = made
    for channel, std in enumerate((0.5, 0.25, 0.25)):
        wanted = era5[channel] + (0.5 if channel == 0 else 0)
        old, new = (means(member[0, channel]) - wanted for member in (before, after))
        assert np.sqrt(np.mean(old**2)) > 5 * std and np.sqrt(np.mean(new**2)) == pytest.approx(std, rel=1e-4)
        np.testing.assert_allclose(new / old, np.mean(new / old), rtol=1e-2, atol=1e-4)


def test_learned_leaves_what_is_as_close_as_in_training(fields: Fields) -> None:
    wide = differences(dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 50.0))
    made, _ = corrected(fields, rough(0), "learned", wide)
    np.testing.assert_array_equal(made, rough(0))


def test_a_correction_has_no_seams(fields: Fields) -> None:
    """At wavelengths below 12 km, which boxes of 25 km do not show, it has less than 1 % of the fields' power."""
    before = rough(3)[:, 1].astype(np.float64)
    made, _ = corrected(fields, rough(3), "exact")
    added = made[:, 1] - before
    wavelength, power = metrics.power_spectrum(added, (2.0, 2.0))
    _, of_fields = metrics.power_spectrum(before, (2.0, 2.0))
    short, steps = wavelength < 12, np.abs(np.diff(added, axis=-1))
    assert power[short].sum() < 0.01 * of_fields[short].sum() and steps.max() < 5 * steps.std()


def test_the_same_hour_is_the_same_in_every_run_and_agrees(era5: Write, tmp_path: Path) -> None:
    """From Python and from the command line, all hours or the second alone; another way is not resumed."""
    file, source = tmp_path / "knowing.safetensors", era5(range(2))
    header = checkpoint.header_of(CONFIG, NORMALIZATION, "ldm", box_differences=KNOWN)
    checkpoint.save(file, untrained("ldm"), header)
    with xr.open_dataset(source, engine="netcdf4") as dataset:
        system = ldmdown.load(str(file))
        both = system.downscale(dataset, members=2, consistency="exact")
        second = system.downscale(dataset, members=2, consistency="exact", start="2021-03-01T01")
    np.testing.assert_allclose(both.u10[1], second.u10[0], atol=1e-4)
    assert both.attrs["consistency"].startswith("exact: means over ERA5's boxes are ERA5's")
    with open_fields([source], NAMES) as fields:
        _, expected = corrected(fields, rough(0), "exact")
    for member in both.t2m.isel(time=0).values:
        np.testing.assert_allclose(means(member), expected[0] + 0.5, rtol=1e-5)
    out = tmp_path / "out.nc"
    arguments = ("downscale", str(source), "-o", str(out), "--checkpoint", str(file), "--members", "2")
    assert command(*arguments, "--consistency", "exact").returncode == 0
    with xr.open_dataset(out) as written:
        np.testing.assert_allclose(written.u10, both.u10, atol=1e-4)
    other = command(*arguments, "--consistency", "learned", "--resume")
    assert other.returncode == 1 and "consistency" in other.stderr


def test_what_is_not_known_is_said(era5: Write, tiny: dict[str, Path]) -> None:
    with xr.open_dataset(era5(range(1)), engine="netcdf4") as dataset:
        system = ldmdown.load(str(tiny["unet"]))
        for way in ("learned", "exact"):
            with pytest.raises(LdmdownError, match="does not tell how box means of t2m differ from ERA5"):
                system.downscale(dataset, consistency=way)


def test_a_checkpoint_says_what_is_usual(era5: Write, tmp_path: Path) -> None:
    """Exact here, unless another way is asked for; in a box and at sites the same as in the whole domain."""
    config = CONFIG.model_copy(update={"consistency": "exact"})
    checkpoint.save(
        tmp_path / "usual.safetensors",
        untrained("ldm"),
        checkpoint.header_of(config, NORMALIZATION, "ldm", box_differences=KNOWN),
    )
    (tmp_path / "sites.csv").write_text("name,lat,lon\na,42.1,15.3\n")
    system = ldmdown.load(str(tmp_path / "usual.safetensors"))
    with xr.open_dataset(era5(range(1)), engine="netcdf4") as dataset:
        usual, exact, free = (system.downscale(dataset, consistency=way) for way in (None, "exact", "free"))
        box = system.downscale(dataset, bbox=(15.1, 41.9, 15.7, 42.4))
        site = system.downscale(dataset, points=tmp_path / "sites.csv")
    np.testing.assert_array_equal(usual.t2m, exact.t2m)
    assert usual.attrs["consistency"] == exact.attrs["consistency"] and "consistency" not in free.attrs
    assert np.abs(usual.t2m - free.t2m).max() > 0.1
    np.testing.assert_allclose(box.t2m, usual.t2m.sel(y=box.y, x=box.x), atol=1e-3)
    cells = SourceGrid(GRID.y, GRID.x, GRID.projection)
    expected = regrid(cells.weights(np.array([42.1]), np.array([15.3])), usual.u10.values[0], (1,))
    np.testing.assert_allclose(site.u10.squeeze(), expected.squeeze(), atol=1e-3)
