"""`python classify.py --serve` as a program: output, exit codes, mistakes in options."""

import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
from launch import free_port
from program import ROOT, classify


class Program:
    """`classify.py --serve` in a process of its own, until the block ends by SIGTERM.

    Attributes:
        lines: the first lines of its output, as many as asked for.
    """

    def __init__(self, checkpoint, *options, lines: int = 1):
        self.port = free_port()
        arguments = ["--serve", "--ckpt", checkpoint, "--device", "cpu", "--port", self.port]
        command = map(str, [sys.executable, "classify.py", *arguments, *options])
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(list(command), cwd=ROOT, **pipes)
        self.lines = [self.process.stdout.readline() for _ in range(lines)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end(signal.SIGTERM)

    def end(self, number: int) -> tuple[int, str]:
        """Return the exit code and what was printed on stderr."""
        self.process.send_signal(number)
        errors = self.process.communicate(timeout=30)[1]
        return self.process.returncode, errors

    def get(self, host: str = "127.0.0.1", data: bytes | None = None) -> int:
        path = "classify" if data else ""
        url = f"http://{host}:{self.port}/{path}"
        request = urllib.request.Request(url, data, {"Content-Type": "application/octet-stream"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return opener.open(request, timeout=60).status
        except urllib.error.HTTPError as error:
            return error.code


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_it_says_where_it_is_and_ends_by_a_signal_in_the_middle_of_work(
    checkpoint, tmp_path, monkeypatch, number, code
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    program = Program(checkpoint)
    url = f"http://127.0.0.1:{program.port}/"
    assert program.lines == [f"Serving photos on {url} (Ctrl-C stops it)\n"]
    assert program.get() == 200
    clients = [threading.Thread(target=_ask, args=(program,)) for _ in range(8)]
    for client in clients:
        client.start()
    assert program.end(number) == (code, "")
    for client in clients:
        client.join()
    assert not list(tmp_path.iterdir())


def _ask(program: Program) -> None:
    """Send images until the server is gone."""
    try:
        while True:
            program.get(data=b"P6 2000 2000 255\n" + bytes(12_000_000))
    except OSError:
        pass


def test_other_hosts(checkpoint):
    with Program(checkpoint, "--host", "0.0.0.0", lines=2) as program:
        (url,) = re.findall(r"http://\S+:\d+/", program.lines[0])
        note = f"note: everyone who can reach this computer can use {url}\n"
        assert program.lines[1] == note and "0.0.0.0" not in url
        assert program.get() == program.get("127.0.0.2") == program.get("localhost") == 200
    with Program(checkpoint, "--host", "::1") as program:
        assert f"on http://[::1]:{program.port}/ " in program.lines[0]
        assert program.get("[::1]") == 200


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
