"""Measurements at stations: files as they come, and scores by hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ldmdown.data.grid import Grid, SourceGrid
from ldmdown.data.reading.stations import Stations, read_stations
from ldmdown.errors import LdmdownError
from ldmdown.scoring.stations import StationScores
from ldmdown.scoring.terrain import Terrain

GRID = Grid(west=4_700_000, north=2_200_000, rows=16, cols=24)
SOURCE = SourceGrid(GRID.y, GRID.x, GRID.projection)
PLAIN = """name,time,lat,lon,elevation,temperature,wind_speed,wind_direction
here,2021-03-01T00:00+01:00,42.0,15.5,300,10.0,2.0,270
here,2021-03-01T00:00Z,42.0,15.5,300,11.0,4.0,0
there,2021-03-01T00:00Z,42.1,15.6,500,,,
there,2021-03-01T00:30Z,42.1,15.6,500,99.0,1.0,90
"""


def test_a_plain_file(tmp_path: Path) -> None:
    """Offsets are turned to UTC, half hours left out, wind comes from where its direction says."""
    (tmp_path / "plain.csv").write_text(PLAIN)
    stations = read_stations(tmp_path / "plain.csv")
    midnight = 448_488  # 2021-03-01T00
    assert stations.names == ("here", "there") and sorted(stations.values) == [midnight - 1, midnight]
    assert stations.height.tolist() == [300, 500]
    now, before = stations.values[midnight], stations.values[midnight - 1]
    assert now["t2m"][0] == pytest.approx(284.15) and np.isnan(now["t2m"][1])
    assert [before["u10"][0], before["v10"][0]] == pytest.approx([2, 0], abs=1e-12)  # from the west
    assert [now["u10"][0], now["v10"][0]] == pytest.approx([0, -4], abs=1e-12)  # from the north


def test_units_in_the_second_line(tmp_path: Path) -> None:
    head = "date;id;lat;lon;t2m;ff\n[UTC];[];[];[];[K];[km/h]\n2021-03-01 00:00;a;42;15.5;280;36\n"
    (tmp_path / "units.csv").write_text(head)
    stations = read_stations(tmp_path / "units.csv")
    (hour,) = stations.values.values()
    assert (hour["t2m"][0], hour["ws10"][0]) == pytest.approx((280, 10)) and np.isnan(stations.height).all()


HEAD = "date;name;lat;lon;alt;t;wg\n"
ROW = "2022-01-15 09:00;Milano;45.45;9.28;103;{};{}\n"


@pytest.mark.parametrize("gap", ["-999", "-9999.0", "-99.9", "9999", "NA", "M", "", " "])
def test_what_stands_for_missing_values(tmp_path: Path, gap: str) -> None:
    (tmp_path / "gaps.csv").write_text(HEAD + ROW.format(gap, "2.1") + ROW.replace("09:", "10:").format("1.5", gap))
    first, second = read_stations(tmp_path / "gaps.csv").values.values()
    assert np.isnan(first["t2m"][0]) and first["ws10"][0] == 2.1
    assert second["t2m"][0] == pytest.approx(274.65) and np.isnan(second["ws10"][0])


@pytest.mark.parametrize(
    ("text", "hour", "t2m", "ws10"),
    [
        (HEAD + "15/01/2022 09:00;Mälles;45,45;9,28;103;1,0;2,1\n", "2022-01-15T09", 274.15, 2.1),
        (HEAD + "1.2.2022 9:00;Mälles;45.45;9.28;103;1.0;2.1\n", "2022-02-01T09", 274.15, 2.1),
        ("valid,station,lat,lon,tmpf,sknt\n2022-01-15 09:00,LIML,45.45,9.28,50,10\n", "2022-01-15T09", 283.15, 5.1444),
        ("date\tid\tlat\tlon\tt (°C)\tff [km/h]\n2022011509\tx\t45\t9\t1\t36\n", "2022-01-15T09", 274.15, 10),
        ("time,id,lat,lon,t\n01/02/2022 09:00,x,45,9,1\n01/31/2022 09:00,x,45,9,1\n", "2022-01-02T09", 274.15, np.nan),
        ("time,id,lat,lon,t\n2022/01/15 09:00,x,45,9,1\n", "2022-01-15T09", 274.15, np.nan),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_tables_of_other_countries(
    tmp_path: Path, text: str, hour: str, t2m: float, ws10: float, encoding: str
) -> None:
    (tmp_path / "table.csv").write_text(text, encoding=encoding)
    values = read_stations(tmp_path / "table.csv").values[int(np.datetime64(hour, "h").astype(int))]
    assert values["t2m"][0] == pytest.approx(t2m)
    assert values.get("ws10", [np.nan])[0] == pytest.approx(ws10, abs=1e-3, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAIN.replace("lat", "y"), "has no column lat"),
        (PLAIN.replace("temperature", "rain").replace("wind_speed", "gust"), "has no column t2m or ws10"),
        (PLAIN.replace("11.0", "warm"), "has a value that is not a time or not a number"),
        ("time;name;lat;lon;t\n[CET];;;;\n2021-03-01;a;42;15;1\n", "its times are not UTC\n  found: CET"),
        ("time;name;lat;lon;t\n[UTC];;;;[R]\n2021-03-01;a;42;15;1\n", "t2m has units that are not understood"),
        ("time,name,lat,lon,t\n2021-03-01T00:30,a,42,15,1\n", "holds no measurement at a full hour"),
        ("", "cannot be read as CSV"),
        (HEAD + "01/02/2022 09:00;a;45;9;103;1;2\n", "its dates can be read in two ways\n  found: 01/02/2022 09:00"),
        (HEAD + "13/02/2022 09:00;a;45;9;103;1;2\n02/13/2022 09:00;a;45;9;103;1;2\n", "its dates can be read in two"),
        (HEAD + ROW.format("1.0", "-5"), "ws10 is not physical\n  found: -5 at Milano, 2022-01-15T09:00"),
        (HEAD + ROW.format("1.0", "2") + ROW.format("1.5", "2"), "has two different rows of one station and hour\n"),
        (
            HEAD + ROW.format("1.0", "2") + ROW.format("1.0", "2").replace("45.45", "45.55").replace("09:", "10:"),
            "has one name for two places\n  found: Milano, 2022-01-15T10:00",
        ),
        ("\0d\0a", "is not plain text\n  fix: save it as CSV in UTF-8"),
        ("PK\3\4", "is not plain text"),
        (HEAD + ROW.format("1.0", "2").replace("45.45", "145.45"), "lat is not physical\n  found: 145.45 at Milano"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "wrong.csv").write_text(text)
    with pytest.raises(LdmdownError, match=message.replace("[", r"\[")):
        read_stations(tmp_path / "wrong.csv")


def test_the_real_file() -> None:
    folder = os.environ.get("LDMDOWN_TEST_DATA")
    if folder is None:
        pytest.skip("LDMDOWN_TEST_DATA is not set")
    stations = read_stations(Path(folder) / "data" / "stations" / "south_tyrol_20210101.csv")
    assert len(stations.names) == 81 and len(stations.values) == 25
    at = stations.names.index("00390SF")
    hour = stations.values[int(np.datetime64("2021-01-01T23", "h").astype(int))]
    assert hour["t2m"][at] == pytest.approx(273.15 - 8.1) and hour["ws10"][at] == 0
    assert stations.height[at] == 2040 and 46 < stations.lat.min() < stations.lat.max() < 47.2
    everything = np.concatenate([held["t2m"] for held in stations.values.values()])
    assert 240 < np.nanmin(everything) < np.nanmax(everything) < 290
    grid = Grid(west=4_330_000, north=2_680_000, rows=80, cols=112)  # South Tyrol
    scores = StationScores(stations, SourceGrid(grid.y, grid.x, grid.projection), "bilinear", None)
    for hour in stations.values:
        scores.add(hour, {"constant": {"t2m": np.full((1, *grid.shape), 270.0)}})
    found = scores.results().model_dump()["all"]["constant"]["t2m"]
    assert found["count"] == np.isfinite(everything).sum() and scores.hours == 25
    assert found["bias"] == pytest.approx(270 - np.nanmean(everything))


def stations_at(rows: list[int], cols: list[int], heights: list[float], values: dict) -> Stations:
    lat, lon = GRID.lat[rows, cols], GRID.lon[rows, cols]
    return Stations(Path("s.csv"), tuple("abcdef"[: len(rows)]), lat, lon, np.array(heights), values)


def test_scores_by_hand() -> None:
    """Two hours: errors 1 and 3 at the first station; the second misses an hour; the third lies outside."""
    values = {7: {"t2m": np.array([280.0, 280.0, 1.0])}, 8: {"t2m": np.array([282.0, np.nan, 1.0])}}
    stations = stations_at([3, 8, 9], [4, 9, 9], [0, 0, 0], values)
    stations.lat[2] = 30
    scores = StationScores(stations, SOURCE, "nearest", None)
    field = np.full((1, *GRID.shape), 281.0)
    scores.add(7, {"a": {"t2m": field}})
    scores.add(8, {"a": {"t2m": field + 4}})
    scores.add(9, {"a": {"t2m": field}})
    found = scores.results().model_dump()
    here = found["scores"]["a"]["t2m"]
    assert here["count"] == [2, 1] and here["bias"] == [2, 1] and here["mae"] == [2, 1]
    assert here["rmse"] == pytest.approx([5**0.5, 1]) and here["pcc"] == [pytest.approx(1), None]
    assert found["all"]["a"]["t2m"]["rmse"] == pytest.approx((11 / 3) ** 0.5) and found["all"]["a"]["t2m"]["count"] == 3
    assert [place["name"] for place in found["stations"]] == ["a", "b"] and found["hours"] == 2
    assert here["crps"] == here["mae"] and "spread_skill" not in here


def test_ensembles_by_hand() -> None:
    """Members 281 and 285 K, 282 K measured: a fair CRPS of (1 + 3) / 2 - 4 / 2, a variance of 8, a mean off by 1 K."""
    stations = stations_at([3, 8], [4, 9], [0, 0], {7: {"t2m": np.array([282.0, np.nan])}})
    scores = StationScores(stations, SOURCE, "bilinear", None)
    scores.add(7, {"a": {"t2m": np.stack([np.full(GRID.shape, 281.0), np.full(GRID.shape, 285.0)])}})
    found = scores.results()
    for part in (found.all["a"]["t2m"], {name: one[0] for name, one in found.scores["a"]["t2m"].items()}):
        assert part["count"] == 1 and part["bias"] == pytest.approx(-1, rel=1e-4)
        assert part["crps"] == pytest.approx(0, abs=1e-4)
        assert part["spread_skill"] == pytest.approx(12**0.5, rel=1e-4)
    assert np.isnan(found.scores["a"]["t2m"]["crps"][1])


def test_interpolation_and_height() -> None:
    """A field that rises eastwards, between two cells; the station stands 200 m above the interpolated ground."""
    middle = SOURCE.lonlat()
    stations = stations_at([3], [4], [700.0], {0: {"t2m": np.array([280.0])}})
    stations.lat[0], stations.lon[0] = (part[3, 4:6].mean() for part in middle[::-1])
    field = 280 + np.broadcast_to(np.arange(24.0), (1, *GRID.shape))
    terrain = Terrain(np.broadcast_to(400 + 20.0 * np.arange(24), GRID.shape))  # 490 m at the station
    bias = {}
    for how in ("nearest", "bilinear"):
        for ground in (None, terrain):
            scores = StationScores(stations, SOURCE, how, ground)
            scores.add(0, {"a": {"t2m": field}})
            bias[how, ground is not None] = float(scores.results().model_dump()["scores"]["a"]["t2m"]["bias"][0])
    assert bias["bilinear", False] == pytest.approx(4.5, abs=1e-3) and bias["nearest", False] in (4, 5)
    assert bias["bilinear", True] == pytest.approx(4.5 - 0.0065 * 210, abs=1e-3)


def test_rows_that_are_repeated_count_once(tmp_path: Path) -> None:
    (tmp_path / "again.csv").write_text(HEAD + 2 * ROW.format("1.0", "2"))
    assert read_stations(tmp_path / "again.csv").names == ("Milano",)


def test_no_station_inside() -> None:
    stations = stations_at([3], [4], [np.nan], {0: {"t2m": np.array([280.0])}})
    with pytest.raises(LdmdownError, match="has no station in the area of the scores, with its height"):
        StationScores(stations, SOURCE, "bilinear", Terrain(np.zeros(GRID.shape)))
