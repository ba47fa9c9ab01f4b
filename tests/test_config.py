from __future__ import annotations

from pathlib import Path

import pytest
from conftest import CONFIG

from ldmdown.config import BUNDLED, Config, load_config, parse_config
from ldmdown.errors import LdmdownError

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))
DATA = "data: {split: {train: [[2020-01-01, 2020-01-02]], validation: [[2020-01-05, 2020-01-05]]}}\n"


@pytest.mark.parametrize("path", [BUNDLED, *EXAMPLES], ids=lambda path: path.name)
def test_the_examples_are_understood(path: Path) -> None:
    config = parse_config(path)
    assert config.description and config.data.split.train


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
        "  fix: mend these keys"
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
