"""The one exception that stands for a mistake in what the user gave, and how the programs end on it."""

import argparse
import contextlib
import errno
import os
import sys
import threading


class InputError(Exception):
    """A mistake the user can fix. The message is one line that names the file, key or value and says what to do.

    `train.py` and `classify.py` print it on standard error and exit with code 2; it never shows a traceback. It is
    not a ValueError, because jsonargparse catches those, to wrap them in explanations of its own.
    """

    def __init__(self, message: str):
        # The worker of a data loader hands an error on with its traceback as the message, which ends in ours.
        super().__init__(message.rsplit("InputError: ", 1)[-1].strip())


def printable(text: str) -> str:
    """Without what breaks a line or steers a terminal: a file, or a class, may have any name."""
    return "".join(c if c.isprintable() else "?" for c in text)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether there was no room for a file: on the disk, in the user's share of it, or for a file of this size."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the memory of the machine, or of its accelerator, was too small."""
    said = isinstance(error, RuntimeError) and (
        "out of memory" in str(error) or "can't allocate memory" in str(error)
    )
    return said or isinstance(error, MemoryError)


def is_lost_peer(error: BaseException | None) -> bool:
    """Whether another process of the same training has gone; gloo, and NCCL, say so by a RuntimeError."""
    gone = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
    return isinstance(error, RuntimeError) and any(part in str(error) for part in gone)


class PipeProof:
    """Standard output whose reader may go away (`| head`): what comes then is dropped, and the work goes on."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(BrokenPipeError):
            self.stream.write(text)
            self.flush()
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


class ArgumentParser(argparse.ArgumentParser):
    """Raises InputError in place of printing its usage."""

    def error(self, message: str) -> None:
        raise InputError(f"{message}; see --help")


@contextlib.contextmanager
def exit_on_input_error():
    """A mistake in what the user gave: one line on standard error and exit code 2. Ctrl-C: exit code 130."""
    sys.stdout = PipeProof(sys.stdout)
    if hasattr(
        sys.stdout, "reconfigure"
    ):  # a file's name need not be valid text, nor the terminal know every letter
        sys.stdout.reconfigure(errors="replace")
    usual = threading.excepthook
    threading.excepthook = lambda args: (
        None if is_disk_full(args.exc_value) else usual(args)
    )  # it comes up again
    try:
        yield
    except InputError as error:
        sys.exit(_fail(error, 2))
    except OSError as error:
        first = error  # a library that cannot close its file on a full disk hides what came before, which says more
        while first and not isinstance(first, InputError):
            first = first.__context__
        if not first and isinstance(error, PermissionError) and error.filename:
            first = f"{error.filename}: no permission; change its permissions, or own it"
        if not first:
            raise
        sys.exit(_fail(first, 2))
    except KeyboardInterrupt:
        sys.exit(_fail("stopped by Ctrl-C", 130))
    finally:
        sys.stdout = sys.stdout.stream if isinstance(sys.stdout, PipeProof) else sys.stdout


def _fail(message, code: int) -> int:
    print(f"error: {printable(str(message))}", file=sys.stderr)
    return code
