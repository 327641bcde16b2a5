"""User errors: the exception, the exit codes of both programs, and helpers for messages."""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # beginnings of spreadsheet formulas


class InputError(Exception):
    """An error that the user can fix; its one-line message says what is wrong and how to fix it.

    `train.py` and `classify.py` print it to stderr without a traceback and exit with code 2. It is
    not a ValueError, because jsonargparse catches ValueErrors and wraps them in its own messages.
    """

    def __init__(self, message: str):
        # DataLoader re-raises a worker's error with the traceback in the message.
        super().__init__(message.rsplit("InputError: ", 1)[-1].strip())


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser that raises InputError instead of printing the usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")


def command(program: str) -> str:
    """Return the command that starts a program of this project from the current folder."""
    path, here = ROOT / program, Path.cwd()
    return f"python {shlex.quote(str(path.relative_to(here) if here in path.parents else path))}"


def printable(text: str) -> str:
    """Replace control characters, which untrusted file and class names can contain."""
    return "".join(c if c.isprintable() else "?" for c in text)


def without_formula(cell: Any) -> Any:
    """Prepend a quote to text that a spreadsheet would evaluate as a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def one_line(error: object, limit: int = 200) -> str:
    """Return the beginning of a third-party error message on one line."""
    return " ".join(str(error).split())[:limit]


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether the error is an out-of-memory error, on the host or on the device."""
    phrases = ("out of memory", "can't allocate memory")
    from_torch = isinstance(error, RuntimeError) and any(p in str(error) for p in phrases)
    return from_torch or isinstance(error, MemoryError)


@contextlib.contextmanager
def exit_on_input_error() -> Iterator[None]:
    """Exit with code 2 and a one-line message on an InputError, and with code 130 on Ctrl-C.

    On a broken pipe (`| head`), exit silently with code 141, as after SIGPIPE.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # file names and terminals may not be UTF-8
    try:
        yield
        sys.stdout.flush()
    except InputError as error:
        _exit(error, 2)
    except BrokenPipeError:
        # The flush at exit must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (OSError, RuntimeError, MemoryError) as error:
        _exit(_explain(error), 2)
    except KeyboardInterrupt:
        _exit("stopped by Ctrl-C", 130)


def _explain(error: Exception) -> BaseException | str:
    """Return the message for an error that the user can fix; re-raise other errors.

    On a full disk, the error from a library's `close()` masks the original InputError.
    """
    first: BaseException | None = error
    while first and not isinstance(first, InputError):
        first = first.__context__
    if first:
        return first
    if is_out_of_memory(error):
        cause = one_line(error) or type(error).__name__
        return f"out of memory ({cause}); close other programs, or use a smaller network"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; check the path and its permissions"
    raise error


def _exit(message: object, code: int) -> NoReturn:
    print(f"error: {printable(str(message))}", file=sys.stderr)
    sys.exit(code)
