"""Files and folders that take their name only when they are complete and on the disk, and hashes to know them by."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ldmdown.errors import LdmdownError

BESIDE = ".ldmdown-tmp"  # behind the name of what is being written
ALMOST_FULL = 2**16  # bytes that are left on a disk that is full
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
UNWRITABLE |= {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EIO}


@contextmanager
def replacing(path: Path, *, lock: bool = False) -> Iterator[Path]:
    """Give a path beside `path` to write a file or a folder to; it takes the place of `path` at the end.

    If writing fails, what was written is removed and `path` is left as it was. What was written reaches the disk
    before it is renamed, so that a crash of the machine leaves the old or the new content, never a part. With `lock`
    no other process may write it at the same time.

    Raises LdmdownError if it cannot be written, as when the disk is full, or is locked.
    """
    beside = path.with_name(f"{path.name}{BESIDE}")
    with locked(*([path] if lock else [])):
        try:
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                remove(beside)
                yield beside
                move_into_place(beside, path)
        finally:
            with suppress(OSError):
                remove(beside)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of an error of the system that `path` cannot be written, as when the disk is full.

    Raises LdmdownError instead of such an error.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # libraries hide the system's error in one of theirs
        full = path.parent.is_dir() and shutil.disk_usage(path.parent).free < ALMOST_FULL
        if not full and getattr(error, "errno", None) not in UNWRITABLE:
            raise
        found = "the disk is full" if full else str(error)
        fix = "make room, or write somewhere else; what is finished is kept"
        raise LdmdownError(path, "cannot be written", found=found, fix=fix) from None


@contextmanager
def locked(*paths: Path) -> Iterator[None]:
    """Keep other processes from writing any of `paths`, by locks that go with this one however it ends.

    Raises LdmdownError if another process holds one, with its number, or the folder cannot be written to.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard):  # each lock is an open file
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft + len(paths), hard), hard))
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(_locked(path))
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    file = path.with_name(f"{path.name}.lock")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = file.open("a+b", buffering=0)
    with held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(file.stat(), os.fstat(held.fileno()))  # not removed since it was opened
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            held.seek(0)
            fix = "wait until it has finished, or stop it"
            raise LdmdownError(path, "is being written by another process", found=held.read().decode(), fix=fix)
        try:
            with writing(path):
                held.truncate(0)
                held.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield
        finally:
            file.unlink(missing_ok=True)


def move_into_place(written: Path, path: Path) -> None:
    """Rename a complete file or folder to `path`, whose old content goes, after all of it is on the disk."""
    sync(written)
    if written.is_dir():
        remove(path)
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


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink(missing_ok=True)
