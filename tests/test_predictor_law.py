"""The law of predictors: distances of draws whose law is known, seasons that do not count, tiles that are missing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ldmdown.data.predictor_law import NAMES, SILENT, PredictorLaw, covered_tiles, predictor_law, tile_features

RANDOM = np.random.default_rng(0)
HOURS = 438_000 + np.arange(0, 24 * 360, 4)


def draws(hours: np.ndarray, seed: int) -> np.ndarray:
    """Seven features of six tiles, 2 units wide, all alike in a season that is 10 units wide."""
    season = 10 * np.cos(2 * np.pi * hours / (24 * 365.2425))
    return season[:, None, None] + 2 * np.random.default_rng(seed).normal(size=(len(hours), 6, 7))


@pytest.fixture(scope="module")
def law() -> PredictorLaw:
    return PredictorLaw.fit(range(6), HOURS, draws(HOURS, 0))


def test_scores_are_in_stds_about_the_season(law: PredictorLaw) -> None:
    scores = law.scores(HOURS, draws(HOURS, 1))
    assert scores.std() == pytest.approx(1, abs=0.03) and np.abs(scores.mean(axis=0)).max() < 0.2


def test_few_hours_of_the_same_law_are_over_the_limit_and_those_of_another_are(law: PredictorLaw) -> None:
    new = draws(HOURS, 2)
    assert (law.distances(law.scores(HOURS, new)) > 1).mean() < 0.005
    assert (law.distances(law.scores(HOURS, new + 6)) > 1).all()  # 3 stds in each feature
    half_a_year_later = law.scores(HOURS + 24 * 182, new)
    assert (law.distances(half_a_year_later)[:200] > 1).all()  # 10 stds off in winter


def test_means_are_told_apart_from_energies(law: PredictorLaw) -> None:
    """Two stds more in all means are two stds of means that go their own ways, whatever the energies do."""
    usual = np.zeros((1, 6, 7))
    means, energies = usual.copy(), usual.copy()
    means[..., :3], energies[..., 3:] = 2, 2
    assert law.mean_distances(means) == pytest.approx(2, abs=0.15)
    assert law.mean_distances(energies) == 0 and law.distances(energies) > 0


def test_features_that_go_together_are_far_when_they_part() -> None:
    """Two tiles whose features are equal but for a hundredth: 2 stds apart is unusual, 2 stds together is not."""
    both = RANDOM.normal(size=(len(HOURS), 1, 7)) + 0.01 * RANDOM.normal(size=(len(HOURS), 2, 7))
    law = PredictorLaw.fit((0, 1), HOURS, both)
    together, apart = np.full((1, 2, 7), 1.5), np.full((1, 2, 7), 1.5) * np.array([1, -1])[:, None]
    near, far = (law.distances(one)[0] for one in (together, apart))
    assert near < 1 < far


def test_a_tile_that_is_not_covered_is_left_out(law: PredictorLaw) -> None:
    new = draws(HOURS, 3)
    part, alone = new.copy(), PredictorLaw.fit(range(5), HOURS, draws(HOURS, 0)[:, :5])
    part[:, 5] = np.nan
    ours = law.distances(law.scores(HOURS, part)) * law.limits[4]
    theirs = alone.distances(alone.scores(HOURS, new[:, :5])) * alone.limits[4]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert not law.distances(np.full((3, 6, 7), np.nan)).size


def test_it_is_kept_as_json_and_says_what_is_far(law: PredictorLaw) -> None:
    again = PredictorLaw.of(law.as_json())
    new = draws(HOURS[:5], 4)
    new[0, 4, 0] += 20
    new[0, 1, 4] -= 2 * 2 * np.log(10)
    np.testing.assert_allclose(
        again.distances(again.scores(HOURS[:5], new)), law.distances(law.scores(HOURS[:5], new)), rtol=1e-3
    )
    said = law.farthest(law.scores(HOURS[:5], new)[0]).split("; ")
    assert said[0].startswith("mean t2m is +") and said[0].split(" in the ")[1].startswith("south west (")
    assert said[1].startswith("wind at scales of up to 3 coarse cells varies 0.")
    assert " times what is usual in the north east (" in said[1]


def test_features_by_hand() -> None:
    """Flat fields have their values as means and no energy; a chessboard of +-1 has (8/9)^2: the mean of 9 is 1/9."""
    fields = np.stack([np.full((12, 12), value) for value in (280.0, 3.0, -4.0)])
    np.testing.assert_allclose(tile_features(fields), [[280, 3, -4, *[np.log(SILENT)] * 4]] * 6)
    fields[0] += np.where(np.add.outer(np.arange(12), np.arange(12)) % 2, 1, -1)
    inner = tile_features(np.tile(fields, (1, 10, 10)))
    assert inner[0, 3] == pytest.approx(2 * np.log(8 / 9), abs=0.05)  # edges have more
    fields[:, 0, 0] = np.nan
    assert np.isfinite(tile_features(fields)).all(axis=1).tolist() == [False, *[True] * 5]
    assert covered_tiles(np.isfinite(fields[0])).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("days", [4, 6])
def test_the_law_of_an_archive(days: int) -> None:
    """Of the source that covers more of the domain; of four days there is none."""
    hours = np.tile(438_000 + np.arange(24 * days), 2)
    valid = np.ones((12, 12), bool)
    partial = valid & (np.arange(12) < 6)
    archive = SimpleNamespace(
        predictors=("cossza", *NAMES),
        sources=[SimpleNamespace(valid=partial), SimpleNamespace(valid=valid)],
        source=np.repeat([0, 1], 24 * days),
        hours=hours,
        split=lambda use: np.arange(48 * days),
        load_predictors=lambda indices: np.random.default_rng(indices[0]).normal(size=(len(indices), 4, 12, 12)),
    )
    law = predictor_law(archive)
    assert (law == {}) == (days == 4)
    if law:
        assert law["tiles"] == (0, 1, 2, 3, 4, 5) and len(law["mean"]) == 42 and len(law["limits"]) == 6
