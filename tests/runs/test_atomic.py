"""Test that files are replaced either completely or not at all."""

import errno

import pytest

from src.errors import InputError
from src.runs.atomic import open_atomically, write_atomically


@pytest.fixture
def old(tmp_path):
    """Path of the only file in a folder; its content is b"old"."""
    path = tmp_path / "x"
    write_atomically(path, b"old")
    return path


def contents(folder) -> list[bytes]:
    return [path.read_bytes() for path in folder.iterdir()]


def test_a_complete_file_replaces_the_old_one(old):
    write_atomically(old, b"new")
    assert contents(old.parent) == [b"new"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_only_the_old_file(old, error):
    with pytest.raises(error):
        with open_atomically(old) as file:
            file.write(b"new")
            raise error
    assert contents(old.parent) == [b"old"]


def test_full_disk_is_one_line(old):
    message = r"x: could not be written \(No space left.*the previous file is intact"
    with pytest.raises(InputError, match=message):
        with open_atomically(old):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert contents(old.parent) == [b"old"]
