"""A file is replaced whole, or not at all."""

import errno

import pytest

from src.errors import InputError
from src.runs.atomic import open_atomically, write_atomically


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_ends_the_writing_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write_atomically(tmp_path / "x", b"old")
    with pytest.raises(error):
        with open_atomically(tmp_path / "x") as file:
            file.write(b"new")
            raise error
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
    write_atomically(tmp_path / "x", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_a_full_disk_is_one_line(tmp_path):
    write_atomically(tmp_path / "x", b"old")
    with pytest.raises(
        InputError, match=r"x: could not be written \(No space left.*the one before it is intact"
    ):
        with open_atomically(tmp_path / "x"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
