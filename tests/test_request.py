"""The script for the Climate Data Store."""

from __future__ import annotations

import sys
import types
from datetime import date

import numpy as np
import pytest

from ldmdown.commands.request import cds_script, request
from ldmdown.data.grid import Grid, SourceGrid

ITALY = Grid()


def requests_of(script: str, package: str) -> list[tuple]:
    """Run a program against a client that only listens."""
    heard: list[tuple] = []
    module = types.ModuleType(package)
    module.Client = type("Client", (), {"retrieve": lambda self, *call: heard.append(call)})  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, package, module)
        exec(script, {})
    return heard


def test_a_request_to_the_cds() -> None:
    """Months, days, levels and an area that covers the domain."""
    names = ("t2m", "tp", "t850", "q850", "cossza")
    heard = requests_of(cds_script(names, ITALY, date(2020, 1, 30), date(2020, 2, 29)), "cdsapi")
    assert [name for _, _, name in heard] == [
        "era5_single_202001.nc", "era5_pressure_202001.nc", "era5_single_202002.nc", "era5_pressure_202002.nc",
    ]  # fmt: skip
    single, pressure = heard[0][1], heard[1][1]
    assert single["variable"] == ["2m_temperature", "total_precipitation"] and single["day"] == ["30", "31"]
    assert pressure["variable"] == ["temperature", "specific_humidity"] and pressure["pressure_level"] == ["850"]
    assert len(heard[2][1]["day"]) == 29 and len(single["time"]) == 24
    north, west, south, east = single["area"]
    box = SourceGrid(np.arange(north, south - 0.1, -0.25), np.arange(west, east + 0.1, 0.25))
    assert box.covers(ITALY.coarse.lat, ITALY.coarse.lon).all()


def test_a_request_for_the_reference_of_the_same_days() -> None:
    heard = requests_of(request("italy", date(2019, 12, 31), date(2020, 1, 1), reference=True), "ddsapi")
    assert [call[0:2] + call[3:] for call in heard] == [
        ("era5-downscaled-over-italy", "hourly", "VHR-REA_IT_201912.nc"),
        ("era5-downscaled-over-italy", "hourly", "VHR-REA_IT_202001.nc"),
    ]
    asked = heard[0][2]
    assert asked["variable"] == ["air_temperature", "grid_eastward_wind", "grid_northward_wind"]
    hours = asked["time"].pop("hour")
    assert asked["time"] == {"year": ["2019"], "month": ["12"], "day": ["31"]} and hours[::23] == ["00", "23"]
    area = asked["area"]
    assert area["south"] < ITALY.lat.min() and ITALY.lat.max() < area["north"]
    assert area["west"] < ITALY.lon.min() and ITALY.lon.max() < area["east"]
