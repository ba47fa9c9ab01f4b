"""Files, folders, globs and addresses to open sources: NetCDF, GRIB, zip and Zarr, told apart by their first bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Self

import netCDF4
import numpy as np
import xarray as xr

from ldmdown.data.reading.grib import GribFile
from ldmdown.data.reading.layout import Layout
from ldmdown.data.reading.times import RAW_TIMES, decode_times
from ldmdown.data.reading.zarr_stores import open_zarr
from ldmdown.data.variables import VARIABLES, variable
from ldmdown.errors import LdmdownError, UnreadableError
from ldmdown.typing import IntArray

ZARR_MARKS = ("zarr.json", ".zgroup", ".zmetadata", ".zattrs")  # in a folder that is a Zarr store
SUFFIXES = (".nc", ".nc4", ".cdf", ".grib", ".grb", ".grib1", ".grib2", ".grb1", ".grb2", ".zip")
FIRST_BYTES = {b"\x89HDF": "netcdf", b"CDF": "netcdf", b"GRIB": "grib", b"PK": "zip"}
NOT_DATA = {
    b"\x1f\x8b": "unpack it with gunzip, or tar xzf if it is an archive",
    b"BZh": "unpack it with bunzip2",
    b"\xfd7zX": "unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "unpack it with zstd -d",
    b"7z\xbc\xaf": "unpack it with 7z x",
    b"Rar!": "unpack it with unrar x",
    b"<": "this is a web page: download the data again",
    b"{": "this is JSON, an error of a server or a list of references: download the data again",
}
TAR = b"ustar"  # from byte 257
START, STOPS = "valid_time_start", ("valid_time_stop", "valid_time_stop_era5t")  # days, of ARCO-ERA5
OPEN_FILES, CHUNK_CACHE = 8, 2**24  # at once, and bytes that HDF5 keeps of each variable of each
FORMATS = "a NetCDF, GRIB or zip file, or a folder of Zarr"

Source = Layout | GribFile
"""One dataset, or one GRIB file, that is open."""


@contextmanager
def few_open() -> Iterator[None]:
    """Keep memory from growing with the number of files that are read one after the other.

    netCDF4 and xarray have one setting each for the whole process, no option of a file: a command sets them for as
    long as it runs, `ldmdown.load` leaves those of the user's script alone.
    """
    usual = netCDF4.get_chunk_cache()
    netCDF4.set_chunk_cache(CHUNK_CACHE, *usual[1:])
    try:
        with xr.set_options(file_cache_maxsize=OPEN_FILES):
            yield
    finally:
        netCDF4.set_chunk_cache(*usual)


class GriddedFiles(AbstractContextManager["GriddedFiles"]):
    """Everything that paths, globs, folders and addresses hold, open but not read, until it is closed.

    Args:
        paths: NetCDF of the old or the new CDS and others, GRIB, zips, folders, globs, and Zarr, also behind an
            address.
        unpack_to: a folder that keeps what zips hold, for those who open them again, and that the caller removes; None:
            a temporary one, until this is closed.

    Raises LdmdownError naming the file (of a zip also the member) that is missing or cannot be read.
    """

    def __init__(self, paths: Sequence[str | Path], unpack_to: Path | None = None) -> None:
        self.sources: list[Source] = []
        self._stack = ExitStack()
        self._unpack_to = unpack_to
        try:
            for one in list_files(paths):
                self._open(one, str(one))
        except BaseException:
            self.close()
            raise

    @classmethod
    def of(cls, datasets: Mapping[str, xr.Dataset]) -> Self:
        """Datasets that are open, by what messages call them, and that the caller closes."""
        files = cls(())
        files.sources = [Layout(label, dataset) for label, dataset in datasets.items()]
        return files

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every file, and remove what was unpacked for them."""
        self._stack.close()

    @property
    def labels(self) -> list[str]:
        """What messages call the files."""
        return list(dict.fromkeys(source.label for source in self.sources))

    @property
    def label(self) -> str:
        """What messages call all of them."""
        first, *others = self.labels or ["the files"]
        return f"{first} and {len(others)} more" if others else first

    def variables(self) -> list[str]:
        """The variables of data/variables that they hold under any name."""
        held = {name for source in self.sources for name in source.names}
        return [name for name in VARIABLES if held & set(variable(name).names)]

    def hours(self) -> IntArray:
        """The hours since 1970-01-01T00 of anything in them."""
        return np.unique(np.concatenate([np.empty(0, np.int64), *(source.hours() for source in self.sources)]))

    def _open(self, path: Path | str, label: str) -> None:
        try:
            if isinstance(path, str) or path.is_dir():
                return self._add(open_zarr(str(path), label), label)
            match file_format(path):
                case "netcdf":
                    self._add(xr.open_dataset(path, engine="netcdf4", **RAW_TIMES), label)
                case "grib":
                    self.sources.append(GribFile(path, label))
                case "zip":
                    folder = self._unpacked(path, label)
                    for inside in [folder] if _is_zarr(folder) else _inside(folder):
                        self._open(inside, str(Path(label, inside.relative_to(folder))))
                case _:
                    raise _not_data(path, label)
        except (OSError, ValueError, TypeError, ArithmeticError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
            text = str(error).replace(str(path), Path(path).name)
            raise UnreadableError(label, text) from None

    def _add(self, dataset: xr.Dataset, label: str) -> None:
        self._stack.callback(dataset.close)
        decoded = decode_times(label, dataset)
        stops = [str(decoded.attrs[name]) for name in STOPS if name in decoded.attrs]
        if stops:  # without the hours for which ARCO-ERA5 has room but no values
            decoded = decoded.sel(time=slice(decoded.attrs.get(START), max(stops)))
        self.sources.append(Layout(label, decoded))

    def _unpacked(self, path: Path, label: str) -> Path:
        """The folder of what a zip holds, as the CDS packs instantaneous and accumulated variables."""
        if self._unpack_to is None:
            self._unpack_to = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="ldmdown-")))
        status = path.stat()
        key = f"{path.resolve()} {status.st_mtime_ns} {status.st_size}"
        folder = self._unpack_to / hashlib.sha256(key.encode()).hexdigest()[:16]
        if not folder.exists():
            self._unpack_to.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(dir=self._unpack_to, prefix="."))
            _unpack(path, beside, label)
            try:
                beside.rename(folder)
            except OSError:  # another process was faster
                shutil.rmtree(beside)
        return folder


def list_files(paths: Iterable[str | Path]) -> list[Path | str]:
    """The files and Zarr stores of paths, globs and folders, and the addresses, in the order given.

    Of a folder, and those below it, what is neither named nor made like data is passed over.

    Raises LdmdownError if a path does not exist, is a pipe or a device, or a folder holds no data.
    """
    found: list[Path | str] = []
    for one in paths:
        if "://" in str(one):
            found.append(str(one))
            continue
        matching = _matching(Path(one).expanduser())
        if not matching:
            raise LdmdownError(one, "no such file", fix="check the path; quote a glob or let the shell expand it")
        for path in matching:
            if not (path.is_file() or path.is_dir()):
                raise LdmdownError(path, "is no file", found="a pipe or a device", expected=FORMATS)
            inside = list(_inside(path)) if path.is_dir() and not _is_zarr(path) else [path]
            if not inside:
                raise LdmdownError(path, "holds no data", expected=FORMATS)
            found += inside
    return found


def _matching(pattern: Path) -> list[Path]:
    """The paths of a glob, sorted; a part of it that exists as it reads is no pattern, such as a folder `run [1]`."""
    found = [Path(pattern.anchor)]
    for part in pattern.parts[1 if pattern.anchor else 0 :]:
        found = [
            one
            for base in found
            for one in ([base / part] if os.path.lexists(base / part) or ".." in part else sorted(base.glob(part)))
            if part.startswith(".") or not one.name.startswith(".") or one == base
        ]
    return [one for one in found if one.exists()]


def _inside(folder: Path) -> Iterator[Path]:
    try:
        content = sorted(folder.iterdir())
    except OSError as error:
        raise LdmdownError(folder, "cannot be read", found=str(error)) from None
    for path in content:
        if path.name.startswith(".") or path.name == "__MACOSX":
            continue
        if path.is_dir() and not _is_zarr(path):
            yield from _inside(path)
        elif path.is_dir() or (path.is_file() and (path.suffix.lower() in SUFFIXES or file_format(path))):
            yield path


def _is_zarr(folder: Path) -> bool:
    return any((folder / name).exists() for name in ZARR_MARKS)


def file_format(path: Path) -> str | None:
    """netcdf, grib or zip, by the first bytes; None if it is none of them."""
    return next((name for first, name in FIRST_BYTES.items() if _start(path).startswith(first)), None)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _not_data(path: Path, label: str) -> LdmdownError:
    with path.open("rb") as file:
        header = file.read(262)
    start = header[:4]
    fix = next((fix for first, fix in NOT_DATA.items() if start.startswith(first)), "check the download")
    fix = "unpack it with tar xf" if header[257:] == TAR else fix
    return LdmdownError(
        label, "is no NetCDF, GRIB or zip file", found=f"first bytes {start!r}" if start else "an empty file", fix=fix
    )


def _unpack(path: Path, folder: Path, label: str) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())  # more than this is not unpacked
        free = shutil.disk_usage(folder).free
        if size > free:
            raise LdmdownError(
                label,
                "is too large to be unpacked",
                found=f"{size / 1e9:.3g} GB in it, {free / 1e9:.3g} GB free in {folder.parent}",
                fix="set TMPDIR to a folder with more room, or unpack it yourself",
            )
        for member in archive.infolist():
            try:
                archive.extract(member, folder)
            except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, zlib.error) as error:
                raise LdmdownError(
                    f"{label}/{member.filename}", "cannot be unpacked", found=str(error), fix="download it again"
                ) from None
