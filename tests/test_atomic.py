"""Old or new content under the final name, never a part, and nothing left beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ldmdown.atomic import replacing


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
    with pytest.raises(OSError, match="full"), replacing(path) as beside:
        beside.write_text("ne")
        raise OSError("full")
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
    (tmp_path / "out.txt.tmp").symlink_to(other)
    with replacing(tmp_path / "out.txt") as beside:
        beside.write_text("new")
    assert other.read_text() == "mine"
