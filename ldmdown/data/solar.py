"""Where the sun stands."""

from __future__ import annotations

import numpy as np

from ldmdown.typing import FloatArray

LAGS = {"cossza": 0, "cossza_2h": 2}  # hours that these variables look back; together they tell morning from evening


def cos_zenith(hour: float | FloatArray, lat: FloatArray, lon: FloatArray) -> FloatArray:
    """Cosine of the solar zenith angle at an hour since 1970-01-01T00 UTC; negative at night.

    Declination and equation of time of Spencer (1971); within 0.01 of an almanac.
    """
    day = np.asarray(hour) / 24
    date = day.astype("datetime64[D]") if np.ndim(day) else np.datetime64(int(np.floor(day)), "D")
    start = date.astype("datetime64[Y]").astype("datetime64[D]")
    angle = 2 * np.pi * ((date - start).astype(float) + day % 1 - 0.5) / 365.25
    declination = (
        0.006918
        - 0.399912 * np.cos(angle)
        + 0.070257 * np.sin(angle)
        - 0.006758 * np.cos(2 * angle)
        + 0.000907 * np.sin(2 * angle)
        - 0.002697 * np.cos(3 * angle)
        + 0.00148 * np.sin(3 * angle)
    )
    equation_of_time = 229.18 * (  # [minutes]
        0.000075
        + 0.001868 * np.cos(angle)
        - 0.032077 * np.sin(angle)
        - 0.014615 * np.cos(2 * angle)
        - 0.040849 * np.sin(2 * angle)
    )
    hour_angle = 2 * np.pi * (day % 1 - 0.5 + lon / 360 + equation_of_time / 1440)
    latitude = np.radians(lat)
    return np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(hour_angle)
