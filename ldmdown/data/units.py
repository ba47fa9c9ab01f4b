"""Units as files spell them, and what turns them into those of data/variables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ldmdown.errors import LdmdownError
from ldmdown.typing import FloatArray

SPELLINGS = {
    **dict.fromkeys(("kelvin", "degk", "k"), "K"),
    **dict.fromkeys(
        ("c", "celsius", "degc", "deg_c", "°c", "degreec", "degree_c", "degree_celsius", "degrees_celsius"), "degC"
    ),
    **dict.fromkeys(("degf", "f", "°f", "deg_f", "fahrenheit", "degree_fahrenheit", "degrees_fahrenheit"), "degF"),
    **dict.fromkeys(("pascal", "pascals"), "Pa"),
    **dict.fromkeys(("mbar", "mb", "millibar", "millibars", "hpa"), "hPa"),
    **dict.fromkeys(("meter", "meters", "metre", "metres", "gpm"), "m"),
    **dict.fromkeys(("millimeter", "millimeters", "millimetre", "millimetres"), "mm"),
    **dict.fromkeys(("second", "seconds", "sec"), "s"),
    **dict.fromkeys(("hour", "hours", "hr"), "h"),
    **dict.fromkeys(("knots", "kt", "kts", "kn"), "knot"),
    **dict.fromkeys(("joule", "joules"), "J"),
    **dict.fromkeys(("watt", "watts"), "W"),
    **dict.fromkeys(("percent",), "%"),
    **dict.fromkeys(("degree", "degrees", "deg", "°"), "degree"),
}
DIMENSIONLESS = ("", "1", "(0 - 1)", "(0-1)", "dimensionless", "fraction", "none", "-", "~", "proportion")
GRAVITY = 9.80665  # [m s-2]
HOUR = 3600  # [s]
CONVERSIONS: dict[tuple[str, str], tuple[float, float]] = {  # (found, wanted): factor, offset
    ("degC", "K"): (1, 273.15),
    ("degF", "K"): (5 / 9, 459.67 * 5 / 9),
    ("hPa", "Pa"): (100, 0),
    ("kPa", "Pa"): (1000, 0),
    ("hPa s-1", "Pa s-1"): (100, 0),
    ("knot", "m s-1"): (1852 / HOUR, 0),
    ("km h-1", "m s-1"): (1 / 3.6, 0),
    ("cm s-1", "m s-1"): (1e-2, 0),
    ("mph", "m s-1"): (0.44704, 0),
    ("mm", "m"): (1e-3, 0),
    ("cm", "m"): (1e-2, 0),
    ("kg m-2", "m"): (1e-3, 0),
    ("g kg-1", "kg kg-1"): (1e-3, 0),
    ("1", "kg kg-1"): (1, 0),
    ("kJ m-2", "J m-2"): (1e3, 0),
    ("MJ m-2", "J m-2"): (1e6, 0),
    ("W h m-2", "J m-2"): (HOUR, 0),
    ("%", "1"): (1e-2, 0),
    ("m", "m2 s-2"): (GRAVITY, 0),
    ("m2 s-2", "m"): (1 / GRAVITY, 0),
    ("km", "m"): (1e3, 0),
}
RATES: dict[tuple[str, str], float] = {  # (found, wanted): factor to the sum of an hour
    ("W m-2", "J m-2"): HOUR,
    ("J m-2 s-1", "J m-2"): HOUR,
    ("kg m-2 s-1", "m"): HOUR * 1e-3,
    ("mm s-1", "m"): HOUR * 1e-3,
    ("m s-1", "m"): HOUR,
    ("mm h-1", "m"): 1e-3,
    ("kg m-2 h-1", "m"): 1e-3,
    ("m h-1", "m"): 1,
}


def canonical(text: str) -> str:
    """Units in the form of data/variables, such as m s-1 for m/s, m s**-1 or metres second^-1.

    Those with a number in front, such as 0.1 m/s, stay as they are.
    """
    text = text.strip().removesuffix(" of water equivalent")
    if text.lower() in DIMENSIONLESS:
        return "1"
    if text.lower().replace(" ", "_") in SPELLINGS:
        return SPELLINGS[text.lower().replace(" ", "_")]
    if re.match(r"[-+.]?\d", text):
        return text
    powers: list[tuple[str, int]] = []
    sign = 1
    for token in re.findall(r"/|[^\W\d]+|%|[-+]?\d+", text.replace("_", " ")):
        if token == "/":
            sign = -1
        elif not re.fullmatch(r"[-+]?\d+", token):
            powers.append((SPELLINGS.get(token.lower(), token), sign))
        elif powers:
            powers[-1] = (powers[-1][0], sign * int(token))
    return " ".join(name if power == 1 else f"{name}{power}" for name, power in powers)


@dataclass(frozen=True)
class Conversion:
    """A linear conversion of values into the units wanted; those of a rate become the sum of an hour."""

    factor: float = 1
    offset: float = 0
    rate: bool = False

    def __call__(self, values: FloatArray) -> FloatArray:
        """The values, converted."""
        return values if (self.factor, self.offset) == (1, 0) else values * self.factor + self.offset


def conversion(found: str, wanted: str) -> Conversion | None:
    """The conversion from canonical units to others; None if it is not known."""
    if found == wanted:
        return Conversion()
    if (found, wanted) in RATES:
        return Conversion(RATES[found, wanted], rate=True)
    if (found, wanted) in CONVERSIONS:
        return Conversion(*CONVERSIONS[found, wanted])
    return None


def require_conversion(
    label: str | Path, what: str, units: str, wanted: str, *, rates: bool = False, expected: str | None = None
) -> Conversion:
    """The conversion of `what` in a file from units as it spells them; those of a rate only where `rates` serve.

    Raises LdmdownError if it is not known.
    """
    found = conversion(canonical(units), wanted)
    if found is None or (found.rate and not rates):
        raise LdmdownError(
            label,
            f"{what} has units that are not understood",
            found=units,
            expected=expected or wanted,
            fix="correct its units",
        )
    return found


def likely(low: float, high: float, wanted: str, bounds: tuple[float, float]) -> str | None:
    """Guess the units in which values from `low` to `high` would be physical, within `bounds` of the wanted units."""
    for (found, to), (factor, offset) in CONVERSIONS.items():
        if to == wanted and bounds[0] <= low * factor + offset and high * factor + offset <= bounds[1]:
            return found
    return None
