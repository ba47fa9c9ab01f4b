"""Every variable that the tool knows: names, units, bounds and rules, in one table."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from ldmdown.errors import LdmdownError


@dataclass(frozen=True)
class Variable:
    """One physical quantity, named as ECMWF's short name (with the pressure level, as in t850).

    `cds` is the name in requests to the Climate Data Store, `param` the number in GRIB 1. `bounds` are physical limits
    in `units`; `fill` replaces missing values after normalisation; `accumulated` values are sums over the hour that
    ends at the valid time; `static` ones are the same at all hours; `derived` ones are computed, never read.
    """

    name: str
    long_name: str
    units: str
    bounds: tuple[float, float]
    standard_name: str | None = None
    aliases: tuple[str, ...] = ()
    level: int | None = None  # [hPa]
    height: float | None = None  # [m]
    cds: str | None = None
    param: int | None = None
    accumulated: bool = False
    static: bool = False
    derived: bool = False
    fill: float | None = None
    regridding: Literal["bilinear", "conservative"] = "bilinear"

    @property
    def names(self) -> tuple[str, ...]:
        """What files may call it."""
        by_param = [f"var{self.param}"] if self.param else []  # CDO's, where it does not know the name
        height, _, what = (self.cds or "").partition("_")
        by_height = [f"{what}_{height}"] if height in ("2m", "10m") else []  # Earth Engine's
        return (self.name, *self.aliases, *([self.cds] if self.cds else []), *by_param, *by_height)


WINDS = ("u10", "v10")


_TABLE = (
    Variable(
        "t2m",
        "2 metre temperature",
        "K",
        (180, 340),
        "air_temperature",
        aliases=("2t", "T_2M", "tas", "2mT", "T2M", "air_temperature_at_2_metres", "TMP_2maboveground"),
        height=2,
        cds="2m_temperature",
        param=167,
    ),
    Variable(
        "u10",
        "10 metre U wind component",
        "m s-1",
        (-100, 100),
        "eastward_wind",
        aliases=("10u", "U_10M", "uas", "U10", "U10M", "eastward_wind_at_10_metres", "UGRD_10maboveground"),
        height=10,
        cds="10m_u_component_of_wind",
        param=165,
    ),
    Variable(
        "v10",
        "10 metre V wind component",
        "m s-1",
        (-100, 100),
        "northward_wind",
        aliases=("10v", "V_10M", "vas", "V10", "V10M", "northward_wind_at_10_metres", "VGRD_10maboveground"),
        height=10,
        cds="10m_v_component_of_wind",
        param=166,
    ),
    Variable("ws10", "10 metre wind speed", "m s-1", (0, 140), "wind_speed", height=10, derived=True),
    Variable(
        "d2m",
        "2 metre dewpoint temperature",
        "K",
        (150, 330),
        "dew_point_temperature",
        aliases=("2d", "TD_2M", "dp2mT", "dew_point_temperature_at_2_metres", "DPT_2maboveground"),
        height=2,
        cds="2m_dewpoint_temperature",
        param=168,
    ),
    Variable(
        "msl",
        "Mean sea level pressure",
        "Pa",
        (85000, 110000),
        "air_pressure_at_mean_sea_level",
        aliases=("prmsl", "PMSL", "psl", "pmsl", "air_pressure_at_mean_sea_level", "PRMSL_meansealevel"),
        cds="mean_sea_level_pressure",
        param=151,
    ),
    Variable(
        "sst",
        "Sea surface temperature",
        "K",
        (250, 320),
        "sea_surface_temperature",
        aliases=("SST", "tos"),
        fill=-10,
        cds="sea_surface_temperature",
        param=34,
    ),
    Variable(
        "sd",
        "Snow depth",
        "m",
        (0, 20),
        "lwe_thickness_of_surface_snow_amount",
        aliases=("SNDPT", "sdwe", "snw"),
        cds="snow_depth",
        param=141,
    ),
    Variable(
        "tp",
        "Total precipitation",
        "m",
        (-1e-5, 0.25),
        aliases=("TOT_PREC", "TP", "pr", "mtpr", "avg_tprate"),
        accumulated=True,
        regridding="conservative",
        cds="total_precipitation",
        param=228,
    ),
    Variable(
        "ssrd",
        "Surface short-wave radiation downwards",
        "J m-2",
        (-1e4, 6e6),
        "integral_wrt_time_of_surface_downwelling_shortwave_flux_in_air",
        aliases=("SSRadIn", "rsds", "sdswrf", "msdwswrf", "avg_sdswrf"),
        accumulated=True,
        cds="surface_solar_radiation_downwards",
        param=169,
    ),
    Variable(
        "q850",
        "Specific humidity at 850 hPa",
        "kg kg-1",
        (-1e-3, 0.05),
        "specific_humidity",
        aliases=("q", "Q850", "hus"),
        level=850,
        cds="specific_humidity",
        param=133,
    ),
    Variable(
        "t850",
        "Temperature at 850 hPa",
        "K",
        (180, 340),
        "air_temperature",
        aliases=("t", "T850", "ta"),
        level=850,
        cds="temperature",
        param=130,
    ),
    Variable(
        "u850",
        "U component of wind at 850 hPa",
        "m s-1",
        (-150, 150),
        "eastward_wind",
        aliases=("u", "U850", "ua"),
        level=850,
        cds="u_component_of_wind",
        param=131,
    ),
    Variable(
        "v850",
        "V component of wind at 850 hPa",
        "m s-1",
        (-150, 150),
        "northward_wind",
        aliases=("v", "V850", "va"),
        level=850,
        cds="v_component_of_wind",
        param=132,
    ),
    Variable(
        "w850",
        "Vertical velocity at 850 hPa",
        "Pa s-1",
        (-50, 50),
        "lagrangian_tendency_of_air_pressure",
        aliases=("w", "W850", "wap"),
        level=850,
        cds="vertical_velocity",
        param=135,
    ),
    Variable(
        "z",
        "Geopotential of the surface",
        "m2 s-2",
        (-5000, 90000),
        "surface_geopotential",
        aliases=("geopotential_at_surface", "orog", "orography", "height", "HSURF"),
        static=True,
        cds="geopotential",
        param=129,
    ),
    Variable(
        "lsm",
        "Land-sea mask",
        "1",
        (-1e-3, 1.001),
        "land_binary_mask",
        aliases=("land", "sftlf", "FR_LAND"),
        static=True,
        cds="land_sea_mask",
        param=172,
    ),
    Variable("cossza", "Cosine of the solar zenith angle", "1", (-1, 1), derived=True),
    Variable("cossza_2h", "Cosine of the solar zenith angle two hours before", "1", (-1, 1), derived=True),
)
VARIABLES = {variable.name: variable for variable in _TABLE}


def variable(name: str) -> Variable:
    """Look up a variable by its short name. Raises LdmdownError if there is none, with the nearest name."""
    if name in VARIABLES:
        return VARIABLES[name]
    near = difflib.get_close_matches(name, VARIABLES, n=1)
    raise LdmdownError(
        name,
        "is not a variable that ldmdown knows",
        expected=", ".join(VARIABLES),
        fix=f"did you mean {near[0]}?" if near else None,
    )


def variable_called(name: str) -> str:
    """The short name of the variable that has this name or alias; the name itself if none has."""
    return next((known.name for known in VARIABLES.values() if name in known.names), name)


def attributes(name: str, *, earth_relative: bool = True) -> dict[str, str]:
    """CF attributes of an output field; a wind component not known to be `earth_relative` claims no direction."""
    known = variable(name)
    standard = {"standard_name": known.standard_name} if known.standard_name else {}
    if not earth_relative and known.standard_name in ("eastward_wind", "northward_wind"):
        standard = {"comment": "it is not known whether this points along a parallel or along a rotated grid"}
    method = "time: sum" if known.accumulated else "time: point"
    scale = {"units_metadata": "temperature: on_scale"} if known.units == "K" else {}
    return {**standard, "long_name": known.long_name, "units": known.units, **scale, "cell_methods": method}
