"""Files, folders, globs and addresses to datasets: NetCDF, GRIB, zip and Zarr, told apart by their first bytes."""

from __future__ import annotations

import glob
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import netCDF4
import xarray as xr

from ldmdown.data.reading.grib import open_grib
from ldmdown.errors import LdmdownError

Source = tuple[str, xr.Dataset]
"""What errors call it, and what is in it."""

ZARR = ("zarr.json", ".zgroup", ".zmetadata", ".zattrs")
DATA = (".nc", ".nc4", ".cdf", ".grib", ".grb", ".grib1", ".grib2", ".grb1", ".grb2", ".zip")
NOT_DATA = {b"\x1f\x8b": "unpack it with gunzip", b"<": "this is a web page: download the data again"}
DECODING: dict[str, Any] = {"decode_times": xr.coders.CFDatetimeCoder(time_unit="s"), "decode_timedelta": True}
PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}
START, STOPS = "valid_time_start", ("valid_time_stop", "valid_time_stop_era5t")  # days, of ARCO-ERA5
OPEN, CHUNK_CACHE = 8, 2**24  # files at once, and bytes that HDF5 keeps of each variable of each
FORMATS = "a NetCDF, GRIB or zip file, or a folder of Zarr"


@contextmanager
def few_open() -> Iterator[None]:
    """Memory that does not grow with the number of files that are read one after the other."""
    usual = netCDF4.get_chunk_cache()
    netCDF4.set_chunk_cache(CHUNK_CACHE, *usual[1:])
    try:
        with xr.set_options(file_cache_maxsize=OPEN):
            yield
    finally:
        netCDF4.set_chunk_cache(*usual)


def open_files(files: Sequence[str | Path]) -> list[Source]:
    """Everything that these paths, globs, folders and addresses hold, opened but not read.

    Raises
    ------
    LdmdownError
        naming the file (of a zip also the member) that is missing or cannot be read.
    """
    return [source for file in files for source in _open(file)]


def _open(file: str | Path) -> Iterator[Source]:
    if "://" in str(file):
        yield _open_zarr(str(file))
        return
    for path in _expand(file):
        if path.is_dir():
            yield _open_zarr(str(path))
        else:
            yield from _open_file(path, str(path))


def _expand(file: str | Path) -> Iterator[Path]:
    """Files and Zarr stores of a path, glob or folder."""
    whole = Path(file).expanduser()
    found = [whole] if whole.exists() else sorted(Path(one) for one in glob.glob(str(whole), recursive=True))  # noqa: PTH207
    if not found:
        raise LdmdownError(file, "no such file", fix="check the path; quote a glob or let the shell expand it")
    for path in found:
        if not path.is_dir() or _is_zarr(path):
            yield path
            continue
        inside = list(_inside(path))
        if not inside:
            raise LdmdownError(path, "holds no data", expected=FORMATS)
        yield from inside


def _inside(folder: Path) -> Iterator[Path]:
    """The data of a folder and those below; what is neither named nor made like data is passed over."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not _is_zarr(path):
            yield from _inside(path)
        elif path.is_dir() or path.suffix.lower() in DATA or file_format(path):
            yield path


def _is_zarr(folder: Path) -> bool:
    return any((folder / name).exists() for name in ZARR)


def file_format(path: Path) -> str | None:
    """netcdf, grib or zip, by the first bytes; None if it is none of them."""
    with path.open("rb") as file:
        start = file.read(8)
    known = {b"\x89HDF": "netcdf", b"CDF": "netcdf", b"GRIB": "grib", b"PK": "zip"}
    return next((name for first, name in known.items() if start.startswith(first)), None)


def _open_file(path: Path, label: str) -> Iterator[Source]:
    """One file, as many datasets as it holds."""
    try:
        match file_format(path):
            case "netcdf":
                yield label, xr.open_dataset(path, engine="netcdf4", cache=False, **DECODING)
            case "grib":
                yield from ((label, dataset) for dataset in open_grib(path, label))
            case "zip":
                yield from _open_zip(path, label)
            case _:
                raise _not_data(path, label)
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        text = str(error).replace(str(path), path.name)
        fix = "download it again, or look at it with `ncdump -h` or `grib_ls`"
        raise LdmdownError(label, "cannot be read", found=text, fix=fix) from None


def _not_data(path: Path, label: str) -> LdmdownError:
    with path.open("rb") as file:
        start = file.read(4)
    fix = next((fix for first, fix in NOT_DATA.items() if start.startswith(first)), "check the download")
    return LdmdownError(
        label, "is no NetCDF, GRIB or zip file", found=f"first bytes {start!r}" if start else "an empty file", fix=fix
    )


def _open_zip(path: Path, label: str) -> Iterator[Source]:
    """As the CDS packs instantaneous and accumulated variables; unpacked for as long as the program runs."""
    folder = tempfile.TemporaryDirectory(prefix="ldmdown-")
    _unpacked.append(folder)
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        for number, member in enumerate(members):
            inside = Path(folder.name) / f"{number}-{Path(member.filename).name}"
            try:
                with archive.open(member) as packed, inside.open("wb") as file:
                    shutil.copyfileobj(packed, file)
            except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
                raise LdmdownError(f"{label}/{member.filename}", "cannot be unpacked", found=str(error),
                                   fix="download it again") from None  # fmt: skip
            yield from _open_file(inside, f"{label}/{member.filename}")


_unpacked: list[tempfile.TemporaryDirectory[str]] = []


def _open_zarr(address: str) -> Source:
    """A store in a folder or behind an address, of version 2 or 3, with consolidated metadata or without."""
    import zarr

    protocol = address.split("://", 1)[0]
    try:
        group = zarr.open_group(address, mode="r")
        consolidated = group.metadata.consolidated_metadata is not None
        store: Any = group.store  # which xarray takes, though its annotations do not say so
        dataset = xr.open_dataset(store, engine="zarr", cache=False, consolidated=consolidated, **DECODING)
    except ImportError as error:
        package = PACKAGES.get(protocol, "the package that is named")
        raise LdmdownError(address, "cannot be opened", found=str(error), fix=f"pip install {package}") from None
    except Exception as error:  # each file system has errors of its own
        fix = "check the address; single files must be downloaded first"
        if protocol == "s3":
            fix += "; for a public bucket set FSSPEC_S3_ANON=true"
        found = f"{type(error).__name__}: {error}"
        raise LdmdownError(address, "cannot be opened as Zarr", found=found, fix=fix) from None
    return address, _until_valid(dataset)


def _until_valid(dataset: xr.Dataset) -> xr.Dataset:
    """Without the hours for which ARCO-ERA5 has room but no values."""
    stops = [str(dataset.attrs[name]) for name in STOPS if name in dataset.attrs]
    return dataset.sel(time=slice(dataset.attrs.get(START), max(stops))) if stops else dataset
