"""The script for the Climate Data Store."""

from __future__ import annotations

import sys
import types
from datetime import date

import numpy as np
import pytest

from ldmdown.commands.request import cds_script
from ldmdown.data.grid import Grid, SourceGrid

ITALY = Grid()


def test_a_request_to_the_cds() -> None:
    """Run as a program against a client that only listens: months, days, levels and an area that covers the domain."""
    names = ("t2m", "tp", "t850", "q850", "cossza")
    heard: list[tuple[str, dict[str, list], str]] = []
    client = type("Client", (), {"retrieve": lambda self, *call: heard.append(call)})
    module = types.ModuleType("cdsapi")
    module.Client = client  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cdsapi", module)
        exec(cds_script(names, ITALY, date(2020, 1, 30), date(2020, 2, 29)), {})
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
