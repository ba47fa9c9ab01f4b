from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import CONFIG
from pydantic import ValidationError

from ldmdown.config import BUNDLED, Config, load_config, parse_config, upgrade
from ldmdown.errors import LdmdownError

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))
DATA = "data: {split: {train: [[2020-01-01, 2020-01-02]], validation: [[2020-01-05, 2020-01-05]]}}\n"


@pytest.mark.parametrize("path", [BUNDLED, *EXAMPLES], ids=lambda path: path.name)
def test_the_examples_are_understood(path: Path) -> None:
    config = parse_config(path)
    assert config.description and all(pair.split.train for pair in config.data.pairs)


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "ldmdown.yaml"
    path.write_text(text)
    with pytest.raises(LdmdownError) as caught:
        parse_config(path)
    return str(caught.value).replace(str(path), "ldmdown.yaml")


def test_a_misspelt_key_is_answered_with_the_right_one(tmp_path: Path) -> None:
    assert refused(tmp_path, f"name: x\n{DATA}denoiser: {{chanels: 96}}\nunets: {{}}\n") == (
        "ldmdown.yaml: denoiser.chanels: unknown key, did you mean channels?\n"
        "  unets: unknown key, did you mean unet?\n"
        "  fix: correct these keys"
    )


def test_a_day_in_two_splits_is_refused(tmp_path: Path) -> None:
    text = "name: x\ndata: {split: {train: [[2020-01-01, 2020-01-05]], validation: [[2020-01-05, 2020-01-06]]}}\n"
    assert "validation from 2020-01-05 overlaps train to 2020-01-05" in refused(tmp_path, text)


def test_a_period_that_ends_before_it_begins(tmp_path: Path) -> None:
    text = "name: x\ndata: {split: {train: [[2020-01-05, 2020-01-01]], validation: []}}\n"
    assert "train: 2020-01-01 is before 2020-01-05" in refused(tmp_path, text)


def test_a_grid_that_the_factor_does_not_divide(tmp_path: Path) -> None:
    assert "multiples of factor (8)" in refused(tmp_path, f"name: x\n{DATA}grid: {{rows: 100}}\n")


def test_what_is_no_yaml(tmp_path: Path) -> None:
    assert refused(tmp_path, "name: [").startswith("ldmdown.yaml: is not readable as YAML\n  found: ")
    with pytest.raises(LdmdownError, match="no such configuration"):
        parse_config(tmp_path / "none.yaml")


def test_without_any_file_it_is_the_bundled_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, folder = load_config(None)
    assert config.name == "twin" and folder == Path()
    (tmp_path / "ldmdown.yaml").write_text(f"name: mine\n{DATA}")
    assert load_config(None)[0].name == "mine"


def test_a_checkpoint_carries_a_configuration_through_json() -> None:
    assert Config.model_validate(CONFIG.model_dump(mode="json")) == CONFIG


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        CONFIG.name = "other"


def test_whole_years_with_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "years.yaml"
    text = "name: x\ndata: {split: {train: [[2000, 2010], [2013, 2013]], validation: [[2012-01-01, 2012-12-30]]%s}}\n"
    path.write_text(text % "")
    split = parse_config(path).data.split
    assert [f"{day}" for day in split.train[0]] == ["2000-01-01", "2010-12-31"] and split.gap == 1
    assert "train from 2013-01-01 leaves no gap of 2 days after validation to 2012-12-30" in refused(
        tmp_path, text % ", gap: 2"
    )
    adjacent = "name: x\ndata: {split: {train: [[2000, 2010], [2011, 2011]], validation: [[2012, 2012]]}}\n"
    assert "validation from 2012-01-01 leaves no gap of 1 days after train to 2011-12-31" in refused(tmp_path, adjacent)


def test_one_file_or_many(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(f"name: x\n{DATA[:-2]}, era5: a.nc, statics: {{terrain: [b.tif, c.tif], land_cover: d.tif}}}}\n")
    data = parse_config(path).data
    assert (
        data.era5 == ("a.nc",) and data.statics.terrain == ("b.tif", "c.tif") and data.statics.land_cover == ("d.tif",)
    )


def test_a_section_that_names_some_keys_keeps_its_other_defaults(tmp_path: Path) -> None:
    path = tmp_path / "partial.yaml"
    path.write_text(
        f"name: x\n{DATA}gan: {{}}\n"
        "scale: {conditioner: {depth: 2}}\n"
        "train: {gan: {steps: 600, learning_rate: 0.002, batch: 8}, unet: {steps: 100}}\n"
    )
    config = parse_config(path)
    gan, unet, conditioner = config.train.gan, config.train.unet, config.scale.conditioner
    assert (gan.steps, gan.learning_rate, gan.batch, gan.betas, gan.ema) == (600, 0.002, 8, (0.5, 0.9), (0.99,))
    assert (unet.steps, unet.learning_rate, unet.batch, unet.ema) == (100, 1e-3, 16, (0.99, 0.998))
    assert (conditioner.depth, conditioner.statics_dim, conditioner.out_dim) == (2, 48, 64)
    path.write_text(f"name: x\n{DATA}scale: null\n")
    assert parse_config(path).scale is None


def test_the_gan_of_the_systems_has_the_betas_of_its_stage() -> None:
    assert parse_config(EXAMPLES[0].with_name("systems.yaml")).train.gan.betas == (0.5, 0.9)


def test_a_preset_is_a_bundled_name_or_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "below.yaml").write_text(f"name: below\n{DATA}train: {{unet: {{steps: 7, batch: 3}}}}\n")
    (tmp_path / "above.yaml").write_text("preset: below.yaml\nname: above\ntrain: {unet: {batch: 4}}\n")
    config = parse_config(tmp_path / "above.yaml")
    assert (config.name, config.train.unet.steps, config.train.unet.batch) == ("above", 7, 4)
    text = "the preset does not exist\n  found: papr\n  expected: paper-t2m, paper-uv, twin, or a YAML file"
    assert text in refused(tmp_path, "preset: papr")
    assert "is a preset of itself" in refused(tmp_path, "preset: ldmdown.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("statics: {given: [z]}", "statics.given: is called fields since version 0.2"),
        ("unet: {baseline: zero}", "unet.baseline: is called skip since version 0.2"),
        ("train: {start: italy}", "train.start: is called init_from since version 0.2"),
        ("train: {ldm: {rate: 0.1}}", "train.ldm.rate: is called learning_rate since version 0.2"),
        ("train: {vae: {clip: 1}}", "train.vae.clip: is called grad_clip since version 0.2"),
    ],
)
def test_a_key_of_version_0_1(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(tmp_path, f"name: x\n{DATA}{text}\n")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("train: {ldm: {learning_rate: 0}}", "train.ldm.learning_rate"),
        ("train: {ldm: {learning_rate: .nan}}", "train.ldm.learning_rate"),
        ("train: {unet: {batch: 0}}", "train.unet.batch"),
        ("train: {unet: {ema: 1}}", "train.unet.ema.0"),
        ("train: {unet: {grad_clip: 0}}", "train.unet.grad_clip"),
        ("train: {unet: {warmup: 1.1}}", "train.unet.warmup"),
        ("train: {unet: {patience: 0}}", "train.unet.patience"),
        ("train: {unet: {betas: [0.9, 1]}}", "train.unet.betas.1"),
        ("grid: {rows: -8}", "grid.rows"),
        ("unet: {features: []}", "unet.features"),
    ],
)
def test_numbers_have_bounds(tmp_path: Path, text: str, key: str) -> None:
    assert f"ldmdown.yaml: {key}: " in refused(tmp_path, f"name: x\n{DATA}{text}\n")


@pytest.mark.parametrize("text", ["name: 2021-02-30", "name: !!int foo", "a: " * 3000])
def test_yaml_that_python_cannot_make_values_of(tmp_path: Path, text: str) -> None:
    assert "is not readable as YAML" in refused(tmp_path, text)


def test_a_configuration_of_version_0_1_in_a_checkpoint() -> None:
    old = {"statics": {"given": ["z"]}, "unet": {"baseline": "zero"}, "gan": {"start": 0.5},
           "train": {"start": None, "seed": 3, "ldm": {"rate": 0.1, "clip": 2.0, "steps": 5}}}  # fmt: skip
    assert upgrade(old) == {
        "statics": {"fields": ["z"]},
        "unet": {"skip": "zero"},
        "gan": {"start": 0.5},
        "train": {"init_from": None, "seed": 3, "ldm": {"learning_rate": 0.1, "grad_clip": 2.0, "steps": 5}},
    }


def test_features_of_the_terrain_need_the_terrain() -> None:
    content = parse_config(BUNDLED).model_dump() | {"statics": {"fields": ["z"], "terrain_features": True}}
    with pytest.raises(ValidationError, match="made from z and land_sea_mask: add both to statics.fields"):
        Config.model_validate(content)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("name: a\nname: b\n", "name is given twice"),
        ("name: ../../evil\n", "name: String should match pattern"),
        ("grid: {rows: 1000000}\n", "grid.rows: Input should be less than or equal to 20000"),
        ("train: {unet: {batch: 0}}\n", "train.unet.batch: Input should be greater than 0"),
        ("train: {unet: {batch: 1000000000}}\n", "train.unet.batch: Input should be less than"),
        ("train: {unet: {ema: 2}}\n", "train.unet.ema.0: Input should be less than 1"),
        ("train: {unet: {grad_clip: -1}}\n", "train.unet.grad_clip: Input should be greater than 0"),
        ("train: {unet: {patience: -1}}\n", "train.unet.patience: Input should be greater than 0"),
        ("train: {unet: {learning_rate: .nan}}\n", "train.unet.learning_rate: Input should be a finite number"),
        ("unet: {features: [100000]}\n", "unet.features.0: Input should be less than or equal to 8192"),
        ("name: !!int foo\n", "is not readable as YAML"),
        ("data: {split: {train: [[2021-02-30, 2021-03-01]]}}\n", "is not readable as YAML"),
        ("[" * 3000, "is not readable as YAML"),
        ("name: M\xe4lles\n", "is not readable as YAML"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, text: str, wrong: str) -> None:
    (tmp_path / "a.yaml").write_text(text, encoding="latin-1")
    with pytest.raises(LdmdownError) as caught:
        parse_config(tmp_path / "a.yaml")
    assert wrong in str(caught.value)


def test_a_folder_or_a_pipe_is_no_configuration(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path, tmp_path / "pipe.yaml"):
        with pytest.raises(LdmdownError, match="no such configuration"):
            parse_config(path)
