"""The one way in which files are written: whole, or not at all."""

import contextlib
import os
import shutil
from pathlib import Path

from src.errors import InputError


@contextlib.contextmanager
def open_atomically(path: Path):
    """A binary file that takes the place of `path` when the block ends; on failure the old one stays, and nothing else.

    Raises:
        InputError: the disk is full, or the folder cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        full = (
            error if isinstance(error, OSError) else error.__context__
        )  # torch.save hides it behind one of its own
        if not isinstance(full, OSError):
            raise
        kept = "the one before it is intact; " if os.path.exists(path) else ""
        folder = path.parent if path.parent.is_dir() else Path(".")
        raise InputError(
            f"{path}: could not be written ({full.strerror}): the disk has "
            f"{shutil.disk_usage(folder).free / 2**20:.2f} MiB free; {kept}make room, then "
            "run it again (a training with --resume)"
        ) from None
    finally:
        with contextlib.suppress(OSError):  # it need not be there, and its name may be too long
            temporary.unlink()


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file in one step; see `open_atomically`."""
    with open_atomically(path) as file:
        file.write(data)
