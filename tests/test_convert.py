"""The published files, in miniature: made into one checkpoint that computes what the authors' code computed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import OURS, Attack, ldmdown, statistics
from safetensors.torch import load_file

from ldmdown import checkpoint
from ldmdown.commands.convert import convert
from ldmdown.commands.info import card
from ldmdown.errors import LdmdownError
from ldmdown.models.downscaler import StaticInputs
from ldmdown.models.sampling import Sampler
from ldmdown.options import ConvertOptions

DATA = os.environ.get("LDMDOWN_TEST_DATA")
real = pytest.mark.skipif(not DATA, reason="LDMDOWN_TEST_DATA is not set")


def published(*names: str) -> list[Path]:
    return [Path(str(DATA)) / "parity" / f"{name}.ckpt" for name in names]


def made(archive: Path, *names: str, **options: Any) -> Path:
    output = archive / "made.safetensors"
    statistics = options.pop("statistics", archive / "normalization_data.pkl")
    convert(published(*names), output, ConvertOptions(**options), statistics=statistics, statics=archive / "static_var")
    return output


@real
@pytest.mark.parametrize("target", ["2mT", "UV"])
def test_a_converted_system_computes_what_the_authors_code_computed(archive: Path, target: str) -> None:
    loaded = checkpoint.load(made(archive, f"LDM_residual_{target}", f"UNET_{target}", f"VAE_residual_{target}"))
    vectors = load_file(Path(str(DATA)) / "parity" / f"{target}_vectors.safetensors")
    model = loaded.model
    with torch.no_grad():
        statics = StaticInputs(model, vectors["input.static"])
        mean = model.mean(vectors["input.low_res"], statics)
        condition = model.condition(vectors["input.low_res"], statics)
        assert model.denoiser is not None
        v = model.denoiser(vectors["denoiser.input"], vectors["denoiser.timesteps"], condition.context)
        field = model.sample(mean, condition, vectors["ddim.x_T"], Sampler("ddim", 5))
    for ours, name in ((mean, "unet.output"), (v, "denoiser.output_ema_weights"), (field, "pipeline.output")):
        torch.testing.assert_close(ours, vectors[name], rtol=0, atol=2e-5 * float(vectors[name].std()))


@real
def test_statistics_and_statics_find_their_places(archive: Path) -> None:
    loaded = checkpoint.load(made(archive, "UNET_UV", wind="rotated-168"))
    assert loaded.stage == "unet" and loaded.config.targets == ("u10", "v10")
    assert [loaded.normalization["predictors"].mean[name] for name in OURS] == list(range(1, 15))
    assert loaded.normalization["predictors"].std["w850"] == 24
    assert loaded.normalization["target"].mean == {"u10": 101, "v10": 102}
    statics = loaded.model.statics
    assert statics.shape == (18, 128, 64) and not statics.requires_grad
    assert abs(float(statics[0].mean())) < 1e-5 and float(statics[0].std(correction=0)) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(statics[1:17].sum(dim=0), torch.ones(128, 64))
    assert (loaded.grid.rows, loaded.grid.cols, loaded.grid.west) == (128, 64, 3_910_000)
    text = card(str(loaded.path))
    assert "rotated-168" in text and "bilinear" in text and "UNET_UV.ckpt" in text


@real
def test_the_gan_is_its_generator(archive: Path) -> None:
    loaded = checkpoint.load(made(archive, "GAN_2mT"))
    vectors = load_file(Path(str(DATA)) / "parity" / "2mT_vectors.safetensors")
    with torch.no_grad():
        field = loaded.model.mean(vectors["input.low_res"], StaticInputs(loaded.model, vectors["input.static"]))
    assert loaded.stage == "gan"
    torch.testing.assert_close(field, vectors["unet.output"], rtol=0, atol=2e-5)


@real
def test_statistics_as_json(archive: Path) -> None:
    (archive / "statistics.json").write_text(json.dumps(statistics()))
    loaded = checkpoint.load(made(archive, "UNET_2mT", statistics=archive / "statistics.json"))
    assert loaded.normalization["target"].mean == {"t2m": 100}


@real
def test_files_that_do_not_belong_together(archive: Path) -> None:
    with pytest.raises(LdmdownError, match="do not make a system\n  found: ldm, unet\n"):
        made(archive, "LDM_residual_2mT", "UNET_2mT")
    with pytest.raises(LdmdownError, match="VAE_residual_UV.ckpt: holds another U-Net than .*UNET_2mT.ckpt"):
        made(archive, "UNET_2mT", "VAE_residual_UV", "LDM_residual_2mT")
    with pytest.raises(LdmdownError, match="is a second unet file"):
        made(archive, "UNET_2mT", "UNET_UV")
    assert not (archive / "made.safetensors").exists()


def lightning(path: Path, state: dict[str, torch.Tensor], **more: Any) -> Path:
    torch.save({"epoch": 1, "state_dict": state, **more}, path)
    return path


def small_unet(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    from ldmdown.models.unet import UNet

    torch.manual_seed(0)
    state = {f"net.{name}": tensor for name, tensor in UNet(32, 1, (4, 4), 8).state_dict().items()} | changes
    return {name: tensor for name, tensor in state.items() if tensor is not None}


def test_every_tensor_that_does_not_fit_is_named(archive: Path) -> None:
    broken = small_unet(
        **{"net.b.conv.3.weight": torch.zeros(8, 7, 3, 3), "net.outputs.bias": None, "net.stranger": torch.zeros(2)}
    )
    file = lightning(archive / "UNET.ckpt", broken)
    with pytest.raises(LdmdownError) as caught:
        convert(
            [file],
            archive / "x.safetensors",
            statistics=archive / "normalization_data.pkl",
            statics=archive / "static_var",
        )
    assert str(caught.value) == (
        f"{file}: do not fit the paper's networks\n"
        "  found: unet.b.conv.3.weight is (8, 7, 3, 3), not (8, 8, 3, 3); unet.outputs.bias is missing, not (1,); "
        "unet.stranger is (2,), not expected"
    )


def test_no_file_can_run_a_command(archive: Path) -> None:
    """As the command line does it: a checkpoint, and the statistics."""
    good = lightning(archive / "UNET_2mT.ckpt", small_unet())
    bad = lightning(archive / "evil.ckpt", small_unet(), callbacks=Attack(archive / "owned"))
    evil = archive / "evil.pkl"
    evil.write_bytes(pickle.dumps(Attack(archive / "owned")))
    for file, numbers in ((bad, archive / "normalization_data.pkl"), (good, evil)):
        options = ["--statistics", str(numbers), "--statics", str(archive / "static_var")]
        done = ldmdown("convert", str(file), "-o", str(archive / "x.safetensors"), *options)
        assert done.returncode == 1 and "refused, nothing was executed" in done.stderr, done.stderr
    assert not (archive / "owned").exists() and not (archive / "x.safetensors").exists()


def test_missing_numbers_and_fields(archive: Path) -> None:
    file = lightning(archive / "UNET_2mT.ckpt", small_unet())

    def run() -> None:
        output = archive / "x.safetensors"
        convert([file], output, statistics=archive / "normalization_data.pkl", statics=archive / "static_var")

    numbers = statistics()
    del numbers["ERA5"]["std"]["SST"]
    (archive / "normalization_data.pkl").write_bytes(pickle.dumps(numbers))
    with pytest.raises(LdmdownError, match="normalization_data.pkl: sst has no std in ERA5\n  found: 2mT, PMSL"):
        run()
    (archive / "static_var" / "dtm_2km_domain_trim_EPSG3035.tif").unlink()
    with pytest.raises(LdmdownError, match="static_var: dtm is missing\n  found: land_cover_classes_2km"):
        run()
    with pytest.raises(LdmdownError, match="is not a checkpoint of PyTorch-Lightning"):
        torch.save([1, 2], archive / "UNET_2mT.ckpt")
        run()
