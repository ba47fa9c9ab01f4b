from __future__ import annotations

import shutil
import subprocess
import zlib
from contextlib import suppress
from pathlib import Path

import netCDF4
import numpy as np
import pyproj
import pytest
import rasterio
import rioxarray  # noqa: F401
import xarray as xr
from made_up import cf_problems

from ldmdown.atomic import remove
from ldmdown.data.grid import Grid
from ldmdown.data.netcdf import NetcdfWriter
from ldmdown.data.template import OutputTemplate, output_dataset
from ldmdown.data.writer import FieldWriter
from ldmdown.data.zarr_store import ZarrWriter
from ldmdown.errors import LdmdownError

GRID = Grid(west=4_310_000, north=2_498_000, rows=16, cols=24)
NAMES = ("t2m", "u10", "v10")
HOURS = np.arange(403_224, 403_227)  # 2016-01-01T00 and on
CARD = {"title": "A test", "history": "made", "source": "numbers", "references": "none"}
RUN = {"seed": 0, "input era5.nc": "3 bytes"}
FIELDS = np.random.default_rng(0).normal(280, 5, (3, 2, 3, *GRID.shape)).astype(np.float32)


def writer(path: Path, members: int | None = None, run: dict | None = None, **options: bool) -> FieldWriter:
    kind = ZarrWriter if path.suffix == ".zarr" else NetcdfWriter
    out = kind(path, OutputTemplate(GRID, NAMES, members, CARD, run or RUN), HOURS, **options)
    out.begin()
    return out


def named(members: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of an hour, from (member, variable, rows, cols)."""
    return OutputTemplate(GRID, NAMES, len(members) if len(members) > 1 else None, CARD).reduced(members)


@pytest.fixture(scope="module", params=[None, 2], ids=["single", "ensemble"])
def members(request: pytest.FixtureRequest) -> int | None:
    return request.param


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, members: int | None) -> Path:
    path = tmp_path_factory.mktemp("out") / "out.nc"
    out = writer(path, members)
    for index in (2, 0, 1):
        out.write(index, named(FIELDS[index, : members or 1]))
    out.close()
    assert [file.name for file in path.parent.iterdir()] == ["out.nc"]
    return path


def test_xarray_reads_back_what_was_written(output: Path, members: int | None) -> None:
    with xr.open_dataset(output, engine="netcdf4", decode_coords="all") as dataset:
        assert dataset.time.values.tolist() == HOURS.astype("datetime64[h]").astype("datetime64[ns]").tolist()
        dims = ("time", "realization", "y", "x") if members else ("time", "y", "x")
        for channel, name in enumerate(NAMES):
            assert dataset[name].dims == dims and dataset[name].dtype == np.float32
            expected = FIELDS[:, :, channel] if members else FIELDS[:, 0, channel]
            np.testing.assert_array_equal(dataset[name], expected)
        np.testing.assert_array_equal(dataset.x, GRID.x)
        np.testing.assert_array_equal(dataset.y_bnds[0], [2_498_000, 2_496_000])
        np.testing.assert_array_equal(dataset.x_bnds[-1], [4_356_000, 4_358_000])
        assert set(dataset.coords) - {"realization"} == {
            *("time", "y", "x", "y_bnds", "x_bnds", "lat", "lon", "crs", "height_2m", "height_10m")
        }


def test_attributes(output: Path) -> None:
    with netCDF4.Dataset(output) as dataset:
        assert dataset.Conventions == "CF-1.11" and {key: dataset.getncattr(key) for key in CARD} == CARD
        expected = {
            "t2m": ("air_temperature", "K", "lat lon height_2m"),
            "u10": ("eastward_wind", "m s-1", "lat lon height_10m"),
            "v10": ("northward_wind", "m s-1", "lat lon height_10m"),
        }
        for name, (standard_name, units, place) in expected.items():
            field = dataset[name]
            assert (field.standard_name, field.units, field.coordinates) == (standard_name, units, place)
            assert (field.grid_mapping, field.cell_methods) == ("crs", "time: point")
            assert field.filters()["zlib"] and field.chunking()[-2:] == [16, 24] and set(field.chunking()[:-2]) == {1}
        crs = dataset["crs"]
        assert crs.grid_mapping_name == "lambert_azimuthal_equal_area"
        assert (crs.longitude_of_projection_origin, crs.latitude_of_projection_origin) == (10, 52)
        assert (crs.false_easting, crs.false_northing) == (4_321_000, 3_210_000)
        assert crs.spatial_ref == crs.crs_wkt and crs.GeoTransform == "4310000 2000 0 2498000 0 -2000"
        assert dataset["time"].units == "hours since 1970-01-01 00:00:00" and dataset["time"].axis == "T"
        assert (dataset["x"].standard_name, dataset["x"].axis) == ("projection_x_coordinate", "X")
        assert dataset["height_10m"][...] == 10 and dataset["height_2m"].units == "m"


def test_gdal_finds_the_place_of_a_value(output: Path, members: int | None) -> None:
    with rasterio.open(f"netcdf:{output}:t2m") as raster:
        assert raster.crs.to_epsg() == 3035
        assert raster.transform == rasterio.Affine(2000, 0, 4_310_000, 0, -2000, 2_498_000)
        lon, lat = pyproj.Transformer.from_crs(3035, 4326, always_xy=True).transform(4_321_000, 2_475_000)
        assert lon == pytest.approx(10)  # the meridian along which EPSG:3035 points north
        x, y = pyproj.Transformer.from_crs(4326, raster.crs, always_xy=True).transform(lon, lat)
        bands = next(raster.sample([(x, y)]))
        expected = FIELDS[:, : members or 1, 0, 11, 5].ravel()
        np.testing.assert_array_equal(bands, expected)


@pytest.mark.skipif(shutil.which("cdo") is None, reason="needs cdo")
def test_cdo_understands_grid_and_time(output: Path, members: int | None) -> None:
    if members:
        pytest.skip("cdo reads no dimension but time, height and place")
    text = subprocess.run(["cdo", "sinfo", str(output)], capture_output=True, text=True, check=True)
    assert "points=384 (24x16)" in text.stdout and "y : 2497000 to 2467000 by -2000 m" in text.stdout
    assert "lambert_azimuthal_equal_area" in text.stdout and "2016-01-01 00:00:00" in text.stdout
    assert "arning" not in text.stdout + text.stderr


def test_cf_conventions(output: Path, tmp_path: Path) -> None:
    assert cf_problems(output, tmp_path / "report.json") == []


def test_zarr_holds_what_the_netcdf_holds(tmp_path: Path, output: Path, members: int | None) -> None:
    """In every variable and attribute; 27 hours are two shards of a variable, of two members three."""
    store, hours = tmp_path / "out.zarr", np.arange(403_224, 403_251)
    template = OutputTemplate(GRID, NAMES, members, CARD, RUN)
    out = ZarrWriter(store, template, hours)
    out.begin()
    for index in range(len(hours)):
        out.write(index, named(FIELDS[index % 3, : members or 1]))
        kept = len(list((tmp_path / "out.zarr.part").glob("*.npz")))
        assert kept == (0 if index == 26 else (index + 1) % (12 if members else 24))  # full blocks are in the store
    out.close()
    assert [file.name for file in tmp_path.iterdir()] == ["out.zarr"]
    with xr.open_zarr(store, decode_coords="all") as found, xr.open_dataset(
        output, engine="netcdf4", decode_coords="all"
    ) as expected:  # fmt: skip
        del found.attrs["ldmdown_run"], expected.attrs["ldmdown_run"]  # which names the hours
        xr.testing.assert_identical(found.isel(time=slice(3)).load(), expected.load())
        np.testing.assert_array_equal(found.time, hours.astype("datetime64[h]").astype("datetime64[ns]"))
        np.testing.assert_array_equal(found.v10[26], expected.v10[26 % 3])
    shards = [file for file in (store / "t2m" / "c").rglob("*") if file.is_file()]
    assert len(shards) == (3 if members else 2)
    with pytest.raises(LdmdownError, match=r"out.zarr: exists already"):
        ZarrWriter(store, template, hours)


def test_nothing_is_touched_before_it_begins(tmp_path: Path) -> None:
    out = NetcdfWriter(tmp_path / "out.nc", OutputTemplate(GRID, NAMES, None, CARD), HOURS)
    assert out.left == [0, 1, 2] and list(tmp_path.iterdir()) == []


def test_xarray_holds_what_the_file_holds(output: Path, members: int | None) -> None:
    """The template that the file was made from, decoded as xarray decodes a file."""
    template = OutputTemplate(GRID, NAMES, members, CARD, RUN)
    hours = [template.reduced(fields[: members or 1]) for fields in FIELDS]
    fields = {name: np.stack([hour[name] for hour in hours]) for name in NAMES}
    expected = xr.decode_cf(output_dataset(template, HOURS, fields))
    with xr.open_dataset(output, engine="netcdf4") as found:
        xr.testing.assert_identical(found.load(), expected)
    expected.to_netcdf(output.with_name("again.nc"), engine="netcdf4")
    with xr.open_dataset(output.with_name("again.nc"), engine="netcdf4") as found:
        xr.testing.assert_identical(found.load(), expected)


def test_rioxarray_finds_the_projection(output: Path) -> None:
    with xr.open_dataset(output, engine="netcdf4") as dataset:
        assert dataset.rio.crs.to_epsg() == dataset.t2m.rio.crs.to_epsg() == 3035


def test_a_finished_hour_is_the_chunks_of_its_fields_alone(tmp_path: Path) -> None:
    """Shuffled and deflated as HDF5 does it, which zlib and NumPy undo."""
    writer(tmp_path / "out.nc").write(1, named(FIELDS[1, :1]))
    again = writer(tmp_path / "out.nc", resume=True)
    assert again.left == [0, 2] and again.hour_file(1).stem == "2016-01-01T01"
    with np.load(again.hour_file(1)) as chunks:
        planes = [np.frombuffer(zlib.decompress(chunk.tobytes()), np.uint8).reshape(4, -1) for chunk in chunks.values()]
    for one, field in zip(planes, FIELDS[1, 0], strict=True):
        np.testing.assert_array_equal(one.T.copy().view("<f4").reshape(GRID.shape), field)


def test_a_resumed_run_ends_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    for name, pause in (("whole.nc", False), ("parts.nc", True)):
        out = writer(tmp_path / name)
        for index in range(3):
            if pause and index == 2:
                (tmp_path / "parts.nc.part" / "2016-01-01T02.npz.ldmdown-tmp").write_bytes(b"half")
                out = writer(tmp_path / name, resume=True)
                assert out.left == [2]
            out.write(index, named(FIELDS[index, :1]))
        out.close()
    assert (tmp_path / "whole.nc").read_bytes() == (tmp_path / "parts.nc").read_bytes()


@pytest.mark.parametrize("name", ["out.nc", "out.zarr"])
def test_processes_write_one_output(tmp_path: Path, name: str) -> None:
    """Whoever writes the last hour of a block writes the block, and the output closes once, when all is there."""
    path, hours = tmp_path / name, np.arange(403_224, 403_224 + 72)
    template = OutputTemplate(GRID, NAMES, None, CARD, RUN)
    kind = NetcdfWriter if name == "out.nc" else ZarrWriter
    first, second = (kind(path, template, hours) for _ in range(2))
    first.begin()
    for out, own in ((first, range(36)), (second, range(36, 72))):
        for index in own:
            assert not out.close()
            out.write(index, named(FIELDS[index % 3, :1] + index))
    assert len(list(first.part.glob("*T*"))) == (72 if name == "out.nc" else 0)
    assert kind(path, template, hours, resume=True).left == []
    assert second.close() and not first.close() and list(tmp_path.iterdir()) == [path]
    with xr.open_dataset(path, engine="netcdf4" if name == "out.nc" else "zarr") as found:
        for index in (0, 23, 24, 35, 36, 47, 48, 71):
            np.testing.assert_array_equal(found.u10[index], FIELDS[index % 3, 0, 1] + index)


def test_work_that_a_killed_process_took_is_done_again(tmp_path: Path) -> None:
    out = writer(tmp_path / "out.zarr")
    assert out.take("block-000000") and not out.take("block-000000")
    for index in range(3):
        out.write(index, named(FIELDS[index, :1]))
    assert not out.close() and len(list(out.part.glob("*.npz"))) == 3
    again = writer(tmp_path / "out.zarr", resume=True)
    assert again.left == [] and again.close()
    with xr.open_zarr(tmp_path / "out.zarr") as found:
        np.testing.assert_array_equal(found.t2m[2], FIELDS[2, 0, 0])


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    out = writer(tmp_path / "out.nc")
    fields = FIELDS[0, :1].copy()
    fields[0, 1, 3, 4] = np.nan
    with pytest.raises(LdmdownError) as caught:
        out.write(0, named(fields))
    assert str(caught.value) == (
        f"{tmp_path}/out.nc: the fields of 2016-01-01T00:00 are not finite; they were not written\n"
        "  fix: try --precision fp32; if that does not help, the checkpoint is broken"
    )
    assert [one.name for one in (tmp_path / "out.nc.part").iterdir()] == ["run.json"]


def test_what_is_in_the_way_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.nc"
    path.write_text("precious")
    with pytest.raises(LdmdownError) as caught:
        writer(path)
    assert str(caught.value) == (f"{path}: exists already\n  fix: name another file, or give --overwrite to replace it")
    assert path.read_text() == "precious"
    out = writer(path, overwrite=True)
    out.write(0, named(FIELDS[0, :1]))
    with pytest.raises(LdmdownError) as caught:
        writer(path)
    assert str(caught.value) == (
        f"{path}.part: holds 1 finished hours of a run that was stopped\n"
        "  fix: give --resume to go on with it, or --overwrite to begin again"
    )
    with pytest.raises(LdmdownError) as caught:
        writer(path, run=RUN | {"seed": 1}, resume=True)
    assert str(caught.value) == (
        f"{path}.part: was begun with other options\n  found: seed 0\n  expected: seed 1\n"
        "  fix: give --resume what that run was given, or --overwrite to begin again"
    )
    assert writer(path, resume=True).left == [1, 2]
    assert writer(path, overwrite=True).left == [0, 1, 2]
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["out.nc", "out.zarr"])
def test_a_finished_output_is_compared_with_what_is_asked_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    out = writer(path)
    for index in range(3):
        out.write(index, named(FIELDS[index, :1]))
    out.close()
    template = OutputTemplate(GRID, NAMES, None, CARD, RUN)
    kind = type(out)
    again = kind(path, template, HOURS, resume=True)
    assert again.finished and again.left == []
    for run, message in (
        (RUN | {"seed": 1}, "was made with other options\n  found: seed 0\n  expected: seed 1\n"),
        (RUN | {"input era5.nc": "4 bytes"}, "was made with another input\n  found: input era5.nc 3 bytes\n"),
    ):
        with pytest.raises(LdmdownError, match=message):
            kind(path, OutputTemplate(GRID, NAMES, None, CARD, run), HOURS, resume=True)
    hours = np.arange(403_224, 403_228)
    found = r"found: hours 2016-01-01T00 to 2016-01-01T02 \(3\)\n  expected: .* to 2016-01-01T03 \(4\)"
    with pytest.raises(LdmdownError, match=found):
        kind(path, template, hours, resume=True)


@pytest.mark.parametrize("name", ["out.nc", "out.zarr"])
def test_a_run_that_was_killed_when_its_output_had_its_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is computed again, and what remains of its folder is removed."""
    path = tmp_path / name

    def killed(one: Path) -> None:
        remove(one)
        raise KeyboardInterrupt

    out = writer(path)
    for index in range(3):
        out.write(index, named(FIELDS[index, :1]))
    monkeypatch.setattr("ldmdown.data.writer.remove", killed)
    with suppress(KeyboardInterrupt):
        out.close()
    monkeypatch.undo()
    assert sorted(one.name for one in tmp_path.iterdir()) == [name, f"{name}.part"]
    again = writer(path, resume=True)
    assert again.left == [] and not again.finished and again.close()
    assert list(tmp_path.iterdir()) == [path]
    with xr.open_dataset(path, engine="zarr" if name == "out.zarr" else "netcdf4") as found:
        np.testing.assert_array_equal(found.t2m, FIELDS[:, 0, 0])


def test_a_finished_output_that_does_not_say_how_it_was_made(tmp_path: Path) -> None:
    xr.Dataset({"t2m": 1.0}).to_netcdf(tmp_path / "out.nc")
    with pytest.raises(LdmdownError, match=r"out.nc: does not say what it was made with\n.*\n  fix: give --overwrite"):
        writer(tmp_path / "out.nc", resume=True)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.nc.part").mkdir()
    (tmp_path / "out.nc.part" / "thesis.tex").touch()
    with pytest.raises(LdmdownError, match=r"out.nc.part: is in the way: it holds no finished hours of ldmdown"):
        writer(tmp_path / "out.nc", overwrite=True)
    (tmp_path / "folder.nc").mkdir()
    with pytest.raises(LdmdownError, match=r"folder.nc: is a folder"):
        writer(tmp_path / "folder.nc", overwrite=True)


def test_a_folder_that_was_only_just_made_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "out.nc.part").mkdir()
    assert writer(tmp_path / "out.nc", resume=True).left == [0, 1, 2]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LdmdownError, match=r"run.json: cannot be written\n  found: .*Not a directory"):
        writer(tmp_path / "file" / "out.nc")
