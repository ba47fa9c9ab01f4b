"""Files and folders that take their name only when they are complete and on the disk, and hashes to know them by."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write a file or a folder to; it takes the place of `path` at the end.

    If writing fails, what was written is removed and `path` is left as it was. What was written reaches the disk
    before it is renamed, so that a crash of the machine leaves the old or the new content, never a part.

    Raises
    ------
    OSError
        if it cannot be written, as when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.tmp")
    _remove(beside)
    try:
        yield beside
        move_into_place(beside, path)
    except BaseException:
        _remove(beside)
        raise


def move_into_place(written: Path, path: Path) -> None:
    """Rename a complete file or folder to `path`, whose old content goes, after all of it is on the disk."""
    sync(written)
    if written.is_dir():
        _remove(path)
    written.replace(path)
    sync(path.parent, below=False)


def sync(path: Path, *, below: bool = True) -> None:
    """Bring a file, or a folder and all that is below it, to the disk."""
    for one in (path, *(path.rglob("*") if below and path.is_dir() else ())):
        descriptor = os.open(one, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256(path: Path) -> str:
    """The hash of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
