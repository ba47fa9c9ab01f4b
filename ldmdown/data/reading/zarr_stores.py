"""Zarr stores in a folder or behind an address, whose codecs are looked at before a chunk is decoded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xarray as xr

from ldmdown.data.reading.times import RAW_TIMES
from ldmdown.errors import LdmdownError

CODECS = {
    *("blosc", "zstd", "lz4", "zlib", "gzip", "bz2", "lzma", "shuffle", "delta", "fixedscaleoffset", "bitround"),
    *("quantize", "packbits", "astype", "categorize", "bytes", "crc32", "crc32c", "adler32", "fletcher32"),
    *("transpose", "sharding_indexed", "vlen-utf8", "vlen-bytes"),
}
"""Those that only turn numbers and text into bytes; others, such as pickle, may run code."""
PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}


def open_zarr(address: str, label: str) -> xr.Dataset:
    """A store in a folder or behind an address, of version 2 or 3, with consolidated metadata or without.

    Raises LdmdownError if it cannot be opened, or as `check_codecs`.
    """
    import zarr

    protocol = address.split("://", 1)[0]
    try:
        group = zarr.open_group(address, mode="r")
        check_codecs(label, group)
        consolidated = group.metadata.consolidated_metadata is not None
        store: Any = group.store  # which xarray takes, though its annotations do not say so
        dataset = xr.open_dataset(store, engine="zarr", consolidated=consolidated, **RAW_TIMES)
    except LdmdownError:
        raise
    except ImportError as error:
        package = PACKAGES.get(protocol, "the package that is named")
        raise LdmdownError(label, "cannot be opened", found=str(error), fix=f"pip install {package}") from None
    except Exception as error:  # each file system has errors of its own
        fix = "check the address; single files must be downloaded first"
        if protocol == "s3":
            fix += "; for a public bucket set FSSPEC_S3_ANON=true"
        found = f"{type(error).__name__}: {error}"
        raise LdmdownError(label, "cannot be opened as Zarr", found=found, fix=fix) from None
    return dataset


def check_codecs(label: str | Path, group: Any) -> None:
    """Refuse a store whose chunks would be decoded by anything but the known codecs, before any is read.

    Raises LdmdownError naming the array and its codecs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of files beside the arrays
        arrays = dict(group.arrays())
    for name, array in arrays.items():
        unknown = set(_codecs(array.metadata.to_dict())) - CODECS
        if unknown:
            raise LdmdownError(
                f"{label}/{name}",
                "is encoded in a way that is not read",
                found=", ".join(sorted(unknown)),
                expected=", ".join(sorted(CODECS)),
                fix="if you trust where it comes from, write it again with another codec",
            )


def _codecs(metadata: Any) -> Iterator[str]:
    """The names of all codecs in the metadata of an array of Zarr 2 or 3, those inside others too."""
    for key in ("compressor", "filters", "codecs", "index_codecs"):
        listed = metadata.get(key) or ()
        for codec in [listed] if isinstance(listed, dict) else listed:
            yield str(codec.get("id", codec.get("name"))).removeprefix("numcodecs.")
            yield from _codecs(codec.get("configuration", {}))
