"""Write files atomically: completely or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from src.errors import InputError

# Errors that more disk space would not fix.
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends without an error.

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
        # torch.save masks the OSError with a RuntimeError.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        previous = "the previous file is intact; " if os.path.exists(path) else ""
        remedy = (
            "check the path and its permissions" if cause.errno in REFUSED else "free disk space"
        )
        raise InputError(
            f"{path}: could not be written ({cause.strerror}); {previous}{remedy}, then run the "
            "program again (to continue training, with --resume)"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_atomically(path: Path, data: bytes) -> None:
    """Write data to a file atomically; see `open_atomically`."""
    with open_atomically(path) as file:
        file.write(data)
