"""The one exception that stands for a mistake in what the user gave, and how the programs end on it."""

import argparse
import contextlib
import sys


class InputError(Exception):
    """A mistake the user can mend. The message is one line that names the file, key or value and says what to do.

    `train.py` and `classify.py` print it on standard error and exit with code 2; it never shows a traceback. It is no
    ValueError, because jsonargparse catches those, to wrap them in explanations of its own.
    """


class ArgumentParser(argparse.ArgumentParser):
    """Raises InputError in place of printing its usage."""

    def error(self, message: str) -> None:
        raise InputError(f"{message}; see --help")


@contextlib.contextmanager
def exit_on_input_error():
    """A mistake in what the user gave: one line on standard error and exit code 2. Ctrl-C: exit code 130."""
    try:
        yield
    except InputError as error:
        sys.exit(_fail(error, 2))
    except KeyboardInterrupt:
        sys.exit(_fail("stopped by Ctrl-C", 130))


def _fail(message, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
