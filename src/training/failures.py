"""Turn training failures with a known cause into one-line errors."""

import contextlib
import errno
import threading
from collections.abc import Iterator

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from src.errors import InputError, is_out_of_memory, one_line

LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "NCCL",
)


def explain(exception: BaseException, folder: str, intact: str) -> InputError | None:
    """Return a one-line error for a failure that the user can fix; None for other failures.

    Args:
        exception: the exception that ended training.
        folder: the run directory.
        intact: message that names the intact checkpoint, or "" if there is none.
    """
    reason = one_line(str(exception).split("\n\n")[0], limit=300)
    module = type(exception).__module__
    if is_disk_full(exception):  # often raised by TensorBoard
        return InputError(
            f"{folder}: the disk is full ({reason}); {intact}free disk space, then use --resume"
        )
    if module.startswith(("torch._dynamo.", "torch._inductor.")):
        return InputError(
            f"model.compile: compilation failed ({reason}); use --model.compile false"
        )
    if isinstance(exception, RuntimeError) and any(p in str(exception) for p in LOST_PEER):
        return InputError(
            f"another process of this run has died; check its output; {intact}use --resume"
        )
    is_interval = reason.startswith("`val_check_interval`")  # a plain ValueError
    if is_interval or isinstance(exception, MisconfigurationException):
        return InputError(f"trainer: {reason}; see --help")
    if is_out_of_memory(exception):
        return InputError(
            f"out of memory ({reason}); {intact}use a smaller --data.batch_size or network"
        )
    return None


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether a write failed because of a full disk, a quota or a file size limit."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def hide_disk_full_in_threads() -> Iterator[None]:
    """Suppress tracebacks of threads that fail because the disk is full.

    The error is not lost: TensorBoard's writer thread stores it and raises it on the next write.
    """
    original = threading.excepthook

    def excepthook(args: threading.ExceptHookArgs) -> None:
        if not is_disk_full(args.exc_value):
            original(args)

    threading.excepthook = excepthook
    try:
        yield
    finally:
        threading.excepthook = original
