"""Checkpoints beside their baselines on an archive of the twin."""

from __future__ import annotations

import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
import zarr
from conftest import CONDITIONER
from made_up import as_written

import ldmdown
from ldmdown import checkpoint
from ldmdown.commands.evaluate import score
from ldmdown.commands.prepare import prepare
from ldmdown.config import Config, parse_config
from ldmdown.data.archive.box_means import Boxes, era5_boxes
from ldmdown.data.archive.store import Archive
from ldmdown.data.grid import Grid
from ldmdown.errors import LdmdownError
from ldmdown.inference import Predictor, SamplingOptions, default_sampler, measured_correlation
from ldmdown.options import CheckpointOptions, StationOptions
from ldmdown.scoring.baselines import interpolate
from ldmdown.scoring.ideal import Ideal
from ldmdown.scoring.systems import Systems
from ldmdown.twin.files import TwinFiles
from ldmdown.twin.recipe import RECIPE

SMALL = {
    "name": "small",
    "description": "Untrained, for tests.",
    "grid": {"west": 4_300_000, "north": 2_330_000, "rows": 64, "cols": 64},  # a coast with mountains behind
    "data": {"split": {"train": [["2021-01-01"] * 2], "validation": [], "test": [["2021-07-20"] * 2]}},
    "twin": {"periods": [["2021-01-01", "2021-01-01"], ["2021-07-20", "2021-07-20"]]},
    "statics": {"embedding": 4},
    "unet": {"features": [8], "bottleneck": 8},
    "conditioner": CONDITIONER,
    "scale": {"conditioner": CONDITIONER},
    "denoiser": {"channels": 32, "multipliers": [1], "blocks": 1, "cross_levels": [0]},
    "sampler": {"steps": 3},
    "gan": {"widths": [8, 8, 8, 8]},
}  # fmt: skip
KINDS = {"small": {}, "kl": {"autoencoder": {"kind": "kl"}, "scale": None}, "direct": {"residual": False}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of two days of the twin, and untrained checkpoints of every stage and kind that share a U-Net."""
    folder = tmp_path_factory.mktemp("systems")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    config = parse_config(folder / "small.yaml")
    periods = [(f"{day}T06", f"{day}T11") for day in ("2021-01-01", "2021-07-20")]  # prepare leaves what is there
    TwinFiles(folder, Grid.of(config.grid)).write(periods)
    prepare(folder / "small.yaml")
    normalization = Archive(folder / "archive.zarr").normalization
    torch.manual_seed(0)
    mean = _random(checkpoint.build(config, normalization, "unet"))
    for stage in ("unet", "gan"):
        model = mean if stage == "unet" else _random(checkpoint.build(config, normalization, stage))
        checkpoint.save(folder / f"{stage}.safetensors", model, checkpoint.header_of(config, normalization, stage))
    for name, changes in KINDS.items():
        config = Config.model_validate(SMALL | changes)
        model = _random(checkpoint.build(config, normalization, "ldm"))
        model.load_state_dict(mean.state_dict(), strict=False)
        header = checkpoint.header_of(config, normalization, "ldm", temporal_correlation=0.7)
        checkpoint.save(folder / f"{name}.safetensors", model, header)
    return folder


def _random(model: torch.nn.Module) -> torch.nn.Module:
    """With every part that training starts from zero speaking too."""
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def systems(folder: Path, *names: str, **options: Any) -> Systems:
    files = [str(folder / f"{name}.safetensors") for name in names]
    return Systems(files, folder / "archive.zarr", CheckpointOptions(members=2, every=2, **options))


@pytest.fixture(scope="module")
def data(folder: Path) -> Systems:
    return systems(folder, "small", "kl", "direct", "gan")


def test_every_system_of_the_paper_is_there(data: Systems) -> None:
    """The U-Net that three checkpoints share is one of them."""
    assert [(one.name, one.kind, one.members) for one in data.systems] == [
        ("bilinear", "interpolation", 1),
        ("quadratic", "interpolation", 1),
        ("lapse rate", "interpolation", 1),
        ("cell regression", "regression", 1),
        ("U-Net", "mean", 1),
        ("GAN", "gan", 1),
        ("scaled white noise", "white noise", 2),
        ("LDM (small)", "member", 2),
        ("LDM (kl)", "member", 2),
        ("LDM (direct)", "member", 2),
        ("LDM mean (small)", "ensemble mean", 1),
        ("LDM mean (kl)", "ensemble mean", 1),
        ("LDM mean (direct)", "ensemble mean", 1),
        ("VAE", "reconstruction", 1),
        ("ideal", "ideal", 2),
    ]
    truth, fields = data.read(data.hours[1])
    assert list(fields) == [one.name for one in data.systems]
    for one in data.systems:
        assert fields[one.name].shape == (one.members, *truth.shape) and np.isfinite(fields[one.name]).all()
    members = fields["LDM (kl)"]
    np.testing.assert_allclose(fields["LDM mean (kl)"][0], members.mean(axis=0), rtol=1e-6)
    assert not np.allclose(members[0], members[1])
    assert data.notes == [
        f"twin, recipe {RECIPE}: a test world, not a regional model",
        "the cell regression is fitted to 6 hours of the training period",
    ]


@pytest.mark.parametrize(
    ("name", "made"), [("unet", "U-Net"), ("gan", "GAN"), ("small", "LDM (small)"), ("direct", "LDM (direct)")]
)
def test_checkpoints_make_what_downscale_makes(folder: Path, data: Systems, name: str, made: str) -> None:
    hour = data.hours[2]
    archive = Archive(folder / "archive.zarr")
    loaded = checkpoint.load(folder / f"{name}.safetensors")
    runner = Predictor(
        loaded,
        loaded.grid.whole,
        SamplingOptions(2, 0, default_sampler(loaded), measured_correlation(loaded)),
        "fp32",
        1,
    )

    class Predictors:
        hours, number = archive.hours, 0

        def read(self, index: int) -> np.ndarray:
            return archive.read(index)["predictors"]

    index = int(np.flatnonzero(archive.hours == hour)[0])
    with ThreadPoolExecutor(1) as reader:
        ((_, expected),) = runner.run([Predictors()], [index], reader)
    np.testing.assert_allclose(data.read(hour)[1][made], expected, atol=2e-4)


@pytest.fixture(scope="module")
def exact(folder: Path) -> Path:
    """A folder of two of the checkpoints that keep to ERA5, and the same archive."""
    archive, config = Archive(folder / "archive.zarr"), Config.model_validate(SMALL | {"consistency": "exact"})
    known = {"box_differences": archive.manifest["learned_from"]["box_differences"], "temporal_correlation": 0.7}
    for stage, name in (("unet", "unet"), ("ldm", "small")):
        model = checkpoint.load(folder / f"{name}.safetensors").model
        header = checkpoint.header_of(config, archive.normalization, stage, **known)
        checkpoint.save(folder / f"exact-{stage}.safetensors", model, header)
    return folder


@pytest.mark.parametrize(("stage", "made"), [("unet", "U-Net"), ("ldm", "LDM")])
def test_box_means_keep_to_era5_as_those_of_downscale_do(exact: Path, stage: str, made: str) -> None:
    """The same fields from the file of ERA5, and from the archive; another process makes them too."""
    data = systems(exact, f"exact-{stage}")
    assert [note for note in data.notes if note.startswith(f"exact-{stage} keeps to ERA5, exact: means over ERA5's")]
    hour = data.hours[2]
    fields = data.read(hour)[1]
    options = {"members": 2} if stage == "ldm" else {}
    with xr.open_dataset(exact / "era5" / "era5_single_20210720.nc", engine="netcdf4") as dataset:
        when = {"start": str(np.datetime64(hour, "h")), "end": str(np.datetime64(hour, "h"))}
        expected = ldmdown.load(str(exact / f"exact-{stage}.safetensors")).downscale(dataset, **options, **when)
        boxes = era5_boxes(Archive(exact / "archive.zarr").grid)
        era5 = dataset.sel(valid_time=when["start"], latitude=boxes.centres.y, longitude=boxes.centres.x)
    for channel, name in enumerate(data.names):
        downscaled = expected[name].values.reshape(-1, *data.grid.shape)
        np.testing.assert_allclose(fields[made][:, channel], downscaled, atol=1e-3)
        if name != "t2m":
            for field in fields[made][:, channel]:
                means = boxes.means(boxes.of_source, field)
                whole = np.isfinite(means)
                assert whole.sum() > 10
                np.testing.assert_allclose(means[whole], era5[name].values[whole], atol=1e-3)
    if stage == "ldm":
        np.testing.assert_allclose(fields["LDM mean"][0], fields["LDM"].mean(axis=0), rtol=1e-6)
        free = systems(exact, "exact-ldm", consistency="free")
        np.testing.assert_array_equal(free.read(hour)[1]["scaled white noise"], fields["scaled white noise"])
        assert np.abs(free.read(hour)[1]["LDM"] - fields["LDM"]).max() > 0.1 and len(free.notes) == len(data.notes) - 1
        again = pickle.loads(pickle.dumps(data)).read(hour)[1]
        np.testing.assert_array_equal(again["LDM"], fields["LDM"])


def test_an_archive_without_boxes_is_scored_and_says_so(exact: Path, tmp_path: Path) -> None:
    shutil.copytree(exact / "archive.zarr", tmp_path / "archive.zarr")
    shutil.rmtree(tmp_path / "archive.zarr" / "boxes")
    file, missing = str(exact / "exact-unet.safetensors"), "archive.zarr: holds no coarse fields on ERA5's boxes"
    data = Systems([file], tmp_path / "archive.zarr", CheckpointOptions())
    assert [note for note in data.notes if note.startswith("box means of exact-unet do not") and missing in note]
    free = systems(exact, "unet").read(data.hours[0])[1]
    np.testing.assert_array_equal(data.read(data.hours[0])[1]["U-Net"], free["U-Net"])
    with pytest.raises(LdmdownError, match=missing):
        Systems([file], tmp_path / "archive.zarr", CheckpointOptions(consistency="exact"))


def test_a_reconstruction_is_the_truth_through_the_autoencoder(folder: Path, data: Systems) -> None:
    truth, fields = data.read(data.hours[0])
    loaded = checkpoint.load(folder / "kl.safetensors")
    normalization, targets = loaded.normalization["target"], loaded.config.targets
    residual = (normalization.normalize(truth, targets) - normalization.normalize(fields["U-Net"][0], targets))[None]
    with torch.no_grad():
        again = loaded.model.autoencoder.decode(loaded.model.autoencoder.encode(torch.from_numpy(residual)))
    expected = fields["U-Net"][0] + again[0].numpy() * np.array(list(normalization.std.values()))[:, None, None]
    np.testing.assert_allclose(fields["VAE"][0], expected, atol=2e-3)


def test_interpolations_are_exact_for_their_polynomials() -> None:
    """Away from the borders, where the edge's value goes on."""
    coarse = np.arange(16) + 0.5
    fine = (np.arange(64) + 0.5) / 4
    inner = np.s_[24:-24, 24:-24]
    for order, exact in ((1, lambda y, x: 3 * y - 2 * x), (2, lambda y, x: y**2 + x * y - x**2)):
        made = interpolate(exact(coarse[:, None], coarse[None]), 4, order)
        np.testing.assert_allclose(made[inner], exact(fine[:, None], fine[None])[inner], atol=2e-3)
    np.testing.assert_allclose(interpolate(np.full((3, 4, 4), 7.0), 8, 2), 7, rtol=1e-6)


def test_the_interpolations_of_an_hour(folder: Path, data: Systems) -> None:
    """Bilinear is what the model's own baseline is; the lapse rate changes temperature alone."""
    archive = Archive(folder / "archive.zarr")
    coarse = archive.read(int(np.flatnonzero(archive.hours == data.hours[0])[0]))["predictors"][:3]
    _, fields = data.read(data.hours[0])
    expected = torch.nn.functional.interpolate(torch.from_numpy(coarse)[None], scale_factor=8, mode="bilinear")
    np.testing.assert_allclose(fields["bilinear"], expected.numpy(), atol=1e-4)
    changed = fields["lapse rate"] - fields["bilinear"]
    heights = data.terrain
    np.testing.assert_allclose(changed[0, 0], 0.0065 * (heights.coarse - heights.fine), atol=1e-4)
    assert not changed[0, 1:].any() and np.abs(changed).max() > 1


def test_the_ideal_ensemble_is_drawn_from_the_world_of_the_archive(folder: Path, data: Systems) -> None:
    archive = Archive(folder / "archive.zarr")
    ideal = Ideal(archive.grid, archive.grid.whole, archive.fingerprint["twin"], archive.path)
    for index in (0, 8):
        truth = archive.read(index)["target"]
        np.testing.assert_allclose(ideal.draw(int(archive.hours[index]), data.names, 0), truth, atol=0.02)
    hour = data.hours[1]
    truth, fields = data.read(hour)
    np.testing.assert_array_equal(fields["ideal"][1], ideal.draw(hour, data.names, 2))
    assert np.abs(fields["ideal"][0] - truth).mean() > 0.1


def test_the_ideal_ensemble_knows_the_box_means_that_a_checkpoint_knows(exact: Path) -> None:
    """Where coarse fields are means of the fine ones, which the reference holds in a part of the grid only."""
    given = SMALL["data"] | {"era5": "from_reference", "archive": "means.zarr"}
    (exact / "means.yaml").write_text(yaml.safe_dump(SMALL | {"data": given}))
    prepare(exact / "means.yaml")
    data = Systems([str(exact / "exact-unet.safetensors")], exact / "means.zarr", CheckpointOptions(members=2))
    assert "the ideal ensemble keeps to the box means of the truth" in data.notes
    truth, fields = data.read(data.hours[0])
    assert fields["ideal"].shape == (2, *truth.shape) and truth[0].size < 64 * 64
    boxes = Boxes(data.grid, 0.25)
    for channel, name in enumerate(data.names):
        if name != "t2m":  # which is moved to other heights
            drawn, true = (boxes.means(boxes.of_source, one[channel]) for one in (fields["ideal"][1], truth))
            assert np.isfinite(true).sum() > 5
            np.testing.assert_allclose(drawn, true, atol=0.02)
            assert np.abs(fields["ideal"][1, channel] - truth[channel]).mean() > 0.1


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"seed": 5}, "the ideal ensemble is left out: the archive is of another recipe or terrain"),
        ({"orography": "gone.nc"}, "the ideal ensemble is left out: gone.nc is not there"),
        (None, "no terrain is known (--terrain): no lapse rate correction, no scores by kind of ground"),
    ],
)
def test_what_is_not_known_is_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict | None, note: str
) -> None:
    plan = Archive(folder / "archive.zarr").fingerprint
    twin = None if change is None else plan["twin"] | change
    monkeypatch.setattr(zarr.Group, "attrs", property(_attributes(plan | {"twin": twin})))
    data = systems(folder, "unet")
    assert note in data.notes and "ideal" not in [one.name for one in data.systems]
    assert "lapse rate" not in [one.name for one in data.systems]


def _attributes(plan: dict) -> object:
    original = zarr.Group.attrs.fget

    def attributes(group: zarr.Group) -> object:
        held = dict(original(group)) | {"fingerprint": plan}
        return type("Attributes", (), {"asdict": lambda _: held})()

    return attributes


def test_what_does_not_fit_is_refused(folder: Path, tiny: dict[str, Path]) -> None:
    with pytest.raises(LdmdownError, match="is on another grid than .*archive.zarr"):
        Systems([str(tiny["unet"])], folder / "archive.zarr", CheckpointOptions())
    with pytest.raises(LdmdownError, match="has no hours of the period validation"):
        Systems([str(folder / "unet.safetensors")], folder / "archive.zarr", CheckpointOptions("validation"))


def test_the_whole_scorecard(folder: Path) -> None:
    files = [str(folder / f"{name}.safetensors") for name in ("small", "kl")]
    data = Systems(files, folder / "archive.zarr", CheckpointOptions(members=3, every=3))
    scored, _ = score(data, StationOptions())
    results = as_written(scored)
    scores = {name: parts["t2m"] for name, parts in results["scores"].items()}
    assert scores["ideal"]["crps"]["value"] < scores["bilinear"]["crps"]["value"] < scores["LDM (kl)"]["crps"]["value"]
    assert results["ratio_to_ideal"]["ideal"]["t2m"]["crps"]["value"] == 1
    assert set(results["by_surface"]) == {"land", "sea", "mountains", "coast"}
    assert (
        results["by_surface"]["mountains"]["lapse rate"]["t2m"] != results["by_surface"]["mountains"]["bilinear"]["t2m"]
    )
    assert results["hours"]["count"] == 2 and "change_ratio" not in scores["ideal"]
