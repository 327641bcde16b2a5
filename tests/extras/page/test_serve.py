"""Test `python classify.py --serve`: output, exit codes and invalid options."""

import contextlib
import os
import re
import signal
import tempfile
import threading
import time

import pytest
from launch import free_port
from program import Running, classify


def set_temporary_folder(folder) -> None:
    tempfile.tempdir = str(folder)


@pytest.fixture
def start_program(checkpoint, tmp_path):
    """Return a function that starts `classify.py --serve` and returns the process and the port.

    The program stores uploads in `tmp_path`.
    """
    started = []

    def start(*options):
        port = free_port()
        flags = ["--serve", "--ckpt", checkpoint, "--device", "cpu", "--port", port, *options]
        prepare = (set_temporary_folder, tmp_path)
        started.append(Running(*flags, script="classify.py", prepare=prepare))
        return started[-1], port

    yield start
    for running in started:
        running.process.kill()
        running.process.join()


def read_line(running: Running, number: int = 0) -> str:
    """Wait until a program has printed a line, and return it."""
    out = running.folder / "1"
    while True:
        lines = out.read_text().splitlines(keepends=True) if out.exists() else []
        if lines[number:] and lines[number].endswith("\n"):
            return lines[number]
        assert running.process.is_alive()
        time.sleep(0.02)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_a_signal_ends_it_in_the_middle_of_work(start_program, client, tmp_path, number, code):
    running, port = start_program()
    url = f"http://127.0.0.1:{port}/"
    assert read_line(running) == f"Serving photos on {url} (press Ctrl-C to stop)\n"

    def upload_until_it_is_gone():
        with contextlib.suppress(OSError):
            while True:
                client(port).upload(b"P6 1000 1000 255\n" + bytes(3_000_000))

    threads = [threading.Thread(target=upload_until_it_is_gone) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert client(port).get()[0] == 200
    os.kill(running.process.pid, number)
    ended = running.end(30)
    assert (ended.code, ended.err) == (code, "")
    for thread in threads:
        thread.join()
    assert not list(tmp_path.iterdir())


def test_the_address_of_other_hosts_is_told(start_program, client):
    running, port = start_program("--host", "0.0.0.0")
    (url,) = re.findall(r"http://\S+/", read_line(running))
    assert read_line(running, 1) == f"note: anyone who can reach this computer can use {url}\n"
    assert "0.0.0.0" not in url
    assert client(port).get()[0] == client(port).get(host="127.0.0.2")[0] == 200
    running, port = start_program("--host", "::1")
    assert f"on http://[::1]:{port}/ " in read_line(running)
    assert client(port).get(host="::1")[0] == 200


def serve(*options) -> str:
    return classify("--serve", *options).error


def test_a_port_that_is_in_use(checkpoint, running):
    assert f"--port {running.port} is in use" in serve("--ckpt", checkpoint, "--port", running.port)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--port", 0], "--port must be from 1 to 65535, got 0"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid is not an address"),
        (["--host", "a" * 70], "is not an address"),
        (["--index", 0], "or --serve"),
    ],
)
def test_mistakes(checkpoint, options, message):
    assert message in serve("--ckpt", checkpoint, *options)


def test_no_checkpoint_yet(tmp_path):
    assert "no run with a checkpoint found" in serve("--ckpt", tmp_path)
