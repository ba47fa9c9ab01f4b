"""What files say of their values, times and places is checked before it is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from made_up import ROTATED, damage_hour, rotated_reference, write_grib

from ldmdown.data.reading.fields import Fields, open_fields
from ldmdown.errors import LdmdownError

NAMES = ("t2m", "u10", "v10")
HOURS = np.datetime64("2022-01-15T09", "ns") + np.arange(4) * np.timedelta64(1, "h")
LAT, LON = np.arange(48.0, 44.9, -0.25), np.arange(5.0, 11.1, 0.25)


def weather(hours: np.ndarray = HOURS, **names: str) -> xr.Dataset:
    """Fields that change smoothly, under `names` instead of their own."""
    phase = np.arange(len(hours))[:, None, None] / 3 + LAT[:, None] + LON
    fields = {"t2m": (280 + 5 * np.sin(phase), "K"), "u10": (4 * np.cos(phase), "m s-1"), "v10": (0 * phase, "m s-1")}
    dims = ("time", "latitude", "longitude")
    return xr.Dataset(
        {
            names.get(name, name): (dims, one.astype(np.float32), {"units": units})
            for name, (one, units) in fields.items()
        },
        {"time": hours, "latitude": LAT, "longitude": LON},
    )


def opened(folder: Path, *datasets: xr.Dataset, names: tuple[str, ...] = NAMES, **encoding: Any) -> Fields:
    paths = [folder / f"{number}.nc" for number in range(len(datasets))]
    for path, dataset in zip(paths, datasets, strict=True):
        dataset.to_netcdf(path, engine="netcdf4", encoding=encoding or None)
    return open_fields(paths, names)


def read(fields: Fields) -> np.ndarray:
    return np.stack([fields.read(index) for index in range(len(fields))], axis=1)


EXPECTED = np.stack([one.values for one in weather().data_vars.values()])


def test_one_damaged_hour_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    chunks = {"zlib": True, "chunksizes": (1, len(LAT), len(LON))}
    opened(tmp_path, weather(), u10=chunks).close()
    damage_hour(tmp_path / "0.nc", "u10", 2)
    with open_fields([tmp_path / "0.nc"], NAMES) as fields:
        with pytest.raises(LdmdownError) as caught:
            fields.read(2)
        lines = str(caught.value).splitlines()
        assert lines[0] == f"{tmp_path}/0.nc: cannot be read"
        assert lines[1].endswith(", at 2022-01-15T11:00") and lines[2].startswith("  fix: download it again")
        for hour in (0, 1, 3):
            np.testing.assert_array_equal(fields.read(hour), EXPECTED[:, hour])


@pytest.mark.parametrize(("octet", "value"), [(9, 127), (19, 255), (8, 1)])
def test_values_of_grib_that_cannot_be_decoded_are_named(octet: int, value: int, tmp_path: Path) -> None:
    """The kind of packing, the bits of a value, or the number of values of the second hour, in its section 5."""
    path = write_grib(tmp_path / "x.grib", weather().rename(time="valid_time"))
    content = bytearray(path.read_bytes())
    start = content.find(b"GRIB", 4)
    section = start + 16
    while content[section + 4] != 5:
        section += int.from_bytes(content[section : section + 4])
    content[section + octet] = value
    path.write_bytes(content)
    with open_fields([path], NAMES) as fields:
        np.testing.assert_allclose(fields.read(0), EXPECTED[:, 0], atol=1e-3)
        with pytest.raises(LdmdownError, match=r"x.grib: cannot be read\n.*, at 2022-01-15T10:00\n  fix: download"):
            fields.read(1)


def test_chunks_of_no_size_in_zarr(tmp_path: Path) -> None:
    weather().to_zarr(tmp_path / "x.zarr", zarr_format=3, consolidated=False)
    file = tmp_path / "x.zarr" / "t2m" / "zarr.json"
    content = json.loads(file.read_text())
    content["chunk_grid"]["configuration"]["chunk_shape"] = [0, 0, 0]
    file.write_text(json.dumps(content))
    with pytest.raises(LdmdownError, match="cannot be"):
        open_fields([tmp_path / "x.zarr"], NAMES).read(0)


# Means are no instants


def daily_means(dataset: xr.Dataset) -> xr.Dataset:
    for one in dataset.data_vars.values():
        one.attrs["cell_methods"] = "area: mean time: mean"
    return dataset


def with_bounds(dataset: xr.Dataset) -> xr.Dataset:
    dataset["time"].attrs["bounds"] = "time_bnds"
    dataset["time"].encoding["units"] = "minutes since 2022-01-15"
    edges = np.stack([HOURS - np.timedelta64(12, "h"), HOURS + np.timedelta64(12, "h")], axis=1)
    return dataset.assign(time_bnds=(("time", "two"), edges))


def on_half_hours(dataset: xr.Dataset) -> xr.Dataset:
    """As CDO writes means of days, from 00 to 23 UTC."""
    earlier = dataset.assign_coords(time=dataset["time"] - np.timedelta64(30, "m"))
    return with_bounds(earlier)


def days_without_bounds(_: xr.Dataset) -> xr.Dataset:
    return weather(np.datetime64("2022-01-15T11:30", "ns") + np.arange(4) * np.timedelta64(1, "D"))


def averaged_grib(dataset: xr.Dataset) -> xr.Dataset:
    dataset["u10"].attrs["GRIB_stepType"] = "avgua"
    return dataset


def monthly(_: xr.Dataset) -> xr.Dataset:
    return weather(np.arange("2022-01", "2022-05", dtype="datetime64[M]").astype("datetime64[ns]"))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (daily_means, "t2m holds no instantaneous values\n  found: cell_methods area: mean time: mean"),
        (with_bounds, "t2m holds no instantaneous values\n  found: time_bnds of 24 hours"),
        (on_half_hours, "it holds no instantaneous values\n  found: time_bnds of 24 hours"),
        (days_without_bounds, "found: a value every 24 hours, the first of 2022-01-15T11:30"),
        (averaged_grib, "u10 holds no instantaneous values\n  found: GRIB_stepType avgua"),
        (monthly, "t2m holds no instantaneous values\n  found: one value a month, at 00 UTC of its first day, 4 times"),
    ],
)
def test_means_are_refused(change: Callable[[xr.Dataset], xr.Dataset], found: str, tmp_path: Path) -> None:
    with pytest.raises(LdmdownError, match="reanalysis-era5-single-levels") as caught:
        opened(tmp_path, change(weather()))
    assert found in str(caught.value)


def test_instants_may_have_bounds_and_means_over_areas(tmp_path: Path) -> None:
    dataset = with_bounds(weather())
    for one in dataset.data_vars.values():
        one.attrs["cell_methods"] = "area: mean time: point"
    np.testing.assert_array_equal(read(opened(tmp_path, dataset)), EXPECTED)


def test_monthly_means_in_grib(tmp_path: Path) -> None:
    path = write_grib(tmp_path / "moda.grib", weather(HOURS[:1]).rename(time="valid_time"))
    import eccodes  # after pyproj

    with path.open("rb") as source, (tmp_path / "means.grib").open("wb") as target:
        while (handle := eccodes.codes_grib_new_from_file(source)) is not None:
            eccodes.codes_set(handle, "setLocalDefinition", 1)
            eccodes.codes_set(handle, "stream", "moda")
            eccodes.codes_write(handle, target)
            eccodes.codes_release(handle)
    with pytest.raises(LdmdownError, match=r"found: monthly means \(stream moda\)"):
        open_fields([tmp_path / "means.grib"], NAMES)


def test_an_hour_each_day_is_told(tmp_path: Path) -> None:
    days = np.arange("2022-01-15T12", "2022-01-19T12", 24, dtype="datetime64[h]").astype("datetime64[ns]")
    assert opened(tmp_path, weather(days)).notes[-1] == (
        "every hour is 12:00 UTC: values are taken for this instant, not for means of days"
    )


# Which way the wind points


def on_lonlat(standard: bool, grid: bool) -> xr.Dataset:
    """A wind from the west at 10 m s-1, regridded from the rotated grid with components along that grid."""
    import pyproj

    from ldmdown.data.grid import grid_north

    crs = pyproj.CRS.from_cf(ROTATED)
    angle = grid_north(crs, *pyproj.Transformer.from_crs(4326, crs, always_xy=True).transform(*np.meshgrid(LON, LAT)))
    dataset = weather(t2m="T_2M", u10="U_10M", v10="V_10M")
    dataset["U_10M"][:], dataset["V_10M"][:] = 10 * np.cos(angle), 10 * np.sin(angle)
    for name, towards in (("U_10M", "eastward"), ("V_10M", "northward")):
        dataset[name].attrs |= {"standard_name": f"grid_{towards}_wind"} if standard else {}
    return dataset.assign(rotated_pole=((), 0, ROTATED)) if grid else dataset


@pytest.mark.parametrize("names", ["grid_eastward_wind", "U_10M", "x_wind"])
def test_wind_along_a_grid_that_left_its_pole_is_turned(names: str, tmp_path: Path) -> None:
    dataset = on_lonlat(names == "grid_eastward_wind", grid=True)
    if names == "x_wind":
        dataset = dataset.rename(U_10M="u10", V_10M="v10")
        dataset["u10"].attrs["standard_name"], dataset["v10"].attrs["standard_name"] = "x_wind", "y_wind"
    fields = opened(tmp_path, dataset)
    _, u10, v10 = read(fields)
    np.testing.assert_allclose(u10, 10, atol=1e-5)
    np.testing.assert_allclose(v10, 0, atol=1e-5)
    assert fields.notes[0] == "its wind runs along a rotated grid that it was regridded from: it is turned"


def test_wind_along_a_grid_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LdmdownError, match="U_10M runs along a grid that is no longer in the file"):
        opened(tmp_path, on_lonlat(standard=True, grid=False))
    np.testing.assert_array_equal(read(opened(tmp_path, on_lonlat(True, False), names=("t2m",)))[0], EXPECTED[0])


def test_wind_of_a_rotated_grid_that_cdo_wrote_from_grib_is_refused(tmp_path: Path) -> None:
    """CDO calls such components eastward and northward, and drops the flag that says otherwise."""
    dataset = rotated_reference(3, -4).rename(T_2M="2t", U_10M="10u", V_10M="10v")
    dataset["10u"].attrs["standard_name"], dataset["10v"].attrs["standard_name"] = "eastward_wind", "northward_wind"
    dataset.attrs = {"CDI": "Climate Data Interface version 2.1.1"}
    with pytest.raises(LdmdownError, match="does not say which way 10u points"):
        opened(tmp_path, dataset)
    dataset.attrs["history"] = "cdo -f nc4 rotuvb,10u,10v day.grib2 day.nc"
    assert not opened(tmp_path, dataset).rotated


def test_files_whose_wind_points_differently_are_refused(tmp_path: Path) -> None:
    along, turned = rotated_reference(3, -4), rotated_reference(3, -4)
    turned["time"] = turned["time"] + np.timedelta64(3, "h")
    turned = turned.rename(U_10M="u10", V_10M="v10")
    turned["u10"].attrs["standard_name"], turned["v10"].attrs["standard_name"] = "eastward_wind", "northward_wind"
    with pytest.raises(LdmdownError, match="its wind runs along other axes than that of"):
        opened(tmp_path, along, turned)


# Hours that several files hold


def test_duplicates_that_agree_count_once(tmp_path: Path) -> None:
    again = weather().isel(time=slice(2, 4)) + np.float32(0.001)  # as another packing rounds
    for name, one in again.data_vars.items():
        one.attrs = weather()[name].attrs
    np.testing.assert_array_equal(read(opened(tmp_path, weather(), again)), EXPECTED)


def test_duplicates_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    other = weather()
    other["t2m"][2, 1, 1] += 3
    fields = opened(tmp_path, weather(), other)
    with pytest.raises(LdmdownError, match=r"t2m of 2022-01-15T11:00 is given twice, with different values") as caught:
        fields.read(2)
    held = EXPECTED[0, 2, 1, 1]
    assert f"{held:g} and {held + 3:g} K in the same cell, one of 1" in str(caught.value)


def test_members_in_files_of_their_own_are_told_apart(tmp_path: Path) -> None:
    members = [weather().assign_coords(number=number) for number in (2, 0, 1)]
    for number, one in zip((2, 0, 1), members, strict=True):
        one["t2m"] += number
    fields = opened(tmp_path, *members)
    assert fields.members == (0, 1, 2)
    for member in range(3):
        np.testing.assert_allclose(fields.read(1, member)[0], EXPECTED[0, 1] + member, atol=1e-4)


# Packing


def test_packing_that_wrapped_is_refused(tmp_path: Path) -> None:
    """Values beyond what 16 bits hold begin again at the other end."""
    scale = 12 / 65536  # t2m varies over 10 K
    stored = np.round((EXPECTED[0] + 3 - 280) / scale).astype(np.int64)
    assert stored.max() > 32767
    dataset = weather()
    dataset["t2m"] = (
        dataset["t2m"].dims,
        stored.astype(np.int16),
        {"scale_factor": scale, "add_offset": 280.0, "units": "K"},
    )
    with pytest.raises(LdmdownError, match="t2m of 2022-01-15T09:00 does not fit into its packing"):
        read(opened(tmp_path, dataset))


def test_packing_that_fits_is_read(tmp_path: Path) -> None:
    packing = {"dtype": "int16", "scale_factor": 10.1 / 65536, "add_offset": 280.0, "_FillValue": -32768}
    np.testing.assert_allclose(read(opened(tmp_path, weather(), t2m=packing)), EXPECTED, atol=1e-3)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 3e38])
def test_values_that_are_not_physical_are_refused_wherever_they_meet(value: float, tmp_path: Path) -> None:
    """Infinite ones beside each other, in two files, in both components of wind that is turned, and in hPa."""
    dataset, again = weather(), weather()
    dataset["t2m"][2, 1, 1:3] = again["t2m"][2, 1, 1:3] = value
    with pytest.raises(LdmdownError, match=r"t2m is not physical\n  found: .*e\+\d\d K at 47.75 N, 5.25 E"):
        read(opened(tmp_path, dataset, again))
    wind = rotated_reference(3, -4)
    wind["U_10M"][1, 2, 3] = wind["V_10M"][1, 2, 3] = value
    with pytest.raises(LdmdownError, match="u10 is not physical"):
        read(opened(tmp_path, wind))
    pressure = weather().rename(t2m="msl")
    pressure["msl"][2, 1, 1:3] = value
    pressure["msl"].attrs["units"] = "hPa"
    with pytest.raises(LdmdownError, match="msl is not physical"):
        opened(tmp_path, pressure, names=("msl",)).read(2)


def test_missing_values_of_any_bytes_are_missing(tmp_path: Path) -> None:
    """A signalling NaN, with which the processor does no sums."""
    dataset = weather()
    dataset["t2m"][2, 1, 1:3].values.view(np.uint32)[:] = 0x7FA00001
    assert np.isnan(opened(tmp_path, dataset, dataset).read(2)[0]).sum() == 2


@pytest.mark.parametrize(
    ("name", "attributes", "wrong"),
    [
        ("t2m", {"scale_factor": "one"}, "t2m cannot be unpacked\n  found: scale_factor one"),
        ("u10", {"scale_factor": 0.0}, "u10 cannot be unpacked\n  found: scale_factor 0"),
        ("u10", {"add_offset": np.nan}, "u10 cannot be unpacked"),
        ("t2m", {"units": "days"}, "t2m holds no numbers\n  found: timedelta64"),
        ("u10", {"units": "hours since 2022-01-01"}, "u10 holds no numbers\n  found: datetime64"),
        ("u10", {"units": "0.1 m/s"}, "u10 has units that are not understood\n  found: 0.1 m/s"),
    ],
)
def test_attributes_are_not_believed(name: str, attributes: dict[str, Any], wrong: str, tmp_path: Path) -> None:
    weather().to_netcdf(tmp_path / "x.nc", engine="netcdf4")
    with netCDF4.Dataset(tmp_path / "x.nc", "a") as file:
        file[name].setncatts(attributes)
    with pytest.raises(LdmdownError, match=wrong):
        open_fields([tmp_path / "x.nc"], NAMES)


def test_text_is_no_temperature(tmp_path: Path) -> None:
    with pytest.raises(LdmdownError, match="t2m holds no numbers"):
        opened(tmp_path, weather().assign(t2m=weather().t2m.astype(str)))


@pytest.mark.parametrize(
    ("labels", "numbers"), [(["r1i1p1f1", "r2i1p1f1"], (0, 1)), ([3.0, np.nan], (0, 1)), (["7", "4"], (4, 7))]
)
def test_members_by_labels(labels: list[Any], numbers: tuple[int, ...], tmp_path: Path) -> None:
    warmer = weather().assign(t2m=(weather().t2m + 1).assign_attrs(units="K"))
    both = xr.concat([weather(), warmer], "member_id").assign_coords(member_id=labels)
    fields = opened(tmp_path, both)
    assert fields.members == numbers
    place = numbers.index(7) if 7 in numbers else 0
    np.testing.assert_allclose(fields.read(1, place), EXPECTED[:, 1], atol=1e-4)
    fields.close()
    single = opened(tmp_path, weather().assign_coords(member_id=labels[0]))
    assert len(single.members) == 1


# Axes


def moved(axis: str, place: int, by: float) -> Callable[[xr.Dataset], xr.Dataset]:
    def change(dataset: xr.Dataset) -> xr.Dataset:
        values = dataset[axis].values.copy()
        values[place] += by
        return dataset.assign_coords({axis: values})

    return change


@pytest.mark.parametrize(
    "change",
    [
        moved("latitude", 4, np.inf),
        moved("latitude", 4, np.nan),
        moved("longitude", 15, 8.75),  # one flipped bit
        moved("latitude", 5, 0.25),  # two equal rows
        moved("longitude", 5, 0.25),  # two equal columns
        moved("latitude", 5, -0.2),
        moved("latitude", slice(None), 60),
        moved("longitude", slice(None), 1e10),
        lambda dataset: dataset.isel(latitude=[0, 1, 2, 4, 5, 6, 7]),
        lambda dataset: dataset.isel(longitude=[0, 1, 2, 3, 5, 6, 7]),
        lambda dataset: dataset.isel(longitude=[3, 1, 2, 0, 4, 5]),
        lambda dataset: dataset.isel(latitude=[3, 4, 5, 0, 1, 2]),
    ],
)
def test_axes_are_not_believed(change: Callable[[xr.Dataset], xr.Dataset], tmp_path: Path) -> None:
    with pytest.raises(LdmdownError, match="the positions of its (rows|columns) are not"):
        opened(tmp_path, change(weather()))


def gaussian(count: int) -> np.ndarray:
    return np.degrees(np.arcsin(np.polynomial.legendre.leggauss(count)[0]))


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [
        (LAT[::-1], LON),
        (48 - 0.25025 * np.arange(len(LAT)), np.round(5 + np.arange(len(LON)) / 12, 2)),  # rounded to 0.01 degrees
        (gaussian(640)[450 : 450 + len(LAT)], LON + 360),
        (LAT, (np.arange(len(LON)) * 0.25 + 357) % 360),  # across Greenwich
        (LAT, np.sort((np.arange(len(LON)) * 0.25 + 357) % 360)),
        (LAT, np.linspace(0, 360, len(LON))),  # round the globe, and the first column again
    ],
)
def test_real_axes_are_allowed(latitude: np.ndarray, longitude: np.ndarray, tmp_path: Path) -> None:
    fields = opened(tmp_path, weather().assign_coords(latitude=latitude, longitude=longitude))
    assert (np.diff(fields.grid.y) < 0).all() and (np.diff(fields.grid.x) > 0).all()


# Times


@pytest.mark.parametrize(
    ("values", "units", "wrong"),
    [
        ([9.0, np.inf, 11.0, 12.0], "hours since 2022-01-15", "found: inf at place 2 of 4"),
        ([9.0, np.nan, 11.0, 12.0], "hours since 2022-01-15", "holds what is no time"),
        ([0.0, 1.0, 2.0, 3.0], "hours since 2022-01-15 9", "units that can be read in several ways"),
        ([0.0, 1.0, 2.0, 3.0], "hours since 2022-01-15 09:00:00 +02:00", "units that can be read in several ways"),
        ([0.0, 1.0, 2.0, 3.0], "days since 9999-12-30", "time"),
        ([0.0, 0.5, 1.0, 1.5], "hours since 2022-01-15", "between full hours"),
    ],
)
def test_times_are_not_believed(values: list[float], units: str, wrong: str, tmp_path: Path) -> None:
    dataset = weather().assign_coords(time=("time", values, {"units": units}))
    with pytest.raises(LdmdownError, match=wrong):
        opened(tmp_path, dataset)


def test_calendars_are_not_believed(tmp_path: Path) -> None:
    dataset = weather().assign_coords(
        time=("time", range(4), {"units": "hours since 2022-01-15", "calendar": "perpetual"})
    )
    with pytest.raises(LdmdownError, match="time is in a calendar that is not known\n  found: perpetual"):
        opened(tmp_path, dataset)


@pytest.mark.parametrize("minutes", [30, 59])
def test_steps_between_full_hours_are_refused(minutes: int, tmp_path: Path) -> None:
    steps = np.arange(4) * np.timedelta64(minutes, "m").astype("timedelta64[ns]")
    dataset = weather().rename(time="step").assign_coords(step=steps, time=HOURS[0])
    with pytest.raises(LdmdownError, match="has steps of a forecast that are no full hours"):
        opened(tmp_path, dataset)


@pytest.mark.parametrize(
    ("units", "kind"),
    [
        ("days since 1900-01-01", np.float32),  # whose neighbours are 5.6 minutes apart
        ("days since 0001-01-01", np.float64),
        ("hours since 1970-1-1 00:00:0.0 UTC", np.float32),
        ("seconds since 2022-01-15T00:00:00Z", np.int64),
    ],
)
def test_times_that_are_rounded(units: str, kind: type, tmp_path: Path) -> None:
    unit, _, since = units.split(" ", 2)
    start = {"1900": "1900-01-01", "0001": "0001-01-01", "1970": "1970-01-01", "2022": "2022-01-15"}[since[:4]]
    exact = (HOURS.astype("datetime64[s]") - np.datetime64(start, "s")) / np.timedelta64(1, unit[0].replace("d", "D"))
    numbers = exact.astype(kind)
    fields = opened(
        tmp_path, weather().assign_coords(time=("time", numbers, {"units": units, "calendar": "proleptic_gregorian"}))
    )
    assert fields.times.astype("datetime64[ns]").tolist() == HOURS.tolist()


# Other names


def absolute(dataset: xr.Dataset) -> xr.Dataset:
    days = 20220115 + np.arange(9, 13) / 24
    return dataset.assign_coords(time=("time", days, {"units": "day as %Y%m%d.%f"}))


def without_start(dataset: xr.Dataset) -> xr.Dataset:
    """A forecast as earthkit writes it: steps, the start among the global attributes."""
    steps = np.arange(3, 7) * np.timedelta64(1, "h")
    dataset = dataset.rename(time="step").assign_coords(step=("step", steps.astype("timedelta64[ns]")))
    return dataset.assign_attrs(date=20220115, time=600)


def by_standard_name(dataset: xr.Dataset) -> xr.Dataset:
    found = dataset.rename(t2m="temp", u10="east", v10="north")
    for name, standard, height in (("temp", "air_temperature", 2), ("east", "eastward_wind", 10),
                                   ("north", "northward_wind", 10)):  # fmt: skip
        found[name] = (
            found[name].assign_attrs(standard_name=standard).expand_dims({f"height_{height}m": [float(height)]})
        )
    return found


@pytest.mark.parametrize(
    "change",
    [
        absolute,
        without_start,
        by_standard_name,
        lambda dataset: dataset.rename(time="Time"),
        lambda dataset: dataset.rename(time="time0", latitude="lat", longitude="lon"),
        lambda dataset: dataset.rename(t2m="VAR_2T", u10="VAR_10U", v10="VAR_10V"),
        lambda dataset: dataset.rename(t2m="2T_GDS0_SFC", u10="10U_GDS0_SFC", v10="10V_GDS0_SFC"),
        lambda dataset: dataset.rename(t2m="var167", u10="var165", v10="var166"),
        lambda dataset: dataset.rename(
            t2m="temperature_2m", u10="u_component_of_wind_10m", v10="v_component_of_wind_10m"
        ),
        lambda dataset: dataset.rename(latitude="Latitude", longitude="LON"),
    ],
)
def test_names_of_other_mirrors_and_tools(change: Callable[[xr.Dataset], xr.Dataset], tmp_path: Path) -> None:
    fields = opened(tmp_path, change(weather()))
    np.testing.assert_array_equal(read(fields), EXPECTED)
    assert fields.times.astype("datetime64[ns]").tolist() == HOURS.tolist()


def test_axes_in_radians(tmp_path: Path) -> None:
    dataset = weather().assign_coords(latitude=np.radians(LAT), longitude=np.radians(LON))
    for name in ("latitude", "longitude"):
        dataset[name].attrs["units"] = "radians"
    grid = opened(tmp_path, dataset).grid
    np.testing.assert_allclose(grid.y, LAT, atol=1e-4)
    np.testing.assert_allclose(grid.x, LON, atol=1e-4)


@pytest.mark.parametrize("key", ["units", "standard_name"])
def test_axes_are_known_by_their_attributes(key: str, tmp_path: Path) -> None:
    dataset = weather().rename(latitude="y", longitude="x")
    for name, value in (("y", "latitude"), ("x", "longitude")):
        dataset[name].attrs = {
            key: value if key == "standard_name" else f"degrees_{'north' if name == 'y' else 'east'}"
        }
    fields = opened(tmp_path, dataset)
    np.testing.assert_array_equal(fields.grid.y, LAT)
    np.testing.assert_array_equal(read(fields), EXPECTED)


def test_wrf_is_refused_with_what_to_do(tmp_path: Path) -> None:
    dims = ("time", "latitude", "longitude")
    points = np.broadcast_to(LAT[:, None], EXPECTED.shape[1:])
    dataset = weather().assign(Times=("time", ["2022-01-15_09:00:00"] * 4), XLAT=(dims, points), XLONG=(dims, points))
    with pytest.raises(LdmdownError, match="is output of WRF"):
        opened(tmp_path, dataset)
