"""Unpickle safely: PyTorch and pickle files of others as tensors and plain values, executing nothing.

A pickle is a program that names functions to call. This reader knows a handful of names, rebuilds what
they stand for by itself, and imports none of them. Classes of a model's own package (modules, optimisers)
become inert `Placeholder` objects that no caller looks at. Any other name, and so any way to run code,
is refused before a single object of the file is used.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ldmdown.errors import LdmdownError

STORAGES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


def _bytes(content: bytes | str = b"", *encoding: str) -> bytearray:
    """A bytearray of what is given, never of a number, which would be its length."""
    if isinstance(content, int):
        raise pickle.UnpicklingError("a bytearray of a length alone")
    return bytearray(content, *encoding)


PLAIN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): lambda text, encoding: text.encode({"latin1": "latin1"}[encoding]),
    **{
        (module, name): kind
        for module in ("builtins", "__builtin__")
        for name, kind in {"set": set, "dict": dict, "list": list, "complex": complex, "bytearray": _bytes}.items()
    },
}
INERT_PACKAGES = (
    *("src", "torch.nn", "torch.optim", "functools", "omegaconf", "pathlib", "typing"),
    *("lightning", "pytorch_lightning", "lightning_fabric"),
)


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file, read only when asked for: `shape` and `stride` in elements."""

    read_storage: Callable[[], NDArray[Any]]
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> NDArray[Any]:
        """Its values, a contiguous copy of shape `shape`.

        Raises ValueError if the tensor reaches beyond its storage.
        """
        storage = self.read_storage()
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        if 0 in self.shape:
            return np.empty(self.shape, storage.dtype)
        if self.offset < 0 or min(self.stride, default=0) < 0 or last >= storage.size:
            raise ValueError(f"a tensor of shape {self.shape} reaches beyond its {storage.size} values")
        strides = tuple(step * storage.itemsize for step in self.stride)
        return np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides).copy()


class Placeholder:
    """Stands for an object of a class that is not read; takes whatever a pickle gives it and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> Placeholder:
        """Stand for the result, too."""
        return self

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None:
        """Take an item of a list-like object."""

    def extend(self, _: Any) -> None:
        """Take items of a list-like object."""


def read_torch(file: str | Path | BinaryIO, name: str | Path | None = None) -> Any:
    """The object that `torch.save` wrote, with every tensor as `Tensor` and all other objects as `Placeholder`.

    `name` is what errors call a stream.

    Raises LdmdownError if the file is not a zip archive of torch.save, or its pickle names something that is not
    allowed.
    """
    name = name or str(file)
    try:
        archive = zipfile.ZipFile(file)
        program = next(entry for entry in archive.namelist() if entry.endswith("/data.pkl"))
    except (zipfile.BadZipFile, NotImplementedError, ValueError, StopIteration):
        raise LdmdownError(
            name,
            "is not a file that torch.save wrote",
            expected="a zip archive with data.pkl (PyTorch 1.6 or newer)",
            fix="check the download; an older file must be saved again with a recent PyTorch",
        ) from None
    root = program.removesuffix("data.pkl")

    def storage(persistent_id: tuple[Any, ...]) -> Callable[[], NDArray[Any]]:
        _, kind, key, _, size = persistent_id

        def read() -> NDArray[Any]:
            return np.frombuffer(_member(archive, f"{root}data/{key}", name), STORAGES[kind])[:size]

        return read

    return _load(_member(archive, program, name), name, storage)


def _member(archive: zipfile.ZipFile, entry: str, name: str | Path) -> bytes:
    try:
        return archive.read(entry)
    except (zipfile.BadZipFile, zlib.error, LookupError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise LdmdownError(name, "cannot be read", found=str(error), fix="download it again") from None


def read_pickle(path: Path) -> Any:
    """The plain values of a pickle: dicts, lists, numbers, strings, NumPy arrays and scalars.

    Raises LdmdownError if it holds anything else, such as pandas objects, with the line that converts it to JSON.
    """
    return _plain(_load(path.read_bytes(), path, None))


def read_statistics(path: Path) -> Any:
    """The numbers of a pickle, or of a JSON file that was made from it.

    Raises LdmdownError as `read_pickle`, or if there is no such file.
    """
    if not path.is_file():
        raise LdmdownError(path, "no such file")
    return json.loads(path.read_text()) if path.suffix == ".json" else read_pickle(path)


def _load(program: bytes, name: str | Path, storage: Callable[..., Any] | None) -> Any:
    try:
        return _Reader(program, name, storage).load()
    except LdmdownError:
        raise
    except Exception as error:
        raise LdmdownError(
            name, "cannot be read safely", found=f"{type(error).__name__}: {error}", fix="check the download"
        ) from error


class _Reader(pickle.Unpickler):
    """An unpickler whose every name is looked up here, never imported."""

    def __init__(self, program: bytes, name: str | Path, storage: Callable[..., Any] | None) -> None:
        super().__init__(io.BytesIO(program), encoding="latin1")
        self.name = name
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        known = PLAIN | (NUMPY if self.storage is None else TORCH)
        if (module, name) in known:
            return known[module, name]
        inert = any(f"{module}.".startswith(f"{package}.") for package in INERT_PACKAGES)
        if inert and self.storage is not None:
            return type(name.rpartition(".")[2], (Placeholder,), {})
        raise LdmdownError(
            self.name,
            f"its pickle asks for {module}.{name}; refused, nothing was executed",
            expected="tensors, numbers, strings, lists and dicts",
            fix=_fix(module, self.storage is not None),
        )

    def persistent_load(self, pid: Any) -> Any:
        if self.storage is None or not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise pickle.UnpicklingError(f"an unknown reference {pid!r}")
        return self.storage(pid)


def _fix(module: str, torch_file: bool) -> str:
    if torch_file:
        return "get the file from its authors' own page; a genuine checkpoint holds no such thing"
    if module.startswith("pandas"):
        return (
            'where you trust the file, convert it once: python -c "import json, pandas, sys; '
            "d = pandas.read_pickle(sys.argv[1]); "
            "json.dump({s: {k: {v: float(x) for v, x in d[s][k].items()} for k in ('mean', 'std')} "
            "for s in ('ERA5', 'CMCC')}, open('statistics.json', 'w'))\" FILE, "
            "and give statistics.json instead"
        )
    return "get the file from its authors' own page, or write its numbers as JSON and give that instead"


def _plain(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """The values with arrays for what stands for them; parts that come several times are copied once."""
    seen = {} if seen is None else seen
    if id(value) not in seen:
        if isinstance(value, dict):
            seen[id(value)] = {_plain(key, seen): _plain(item, seen) for key, item in value.items()}
        elif isinstance(value, list | tuple):
            seen[id(value)] = type(value)(_plain(item, seen) for item in value)
        else:
            return value.values if isinstance(value, _Array) else value
    return seen[id(value)]


def _rebuild_tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return Tensor(storage, offset, tuple(size), tuple(stride))


class _Array:
    """A NumPy array in the making: `numpy.ndarray.__setstate__`'s tuple gives shape, type and bytes."""

    def __init__(self, *_: Any) -> None:
        self.values: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        raw = data.encode("latin1") if isinstance(data, str) else data
        self.values = np.frombuffer(raw, dtype.kind).reshape(shape, order="F" if fortran else "C")


class _DType:
    """A NumPy number type in the making; types that hold objects are refused."""

    def __init__(self, code: str, *_: Any) -> None:
        self.kind = np.dtype(code)
        if self.kind.hasobject:
            raise pickle.UnpicklingError("a NumPy array of objects")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.kind = self.kind.newbyteorder(state[1])


def _scalar(dtype: _DType, data: str | bytes) -> Any:
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype.kind)[0].item()


NUMPY: dict[tuple[str, str], Any] = {
    (module, name): kind
    for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
    for name, kind in {"_reconstruct": _Array, "ndarray": _Array, "dtype": _DType, "scalar": _scalar}.items()
}
TORCH: dict[tuple[str, str], Any] = {
    **{("torch", name): name for name in STORAGES},
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
}
