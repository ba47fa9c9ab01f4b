"""What options and the configuration choose from, in a file that takes no time to import."""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "fp32", "bf16"]
Consistency = Literal["free", "learned", "exact"]
SamplerName = Literal["dpmpp", "ddim", "student"]
MAX_CORRELATION = 0.95  # of the initial noise of successive hours
