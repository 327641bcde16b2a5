"""Test `python classify.py --serve`: output, exit codes and invalid options."""

import contextlib
import re
import signal
import subprocess
import sys
import threading

import pytest
from launch import free_port
from program import ROOT, classify


def _heed_ctrl_c() -> None:
    """Restore the default SIGINT handler, which shells disable for background processes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start_program(checkpoint):
    """Return a function that starts `classify.py --serve` and returns the process and the port."""
    processes = []

    def start(*options):
        port = free_port()
        command = [
            "classify.py",
            "--serve",
            "--ckpt",
            checkpoint,
            "--device",
            "cpu",
            "--port",
            port,
        ]
        arguments = [sys.executable, *map(str, command), *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(arguments, cwd=ROOT, preexec_fn=_heed_ctrl_c, **pipes))
        return processes[-1], port

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_a_signal_ends_it_in_the_middle_of_work(
    start_program, client, tmp_path, monkeypatch, number, code
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process, port = start_program()
    line = process.stdout.readline()
    assert line == f"Serving photos on http://127.0.0.1:{port}/ (press Ctrl-C to stop)\n"

    def upload_until_it_is_gone():
        with contextlib.suppress(OSError):
            while True:
                client(port).upload(b"P6 1000 1000 255\n" + bytes(3_000_000))

    threads = [threading.Thread(target=upload_until_it_is_gone) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert client(port).get()[0] == 200
    process.send_signal(number)
    assert process.communicate(timeout=30)[1] == "" and process.returncode == code
    for thread in threads:
        thread.join()
    assert not list(tmp_path.iterdir())


def test_the_address_of_other_hosts_is_told(start_program, client):
    process, port = start_program("--host", "0.0.0.0")
    (url,) = re.findall(r"http://\S+/", process.stdout.readline())
    note = process.stdout.readline()
    assert note == f"note: anyone who can reach this computer can use {url}\n"
    assert "0.0.0.0" not in url
    assert client(port).get()[0] == client(port).get(host="127.0.0.2")[0] == 200
    process, port = start_program("--host", "::1")
    assert f"on http://[::1]:{port}/ " in process.stdout.readline()
    assert client(port).get(host="::1")[0] == 200


def serve(*options) -> str:
    return classify("--serve", *options).error


def test_a_port_that_is_in_use(checkpoint, running):
    assert f"--port {running.port} is in use" in serve("--ckpt", checkpoint, "--port", running.port)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--port", 0], "--port must be from 1 to 65535, got 0"),
        (["--port", 99999], "--port must be from 1 to 65535"),
        (["--host", "no.such.host.invalid"], "--host no.such.host.invalid is not an address"),
        (["--host", ""], "is not an address"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1 is not an address"),
        (["--host", "a" * 70], "is not an address"),
        (["--index", 0], "or --serve"),
    ],
)
def test_mistakes(checkpoint, options, message):
    assert message in serve("--ckpt", checkpoint, *options)


def test_no_checkpoint_yet(tmp_path):
    assert "no run has a checkpoint" in serve("--runs", tmp_path)
