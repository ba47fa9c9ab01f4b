"""Old or new content under the final name, never a part, and nothing left beside it."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ldmdown.atomic import locked, replacing
from ldmdown.errors import LdmdownError


def test_a_file_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "made" / "out.txt"
    with replacing(path) as beside:
        beside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(LdmdownError, match="cannot be written\n  found: .*No space left"), replacing(path) as beside:
        beside.write_text("ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.mkdir()
    (path / "old").touch()
    with replacing(path) as beside:
        (beside / "below").mkdir(parents=True)
        (beside / "below" / "new").write_text("1")
    assert [one.relative_to(path).as_posix() for one in sorted(path.rglob("*"))] == ["below", "below/new"]


def test_a_link_under_the_name_beside_is_not_written_through(tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("mine")
    (tmp_path / "out.txt.ldmdown-tmp").symlink_to(other)
    with replacing(tmp_path / "out.txt") as beside:
        beside.write_text("new")
    assert other.read_text() == "mine"


def test_errors_of_reading_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "out.txt"):
        (tmp_path / "in.txt").read_text()


def test_a_lock_names_who_holds_it(tmp_path: Path) -> None:
    message = f"another process\n  found: process {os.getpid()} on"
    path = tmp_path / "out.nc"
    for writing in (locked(path), replacing(path, lock=True)):
        with locked(path), pytest.raises(LdmdownError, match=message), writing:
            pass
    with replacing(path, lock=True) as beside:
        beside.touch()
    assert [*tmp_path.iterdir()] == [path]


def test_the_lock_of_a_killed_process_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "out.nc"
    die = (
        f"import os, pathlib\nfrom ldmdown.atomic import locked\nwith locked(pathlib.Path({str(path)!r})):\n os.abort()"
    )
    assert subprocess.run([sys.executable, "-c", die, str(path)], capture_output=True, check=False).returncode < 0
    assert (tmp_path / "out.nc.lock").read_text().startswith("process")
    with locked(path):
        pass
    assert not list(tmp_path.iterdir())


def test_more_locks_than_files_may_be_open(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with locked(*(tmp_path / f"{number}.nc" for number in range(100))):
            assert len(list(tmp_path.iterdir())) == 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_lock_in_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = "out.nc: cannot be written\n  found: .*File exists"
    with pytest.raises(LdmdownError, match=message), locked(tmp_path / "file" / "out.nc"):
        pass
