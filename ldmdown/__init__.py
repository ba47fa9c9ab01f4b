"""Downscale ERA5 to hourly 2 km fields over Italy with a residual latent diffusion model."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ldmdown.system import System

try:
    __version__ = version("ldmdown")
except PackageNotFoundError:
    __version__ = "unknown"


def load(checkpoint: str = "italy", device: str = "auto") -> System:
    """Load a checkpoint, by path or name (a comma joins several), to downscale xarray datasets.

    >>> import ldmdown, xarray  # doctest: +SKIP
    >>> era5 = xarray.open_dataset("era5.nc")  # doctest: +SKIP
    >>> fields = ldmdown.load("italy").downscale(era5, members=4)  # doctest: +SKIP
    """
    from ldmdown.system import System

    return System(checkpoint, device)
