from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from conftest import ldmdown
from made_up import OUTPUT_FIELDS as FIELDS
from made_up import OUTPUT_GRID as GRID
from made_up import OUTPUT_HOURS as HOURS
from made_up import REFERENCE_TIMES, as_written, results_of, rotated_reference, write_grib, write_output

from ldmdown.commands.evaluate import evaluate, score
from ldmdown.data.reading import files
from ldmdown.drawing.map_fields import MapFields
from ldmdown.errors import LdmdownError
from ldmdown.options import StationOptions
from ldmdown.scoring.geometry import GridGeometry
from ldmdown.scoring.predictions import Predictions
from ldmdown.scoring.scorecard import Scorecard


def scored(predictions: Predictions) -> tuple[dict[str, Any], MapFields]:
    """The content of scores.json, and the fields to look at; the files are closed."""
    with predictions as data:
        results, maps = score(data, StationOptions())
    return as_written(results), maps


def test_a_prediction_against_itself_and_shifted(tmp_path: Path) -> None:
    """Winds of an output are earth-relative: they are not turned again."""
    truth = write_output(tmp_path / "truth.nc", FIELDS[:, :1])
    shifted = write_output(tmp_path / "shifted.nc", FIELDS[:, :1] + np.array([1, 0, 0], np.float32)[:, None, None])
    content, maps = scored(Predictions([truth, shifted], [truth]))
    same, other = (content["scores"][name] for name in ("truth.nc", "shifted.nc"))
    assert {same[name]["rmse"]["value"] for name in ("t2m", "u10", "v10", "ws10", "wind")} == {0}
    assert other["t2m"]["bias"]["value"] == pytest.approx(1, abs=1e-5) and other["u10"]["rmse"]["value"] == 0
    assert content["title"] == "truth.nc, shifted.nc against truth.nc"
    assert content["hours"]["count"] == 3 and content["variables"]["ws10"]["units"] == "m s-1"
    assert content["best"]["t2m"]["rmse"] == {
        "system": "truth.nc",
        "not_significantly_different_from": ["shifted.nc"],
    }  # of one day
    assert maps.snapshot_time == "2021-03-06T01"
    np.testing.assert_allclose(maps.maps["bias"]["t2m"]["shifted.nc"], 1, atol=1e-4)
    np.testing.assert_allclose(maps.snapshots["reference"]["t2m"], FIELDS[1, 0, 0])


def test_members_and_another_grid(tmp_path: Path, era5: Callable[..., Path]) -> None:
    ensemble = write_output(tmp_path / "ensemble.nc", FIELDS, np.arange(448_488, 448_491))  # as era5: 2021-03-01
    smooth = era5(range(24))
    content, _ = scored(Predictions([ensemble, smooth], [ensemble]))
    mine, theirs = (content["scores"][path.name]["t2m"] for path in (ensemble, smooth))
    distance = 2 * 5 / np.sqrt(np.pi)  # of two members; the first of three is the truth: (2/3 - 1/2) of it
    assert mine["crps"]["value"] == pytest.approx(distance / 6, rel=0.05)
    assert mine["spread_skill"]["value"] > 0
    assert theirs["crps"] == theirs["mae"] and theirs["rmse"]["value"] > 4
    assert f"{smooth.name} was regridded bilinearly to the grid of ensemble.nc" in content["notes"]
    assert [one["regridded"] for one in content["systems"]] == [False, True]


def test_predictions_of_every_format(tmp_path: Path, era5: Callable[..., Path]) -> None:
    """ERA5 as NetCDF counts as true; a zip and a store of Zarr of it are exact, GRIB is as far as it is packed."""
    truth = era5(range(3))
    with zipfile.ZipFile(tmp_path / "zip.nc", "w") as packed:
        packed.write(truth, "data.nc")
    with xr.open_dataset(truth, engine="netcdf4") as dataset:
        dataset.drop_encoding().to_zarr(tmp_path / "era5.zarr", zarr_format=2)
        write_grib(tmp_path / "era5.grib", dataset)
    names = [tmp_path / "zip.nc", tmp_path / "era5.zarr", tmp_path / "era5.grib"]
    content, _ = scored(Predictions([*names, truth], [truth]))
    assert content["title"] == f"4 systems against {truth.name}"
    errors = [content["scores"][path.name]["wind"]["rmse"]["value"] for path in names]
    assert errors[:2] == [0, 0] and errors[2] < 1e-3
    assert content["hours"]["count"] == 3


def test_what_does_not_meet(tmp_path: Path, era5: Callable[..., Path]) -> None:
    truth = write_output(tmp_path / "truth.nc", FIELDS[:, :1])
    with pytest.raises(LdmdownError) as caught:
        evaluate([truth], [era5(range(24))], tmp_path / "scores")
    assert str(caught.value) == (
        f"{truth}: no common hours with the reference\n"
        "  found: 2021-03-06T00 to 2021-03-06T02, the reference 2021-03-01T00 to 2021-03-01T23\n"
        "  fix: give files of the same hours"
    )
    with xr.open_dataset(truth, engine="netcdf4") as dataset:
        dataset[["lat"]].drop_encoding().to_netcdf(tmp_path / "empty.nc", engine="netcdf4")
    with pytest.raises(LdmdownError, match="no common variables with the other files\n  found: .*empty.nc: none"):
        evaluate([truth], [tmp_path / "empty.nc"], tmp_path / "scores")
    (tmp_path / "text.nc").write_text("no")
    with pytest.raises(LdmdownError, match="text.nc: is no NetCDF, GRIB or zip file"):
        evaluate([tmp_path / "text.nc"], [truth], tmp_path / "scores")


def fields_of(path: Path, rows: slice, cols: slice, hours: slice = slice(None), **units: str) -> Path:
    """A part of `written`'s file, with other units in words or in numbers."""
    part = path.with_name(f"{path.stem}-part{len(list(path.parent.glob('*-part*')))}.nc")
    with xr.open_dataset(path, engine="netcdf4") as dataset:
        cut = dataset.isel(y=rows, x=cols, time=hours).drop_vars(["x_bnds", "y_bnds"], errors="ignore").load()
    for name, unit in units.items():
        cut[name].attrs["units"] = unit
    cut.drop_encoding().to_netcdf(part, engine="netcdf4")
    return part


def test_only_the_common_area_is_scored(tmp_path: Path) -> None:
    truth = write_output(tmp_path / "truth.nc", FIELDS[:, :1])
    part = fields_of(truth, slice(4, 12), slice(5, 20))
    data = Predictions([truth], [part])
    assert data.grid.shape == (8, 15)
    values, fields = data.read(data.hours[2])
    np.testing.assert_allclose(fields["truth.nc"][0], FIELDS[2, 0, :, 4:12, 5:20], rtol=1e-6)
    np.testing.assert_allclose(values, fields["truth.nc"][0], atol=1e-3)


def test_what_a_file_does_not_cover_is_missing(tmp_path: Path, era5: Callable[..., Path]) -> None:
    """The eastern edge of ERA5 crosses the grid at a slant: cells beyond it are missing, not zero."""
    truth = write_output(tmp_path / "truth.nc", FIELDS[:, :1], np.arange(448_488, 448_491))
    smooth = era5(range(3), west=11.99, east=14.99)
    data = Predictions([truth, smooth], [truth])
    rows, cols = data.grid.shape
    assert rows == 16 and cols < 24
    _, fields = data.read(data.hours[0])
    lon, _ = data.grid.lonlat()
    assert (np.isnan(fields[smooth.name][0, 0]) == (lon > 14.99)).all() and (lon > 14.99).any()


def test_coarse_fields_are_scored_on_the_grid_of_a_fine_reference(tmp_path: Path, era5: Callable[..., Path]) -> None:
    truth, smooth = (write_output(tmp_path / "truth.nc", FIELDS[:, :1], np.arange(448_488, 448_491)), era5(range(3)))
    data = Predictions([smooth], [truth])
    assert data.grid.shape == GRID.shape and data.systems[0].regridded
    assert f"{smooth.name} was regridded bilinearly to the grid of truth.nc" in data.notes


def test_a_rotated_reference_comes_to_the_grid_of_the_prediction(tmp_path: Path) -> None:
    """A wind that is the same everywhere on earth stays so, and temperature that is the latitude too."""
    hours = REFERENCE_TIMES.astype("datetime64[h]").astype(int)
    field = np.broadcast_to(np.stack([GRID.lat + 240, 0 * GRID.lat + 3, 0 * GRID.lat - 4]), (3, 1, 3, *GRID.shape))
    prediction = write_output(tmp_path / "out.nc", field.astype(np.float32), hours)
    rotated_reference(3, -4).to_netcdf(tmp_path / "reference.nc", engine="netcdf4")
    content, _ = scored(Predictions([prediction], [tmp_path / "reference.nc"]))
    scores = content["scores"]["out.nc"]
    assert scores["wind"]["rmse"]["value"] < 1e-3 and scores["t2m"]["rmse"]["value"] < 1e-3
    assert "reference.nc was regridded bilinearly to the grid of out.nc" in content["notes"]


def test_units_that_clash(tmp_path: Path) -> None:
    truth = write_output(tmp_path / "truth.nc", FIELDS[:, :1])
    everything = slice(None)
    with pytest.raises(LdmdownError, match=r"t2m is not physical\n  found: 5\d\d"):
        scored(Predictions([fields_of(truth, everything, everything, t2m="degC")], [truth]))
    with pytest.raises(LdmdownError, match="u10 has units that are not understood\n  found: furlong"):
        Predictions([truth], [fields_of(truth, everything, everything, u10="furlong")])


def test_a_glob_is_one_system(tmp_path: Path) -> None:
    truth = write_output(tmp_path / "truth.nc", FIELDS[:, :1])
    for hours in (slice(0, 1), slice(1, 3)):
        fields_of(truth, slice(None), slice(None), hours)
    data = Predictions([tmp_path / "*-part*.nc"], [truth])
    assert [one.name for one in data.systems] == ["*-part*.nc"] and len(data.hours) == 3
    turned = Predictions([truth], [tmp_path / "*-part*.nc"])
    assert len(turned.hours) == 3 and len(turned.reference.files) == 2
    with pytest.raises(LdmdownError, match="no such file"):
        Predictions([tmp_path / "nothing*.nc"], [truth])


def test_few_files_are_open_at_once(tmp_path: Path) -> None:
    """Of 2 x 12, since HDF5 keeps chunks of each that is open; outside everything is as it was."""
    for name in ("a", "b"):
        for day in range(12):
            write_output(tmp_path / f"{name}-{day:02}.nc", FIELDS[:1, :1], HOURS[:1] + 24 * day)
    usual, opened = netCDF4.get_chunk_cache(), list[int]()
    with files.few_open(), Predictions([tmp_path / "a-*.nc"], [tmp_path / "b-*.nc"]) as data:
        for hour in data.hours:
            data.read(hour)
            links = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
            opened.append(sum(link.parent == tmp_path for link in links))
    assert len(opened) == 12 and 0 < max(opened) <= files.OPEN_FILES
    assert netCDF4.get_chunk_cache() == usual and xr.get_options()["file_cache_maxsize"] == 128


@pytest.mark.slow
def test_the_command_with_terrain_and_stations(tmp_path: Path) -> None:
    write_output(tmp_path / "truth.nc", FIELDS[:, :1])
    lat, lon = np.arange(40.0, 44, 0.1), np.arange(13.0, 18, 0.1)
    height = np.broadcast_to(np.linspace(-500, 1500, len(lon)), (len(lat), len(lon)))
    xr.Dataset({"z": (("lat", "lon"), height)}, {"lat": lat, "lon": lon}).to_netcdf(tmp_path / "z.nc", engine="netcdf4")
    measured = [
        f"2021-03-06T01,{name},{GRID.lat[cell]},{GRID.lon[cell]},0,{FIELDS[1, 0, 0][cell] - 273.15}"
        for name, cell in (("a", (5, 6)), ("b", (9, 17)))
    ]
    (tmp_path / "stations.csv").write_text("\n".join(["time,name,lat,lon,alt,t", *measured]))
    options = ["--stations", "stations.csv", "--nearest", "--terrain", "z.nc", "-o", "scores"]
    done = ldmdown("evaluate", "truth.nc", "--reference", "truth.nc", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert set(content["by_surface"]) <= {"land", "sea", "mountains", "coast"} and "land" in content["by_surface"]
    assert (tmp_path / "scores" / "report.html").exists() and (tmp_path / "scores" / "boxplots.png").exists()
    assert "2 metre temperature [K]" in done.stdout and "3 hours scored; look at scores/report.html" in done.stderr
    with (tmp_path / "scores" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    row = next(row for row in rows if (row["system"], row["variable"], row["score"]) == ("truth.nc", "t2m", "mae"))
    assert float(row["value"]) == 0 and row["units"] == "K" and row["low"] == ""
    stations = content["stations"]
    assert stations["scores"]["truth.nc"]["t2m"]["rmse"][0] == pytest.approx(0, abs=1e-3)
    assert stations["all"]["reference"]["t2m"]["count"] == 2 and stations["interpolation"] == "nearest"


def test_what_the_command_refuses(tmp_path: Path) -> None:
    truth = write_output(tmp_path / "truth.nc", FIELDS[:, :1])
    with pytest.raises(LdmdownError, match="--height-correction: needs the height of the cells"):
        score(Predictions([truth], [truth]), StationOptions(tmp_path / "stations.csv", height_correction=True))
    neither = ldmdown("evaluate", "truth.nc", "-o", "s", folder=tmp_path)
    assert neither.returncode == 1 and "needs files and what they are compared with" in neither.stderr


def test_stations_of_other_hours(tmp_path: Path) -> None:
    truth = write_output(tmp_path / "truth.nc", FIELDS[:, :1])
    (tmp_path / "stations.csv").write_text("time,name,lat,lon,t\n2022-03-06T01,a,42,15.5,8\n")
    with pytest.raises(LdmdownError, match="no common hours with the fields\n  found: 2022-03-06T01 to"):
        score(Predictions([truth], [truth]), StationOptions(tmp_path / "stations.csv"))


def test_stations_without_a_reference(tmp_path: Path) -> None:
    """Two hours of an ensemble at two stations; the third hour is not measured and not read."""
    ensemble = write_output(tmp_path / "ensemble.nc", FIELDS)
    places = [(3, 4), (8, 9)]
    rows = [
        f"{np.datetime64(int(hour), 'h')},s{place},{GRID.lat[cell]},{GRID.lon[cell]},{FIELDS[at, 0, 0][cell] - 1}"
        for at, hour in enumerate(HOURS[:2])
        for place, cell in enumerate(places)
    ]
    (tmp_path / "stations.csv").write_text("\n".join(["time,name,lat,lon,t", *rows]))
    made = ldmdown(
        "evaluate", str(ensemble), "--stations", "stations.csv", "--nearest", "-o", "scores", folder=tmp_path
    )
    assert made.returncode == 0, made.stderr
    assert "at stations: 2 metre temperature" in made.stdout
    content = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert content["hours"]["count"] == 2 and content["title"] == "ensemble.nc against stations.csv"
    scores = content["stations"]["all"]["ensemble.nc"]["t2m"]
    members = np.array([[FIELDS[at, member, 0][cell] for at in range(2) for cell in places] for member in range(3)])
    assert scores["bias"] == pytest.approx(1, abs=1e-3)
    apart = np.mean([np.abs(members[one] - members[other]) for one, other in ((0, 1), (0, 2), (1, 2))], axis=0)
    error = np.abs(members - members[0] + 1).mean(axis=0) - apart / 2
    assert scores["crps"] == pytest.approx(error.mean(), abs=1e-3)
    assert content["scores"] == {"ensemble.nc": {}} and content["best"] == {} and content["hourly"] == {}
    held = {path.name for path in (tmp_path / "scores").iterdir()}
    assert held == {"report.html", "scores.csv", "scores.json", "stations_bias_t2m.png", "stations_rmse_t2m.png"}
    assert "Spread / error" in (tmp_path / "scores" / "report.html").read_text()


def test_days_side_by_side_are_scored_as_one_after_the_other(tmp_path: Path) -> None:
    """To the bit, whoever scores them; sums of days are those of all hours, with the changes over midnight."""
    hours = np.arange(448_608 + 20, 448_608 + 53)  # parts of three days
    fields = np.random.default_rng(1).normal(280, 5, (len(hours), 3, 3, *GRID.shape)).astype(np.float32)
    fields[:, :, 1:] -= 280
    truth = write_output(tmp_path / "truth.nc", fields[:, :1], hours)
    ensemble = write_output(tmp_path / "ensemble.nc", fields[:, 1:], hours)
    lines = [f"{time},a,42.644,14.902,100,7.0" for time in np.array(hours, "datetime64[h]").astype(str)]
    (tmp_path / "stations.csv").write_text("\n".join(["time,name,lat,lon,height,t2m", *lines]))
    stations = StationOptions(tmp_path / "stations.csv")
    with Predictions([ensemble], [truth]) as data:
        (one, maps), (several, maps_of_several) = (score(data, stations, count) for count in (1, 2))
        card = Scorecard(data.names, data.systems, GridGeometry(data.grid), hours.tolist(), {})
        for hour in data.hours:
            card.add(hour, *data.read(hour))
    assert one.hours.count == 33 and one.hours.days == 3
    assert one.model_dump_json(exclude={"created"}) == several.model_dump_json(exclude={"created"})
    np.testing.assert_array_equal(
        maps.maps["rmse"]["t2m"]["ensemble.nc"], maps_of_several.maps["rmse"]["t2m"]["ensemble.nc"]
    )
    np.testing.assert_equal(maps.snapshots, maps_of_several.snapshots)
    found, known = as_written(one), results_of(card)
    assert found["hour_to_hour"]["t2m"]["lag1"] == pytest.approx(known["hour_to_hour"]["t2m"]["lag1"], rel=1e-9)
    for name in ("change_ratio", "crps", "rmse", "energy_score", "spread_skill"):
        ours, theirs = (part["scores"]["ensemble.nc"] for part in (found, known))
        assert {key: one[name]["value"] for key, one in ours.items() if name in one} == pytest.approx(
            {key: one[name]["value"] for key, one in theirs.items() if name in one}, rel=1e-9
        ), name
    for part in ("spectra", "hourly", "distribution"):
        assert found[part] == known[part], part
