"""User errors: the exception, and how both programs exit on it."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import NoReturn


class InputError(Exception):
    """A mistake the user can fix, in one line: the file, key or value, and what to do.

    `train.py` and `classify.py` print it on stderr without a traceback and exit with code 2. It is
    not a ValueError, because jsonargparse catches those and wraps them in its own explanations.
    """

    def __init__(self, message: str):
        # A data loader worker re-raises an error with its traceback as the message.
        super().__init__(message.rsplit("InputError: ", 1)[-1].strip())


class ArgumentParser(argparse.ArgumentParser):
    """Raise InputError instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def printable(text: str) -> str:
    """Replace control characters, which a file or class name from anywhere may contain."""
    return "".join(c if c.isprintable() else "?" for c in text)


def one_line(error: object, limit: int = 200) -> str:
    """Return the start of a foreign error message, without line breaks."""
    return " ".join(str(error).split())[:limit]


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether the memory of the machine or of its accelerator was too small."""
    phrases = ("out of memory", "can't allocate memory")
    from_torch = isinstance(error, RuntimeError) and any(p in str(error) for p in phrases)
    return from_torch or isinstance(error, MemoryError)


@contextlib.contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Exit with one line on stderr and code 2 on an InputError, and with code 130 on Ctrl-C.

    If the reader of stdout goes away (`| head`), exit quietly with code 141, as after SIGPIPE.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # file names and terminals may not be UTF-8
    try:
        yield
        sys.stdout.flush()
    except InputError as error:
        _exit(error, 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(141)
    except OSError as error:
        _exit(_cause(error), 2)
    except KeyboardInterrupt:
        _exit("stopped by Ctrl-C", 130)


def _cause(error: OSError) -> BaseException | str:
    """Return the InputError behind an OSError, or a line about missing permissions.

    On a full disk, the error from a library's `close()` masks the one that says what happened.
    """
    first: BaseException | None = error
    while first and not isinstance(first, InputError):
        first = first.__context__
    if first:
        return first
    if isinstance(error, PermissionError) and error.filename:
        return f"{error.filename}: permission denied; change its permissions or its owner"
    raise error


def _exit(message: object, code: int) -> NoReturn:
    print(f"error: {printable(str(message))}", file=sys.stderr)
    sys.exit(code)
