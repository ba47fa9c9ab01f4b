from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIG, NORMALIZATION, untrained
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ldmdown import atomic, checkpoint, header
from ldmdown.commands.info import card
from ldmdown.commands.request import request
from ldmdown.config import Config, StaticsConfig
from ldmdown.errors import LdmdownError
from ldmdown.models.terrain import FEATURES, terrain_features


@pytest.mark.parametrize("stage", ["unet", "ldm"])
def test_weights_come_back_as_half_precision_holds_them(tiny: dict[str, Path], stage: checkpoint.Stage) -> None:
    loaded = checkpoint.load(tiny[stage])
    assert (loaded.stage, loaded.config, loaded.normalization) == (stage, CONFIG, NORMALIZATION)
    expected = untrained(stage).state_dict()
    assert set(loaded.model.state_dict()) == set(expected)
    for name, tensor in loaded.model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim > 1:
            torch.testing.assert_close(tensor, expected[name].half().float(), rtol=0, atol=0)
        else:
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)
        assert not tensor.requires_grad
    assert not loaded.model.training


def test_the_card_names_what_matters(tiny: dict[str, Path]) -> None:
    text = card(str(tiny["ldm"]))
    for part in ("tiny", "Untrained, for tests.", "64 x 64 cells of 2000 m, EPSG:3035", "lapped", "dpmpp"):
        assert part in text
    assert atomic.sha256(tiny["ldm"]) in text


def altered(source: Path, target: Path, changes: dict | None = None, **tensors: torch.Tensor | None) -> Path:
    weights = load_file(source) | tensors
    content = {name: value for name, value in header.read_header(source).items() if name != header.HASH}
    content |= changes or {}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, target, {header.KEY: json.dumps(content)})
    return target


def test_weights_that_do_not_fit(tiny: dict[str, Path], tmp_path: Path) -> None:
    weights = {checkpoint.ESTIMATED: None, checkpoint.STEPS: None, "statics": torch.zeros(3, 1)}
    file = altered(tiny["ldm"], tmp_path / "x.safetensors", **weights, **{"denoiser.out.2.bias": None})
    with pytest.raises(LdmdownError) as caught:
        checkpoint.load(file)
    assert str(caught.value) == (
        f"{file}: its weights do not fit its configuration\n"
        "  found: denoiser.out.2.bias is missing, not (192,); statics is (3, 1), not (2, 64, 64)"
    )


def test_estimated_static_fields_are_stored_in_steps(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"statics": StaticsConfig(fields=["z"], embedding=2)})
    model = checkpoint.build(config, NORMALIZATION, "unet")
    model.statics.copy_(torch.randn(model.statics.shape, generator=torch.Generator().manual_seed(1)))
    model.statics[1:, 0, 0] = torch.tensor([127 * 0.25, -127.0])
    checkpoint.save(tmp_path / "x.safetensors", model, checkpoint.header_of(config, NORMALIZATION, "unet"))
    held, loaded = load_file(tmp_path / "x.safetensors"), checkpoint.load(tmp_path / "x.safetensors").model.statics
    assert {held[name].dtype for name in ("statics", checkpoint.ESTIMATED)} == {torch.float16, torch.int8}
    torch.testing.assert_close(loaded[0], model.statics[0].half().float(), rtol=0, atol=0)
    for field, expected, step in zip(loaded[1:], model.statics[1:], (0.25, 1.0), strict=True):
        torch.testing.assert_close(field, (expected / step).round() * step, rtol=0, atol=0)
    wrong = {checkpoint.ESTIMATED: held[checkpoint.ESTIMATED].view(torch.uint8)}
    with pytest.raises(LdmdownError, match=r"found: estimated_statics is \(2, 64, 64\), not expected"):
        checkpoint.load(altered(tmp_path / "x.safetensors", tmp_path / "y.safetensors", **wrong))


def test_a_later_format_and_a_stranger(tiny: dict[str, Path], tmp_path: Path) -> None:
    later = altered(tiny["unet"], tmp_path / "later.safetensors", {"format": 99})
    with pytest.raises(LdmdownError, match="was written by a later version of ldmdown\n  found: format 99"):
        checkpoint.load(later)
    save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(LdmdownError, match="holds weights, but no ldmdown header"):
        checkpoint.load(tmp_path / "other.safetensors")
    (tmp_path / "evil.safetensors").write_bytes(b"cos\nsystem\n(S'touch evil'\ntR.")
    with pytest.raises(LdmdownError, match="is not a checkpoint"):
        checkpoint.load(tmp_path / "evil.safetensors")


def test_a_baseline_needs_its_predictors() -> None:
    config = CONFIG.model_copy(update={"predictors": ("t2m", "cossza")})
    with pytest.raises(LdmdownError, match="u10, v10 is not among the predictors, whose interpolation"):
        checkpoint.build(config, NORMALIZATION, "unet")


def test_a_name_is_looked_up_here_before_the_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundled = header.find("italy")
    assert bundled.is_file()
    (tmp_path / "checkpoints").mkdir()
    own = tmp_path / "checkpoints" / "italy.safetensors"
    own.write_bytes(bundled.read_bytes())
    assert header.find("italy").resolve() == own


@pytest.mark.slow
def test_a_wheel_holds_the_bundled_checkpoint(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(root)], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 30e6
    place = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(place), str(wheel)], check=True
    )
    found = subprocess.run(
        [sys.executable, "-c", "from ldmdown.header import find; print(find('italy'))"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == place / "ldmdown" / "checkpoints" / "italy.safetensors"


def test_the_bundled_checkpoint_makes_plausible_air() -> None:
    """Half a domain of a mild day: near its input at large, and with structure that the input has not."""
    loaded = checkpoint.load("italy")
    coarse = np.zeros((1, len(loaded.config.predictors), 16, 16), np.float32)
    model = loaded.model
    with torch.no_grad():
        mean = model.mean(torch.from_numpy(coarse), model.statics_at([(8, 8)], 16, 16))
    field = loaded.normalization["target"].denormalize(mean.numpy(), loaded.config.targets)[0, 0]
    expected = loaded.normalization["predictors"].mean["t2m"]
    assert abs(field.mean() - expected) < 6 and field.std() > 0.5


def test_a_header_that_lacks_a_field(tiny: dict[str, Path], tmp_path: Path) -> None:
    content = header.read_header(tiny["unet"])
    del content["wind"], content["normalization"]
    file = tmp_path / "x.safetensors"
    save_file(load_file(tiny["unet"]), file, {header.KEY: json.dumps(content)})
    with pytest.raises(
        LdmdownError, match="has a damaged header\n  found: normalization: Field required; wind: Field required\n"
    ):
        checkpoint.load(file)
    save_file(load_file(tiny["unet"]), file, {header.KEY: "{"})
    with pytest.raises(LdmdownError, match="has no header of ldmdown"):
        header.read_header(file)


def test_others_may_read_a_checkpoint_as_the_umask_says(tiny: dict[str, Path], tmp_path: Path) -> None:
    loaded, usual = checkpoint.load(tiny["unet"]), os.umask(0o027)
    try:
        checkpoint.save(tmp_path / "x.safetensors", loaded.model, loaded.header)
    finally:
        os.umask(usual)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o640


def test_weights_that_fit_are_taken_and_counted(tiny: dict[str, Path]) -> None:
    """The mean of a system of stage ldm starts from a system of stage unet; its denoiser stays as it was."""
    model = untrained("ldm")
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    expected = checkpoint.load(tiny["unet"]).model.state_dict()
    assert checkpoint.take_fitting(tiny["unet"], model) == len(expected)
    for name, tensor in model.state_dict().items():
        if name in expected:
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)
        elif name.startswith("denoiser.") and tensor.is_floating_point():
            assert not tensor.any()


def test_features_of_the_terrain_are_made_when_a_checkpoint_is_read(tmp_path: Path) -> None:
    """Only height and land-sea mask are stored; networks and windows see what follows from them too."""
    statics = {"fields": ["z", "land_sea_mask"], "embedding": 1, "terrain_features": True}
    config = Config.model_validate(CONFIG.model_dump() | {"statics": statics, "unet": {"skip": "regression"}})
    model = checkpoint.build(config, NORMALIZATION, "ldm")
    rows, cols = np.mgrid[:64, :64].astype(np.float32)
    model.statics[:2] = torch.from_numpy(np.stack([rows / 64, (cols > 20).astype(np.float32)]))
    assert model.regression is not None
    model.regression.weight.fill_(0.5)
    path = tmp_path / "terrain.safetensors"
    checkpoint.save(path, model, checkpoint.header_of(config, NORMALIZATION, "ldm"))
    assert not any("terrain" in name for name in load_file(path))
    loaded = checkpoint.load(path).model
    (window,) = loaded.statics_at([(2, 3)], 4, 4).fields
    expected = terrain_features(rows / 64, (cols > 20).astype(np.float32))
    assert window.shape == (3 + FEATURES, 32, 32)
    torch.testing.assert_close(window[3:], torch.from_numpy(expected[:, 16:48, 24:56]), atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(loaded.regression.weight, model.regression.weight)


def test_format_1_estimated_no_fields_beside_those_that_were_given(tiny: dict[str, Path], tmp_path: Path) -> None:
    old = header.read_header(tiny["unet"])
    config = old["config"] | {"statics": {"given": ["z", "lat"], "embedding": 8}}
    normalization = {
        kind: {"mean": values["mean"], "deviation": values["std"]} for kind, values in old["normalization"].items()
    }
    file = altered(
        tiny["unet"], tmp_path / "old.safetensors", {"format": 1, "config": config, "normalization": normalization}
    )
    loaded = checkpoint.load(file)
    assert loaded.config.statics.fields == ("z", "lat") and loaded.config.statics.embedding == 0


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"format": "two"}, "has no header of ldmdown"),
        ({"stage": "vae"}, "stage: Input should be 'unet', 'gan' or 'ldm'"),
        ({"wind": "up"}, "wind: String should match pattern"),
        ({"temporal_correlation": 7}, "temporal_correlation.constrained-float: Input should be less than 1"),
        ({"temporal_correlation": -1.5}, "Input should be greater than or equal to -1"),
        (
            {"normalization": {"predictors": {"mean": {}, "std": {}}}},
            "normalization: Dictionary should have at least 2",
        ),
        ({"normalization": {kind: {"mean": {}, "std": {"t2m": -1}} for kind in NORMALIZATION}}, "greater than 0"),
        ({"normalization": {kind: {"mean": {}, "std": {}} for kind in NORMALIZATION}}, "has no normalisation of"),
        ({"config": {}}, "config.name: Field required"),
        ({"latent_gain": [1.0]}, "has a damaged latent_gain\n  found: 1 numbers\n  expected: 192, one for each"),
        ({"student_gain": [1.0]}, "has a damaged student_gain"),
        ({"temporal_correlation": {"land": [0.5], "sea": [0.1]}}, "has a damaged temporal_correlation\n  found: 1 num"),
        ({"temporal_correlation": {"land": [0.5] * 192}}, "temporal_correlation"),
        ({"temporal_correlation": {"land": [0.5] * 192, "sea": [0.1] * 192}}, "but no land-sea mask"),
        ({"temporal_correlation": [0.5, 0.5]}, "has a damaged temporal_correlation\n  found: 2 numbers"),
        ({"statics_normalization": {"z": {"mean": "high"}}}, "statics_normalization.z.mean: Input should be a valid"),
        (
            {"box_differences": {"lat": [40], "lon": [9, 10], "mean": {"t2m": [[1]]}, "std": {"t2m": [[1]]}}},
            "different",
        ),
        ({"predictor_law": {"tiles": [0]}}, "predictor_law.mean: Field required"),
        ({"config": CONFIG.model_dump(mode="json") | {"grid": {"rows": 1_000_000}}}, "grid.rows"),
        (
            {"config": CONFIG.model_dump(mode="json") | {"grid": {"crs": "x"}}},
            "not a coordinate system that PROJ knows",
        ),
        ({"config": CONFIG.model_dump(mode="json") | {"grid": {"crs": "EPSG:4326"}}}, "must be a projection in metres"),
        ({"config": CONFIG.model_dump(mode="json") | {"grid": {"rows": 16_000, "cols": 16_000}}}, "do not fit"),
    ],
)
def test_damaged_headers(tiny: dict[str, Path], tmp_path: Path, changes: dict, found: str) -> None:
    """A grid of 16,000 x 16,000 cells would take gigabytes, if it were built before shapes are compared."""
    file = altered(tiny["ldm"], tmp_path / "x.safetensors", changes)
    with pytest.raises(LdmdownError) as caught:
        checkpoint.load(file)
    assert found in str(caught.value)


def with_header(source: Path, target: Path, change: Callable[[dict], object]) -> Path:
    """The weights of a checkpoint under a header in which something was changed, its hash left as it was."""
    with safe_open(source, framework="np") as file:
        content = json.loads(file.metadata()[header.KEY])
    change(content)
    save_file(load_file(source), target, {header.KEY: json.dumps(content)})
    return target


@pytest.mark.parametrize("key", ["predictors", "targets", "grid", "sampler"])
def test_every_verb_refuses_a_header_that_lacks_what_it_held(key: str, tiny: dict[str, Path], tmp_path: Path) -> None:
    file = with_header(tiny["ldm"], tmp_path / "x.safetensors", lambda content: content["config"].pop(key))
    verbs: list[Callable[[], object]] = [
        lambda: checkpoint.load(file),
        lambda: card(str(file)),
        lambda: request(str(file), date(2021, 3, 1), date(2021, 3, 1)),
    ]
    for verb in verbs:
        with pytest.raises(LdmdownError, match="is damaged\n  found: another hash"):
            verb()


def test_a_configuration_of_before_a_key_was_known_has_its_default(tiny: dict[str, Path], tmp_path: Path) -> None:
    def older(content: dict) -> None:
        del content["config"]["student"], content["config"]["predictors"], content[header.HASH]

    file = with_header(tiny["ldm"], tmp_path / "x.safetensors", older)
    assert header.read_header(file)["config"] == CONFIG.model_dump(mode="json")
    assert "2m_temperature" in request(str(file), date(2021, 3, 1), date(2021, 3, 1))


def test_a_flipped_bit_in_the_weights_is_found(tiny: dict[str, Path], tmp_path: Path) -> None:
    content = bytearray(tiny["ldm"].read_bytes())
    content[-1000] ^= 1
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(LdmdownError, match="is damaged"):
        checkpoint.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("kind", [torch.int16, torch.bfloat16])
def test_weights_under_another_type(tiny: dict[str, Path], tmp_path: Path, kind: torch.dtype) -> None:
    """The same bytes as other numbers: 46,000 K were written."""
    name = "denoiser.out.2.weight"
    file = altered(tiny["ldm"], tmp_path / "x.safetensors", **{name: load_file(tiny["ldm"])[name].view(kind)})
    with pytest.raises(LdmdownError, match=f"do not fit its configuration\n  found: {name} is {kind}"):
        checkpoint.load(file)


def test_weights_that_are_not_finite(tiny: dict[str, Path], tmp_path: Path) -> None:
    name = "denoiser.out.2.bias"
    file = altered(
        tiny["ldm"], tmp_path / "x.safetensors", **{name: torch.full_like(load_file(tiny["ldm"])[name], np.nan)}
    )
    with pytest.raises(LdmdownError, match=f"found: {name} is not finite"):
        checkpoint.load(file)


def test_loading_imports_no_compiler() -> None:
    """Some operations on the device "meta" import PyTorch's compiler, which takes longer than PyTorch itself."""
    program = "import sys, ldmdown; ldmdown.load('italy'); print({'torch._dynamo', 'sympy'} & {*sys.modules})"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
    )
