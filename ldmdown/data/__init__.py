"""Fields: variables, grids, files. Nothing here knows tensors.

pyproj comes first: importing eccodes (which xarray does for GRIB) before it ends in a crash of the process.
"""

import pyproj  # noqa: F401
