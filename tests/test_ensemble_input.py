"""Members in, members out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from made_up import write_grib

import ldmdown
from ldmdown.commands.downscale import downscale
from ldmdown.errors import LdmdownError
from ldmdown.options import DownscaleOptions, RunOptions

Write = Callable[..., Path]


@pytest.fixture
def ensemble(era5: Write, tmp_path: Path) -> dict[str, list[Path]]:
    """Members 0, 3 and 7, each a degree warmer than the last: as files, and as one with the dimension `number`."""
    files, members = [], []
    with xr.open_dataset(era5(range(2)), engine="netcdf4") as plain:
        plain = plain.load()
    for place, number in enumerate((0, 3, 7)):
        member = plain.assign(t2m=plain.t2m + np.float32(place)).assign_coords(number=number)
        files.append(tmp_path / f"member{number}.nc")
        member.to_netcdf(files[-1], engine="netcdf4")
        members.append(member)
    xr.concat(members, "number").to_netcdf(tmp_path / "members.nc", engine="netcdf4")
    return {"files": files, "dimension": [tmp_path / "members.nc"]}


def run(files: list[Path], output: Path, checkpoint: Path, **options: object) -> xr.Dataset:
    downscale([str(one) for one in files], output, DownscaleOptions(**options), checkpoint=str(checkpoint))
    with xr.open_dataset(output, engine="netcdf4") as dataset:
        return dataset.load()


def test_members_of_the_input_are_members_of_the_output(
    tiny: dict[str, Path], ensemble: dict[str, list[Path]], tmp_path: Path
) -> None:
    """Each as it is alone, whatever batch; two draws of each follow each other."""
    whole = run(ensemble["dimension"], tmp_path / "whole.nc", tiny["ldm"], members=2, batch_size=3)
    assert whole.t2m.dims == ("time", "realization", "y", "x") and whole.realization.values.tolist() == [*range(6)]
    assert whole.input_member.values.tolist() == [0, 0, 3, 3, 7, 7]
    once = run(ensemble["files"], tmp_path / "once.nc", tiny["ldm"])
    assert once.input_member.values.tolist() == [0, 3, 7]
    for place, file in enumerate(ensemble["files"]):
        alone = run([file], tmp_path / f"alone{place}.nc", tiny["ldm"], members=2)
        np.testing.assert_allclose(whole.t2m[:, 2 * place : 2 * place + 2], alone.t2m, atol=1e-3)
        np.testing.assert_allclose(once.u10[:, place], alone.u10[:, 0], atol=1e-3)
    flat = (whole.u10 - whole.u10.mean("realization")).values.swapaxes(0, 1).reshape(6, -1)
    assert (
        np.abs(np.corrcoef(flat)[np.triu_indices(6, 1)]).max() < 0.5
    )  # the wind of the members differs by noise alone


def test_members_in_messages_of_one_grib_file(
    tiny: dict[str, Path], ensemble: dict[str, list[Path]], tmp_path: Path
) -> None:
    """As IFS-ENS has them: a control forecast, number 0, and perturbed ones, the messages of all in one file."""
    import eccodes

    with (tmp_path / "ens.grib2").open("wb") as target:
        for number, file in zip((0, 3, 7), ensemble["files"], strict=True):
            with xr.open_dataset(file, engine="netcdf4") as dataset:
                path = write_grib(tmp_path / "one.grib2", dataset)
            with path.open("rb") as source:
                while (handle := eccodes.codes_grib_new_from_file(source)) is not None:
                    keys = {"productDefinitionTemplateNumber": 1, "numberOfForecastsInEnsemble": 51}
                    keys |= {"typeOfProcessedData": "pf" if number else "cf", "perturbationNumber": number}
                    for key, value in keys.items():
                        eccodes.codes_set(handle, key, value)
                    eccodes.codes_write(handle, target)
                    eccodes.codes_release(handle)
    found = run([tmp_path / "ens.grib2"], tmp_path / "grib.nc", tiny["unet"])
    expected = run(ensemble["files"], tmp_path / "files.nc", tiny["unet"])
    assert found.input_member.values.tolist() == [0, 3, 7]
    for name in ("t2m", "u10", "v10"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-3)


def test_the_mean_of_members_and_their_statistics(
    tiny: dict[str, Path], ensemble: dict[str, list[Path]], tmp_path: Path
) -> None:
    means = run(ensemble["dimension"], tmp_path / "means.nc", tiny["unet"])
    assert means.sizes["realization"] == 3
    made = run(ensemble["dimension"], tmp_path / "made.nc", tiny["unet"], statistics=("mean", "max"))
    np.testing.assert_allclose(made.t2m_mean, means.t2m.mean("realization"), rtol=1e-6)
    np.testing.assert_array_equal(made.t2m_max, means.t2m.max("realization"))
    assert "input_member" not in made
    with xr.open_dataset(ensemble["dimension"][0], engine="netcdf4") as source:
        same = ldmdown.load(str(tiny["unet"]), "cpu").downscale(source)
    np.testing.assert_array_equal(same.t2m, means.t2m)
    np.testing.assert_array_equal(same.input_member, means.input_member)


def test_members_without_numbers_are_refused(
    tiny: dict[str, Path], ensemble: dict[str, list[Path]], tmp_path: Path
) -> None:
    for place, file in enumerate(ensemble["files"][:2]):
        with xr.open_dataset(file, engine="netcdf4") as dataset:
            dataset.drop_vars("number").to_netcdf(tmp_path / f"plain{place}.nc", engine="netcdf4")
    files = [str(tmp_path / f"plain{place}.nc") for place in (0, 1)]
    run = RunOptions(device="cpu")
    with pytest.raises(LdmdownError, match=r"(?s)twice, with different values.*need their coordinate `number`"):
        downscale(files, tmp_path / "out.nc", DownscaleOptions(), checkpoint=str(tiny["unet"]), run=run)
