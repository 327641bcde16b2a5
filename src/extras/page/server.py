"""Serve the web page of `python classify.py --serve`.

Each connection carries one request and has a deadline. Clients upload image data, never file paths.
Images are decoded and classified one at a time, because decoding an image can take 448 MiB.
"""

import asyncio
import contextlib
import errno
import ipaddress
import re
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

from src.errors import InputError, one_line, printable
from src.extras.page.page import JSON, Page
from src.extras.page.request import UPLOAD, Refusal, Request, host_pattern

MAX_CONNECTIONS = 32  # further connections wait
MAX_UPLOADS = 4  # simultaneous uploads in memory; further uploads wait
TIMEOUT = 60  # deadline for a connection; enough for 20 MiB at 3 Mbit/s
HEADERS = """\
Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'
Cross-Origin-Opener-Policy: same-origin
Cross-Origin-Resource-Policy: same-origin
Referrer-Policy: same-origin
X-Content-Type-Options: nosniff
Cache-Control: no-store
Connection: close
"""


def serve(page: Page, host: str, port: int) -> None:
    """Serve a page until Ctrl-C or SIGTERM.

    Raises:
        InputError: the port is in use, or the host is not an address of this computer.
    """
    with listen(host, port) as listener, ThreadPoolExecutor(max_workers=1) as worker:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        ip = ipaddress.ip_address(listener.getsockname()[0])
        name = _network_address() if ip.is_unspecified else printable(host)
        url = f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"
        dataset = printable(page.predictor.dataset.name)
        print(f"Serving {dataset} on {url} (press Ctrl-C to stop)", flush=True)
        if not ip.is_loopback:
            print(f"note: anyone who can reach this computer can use {url}", flush=True)
        hosts = host_pattern(host, port, ip.is_loopback)
        try:
            asyncio.run(Server(page, hosts, worker).run(listener))
        except KeyboardInterrupt:
            print()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens for connections to `host`.

    Raises:
        InputError: the port is in use, or the host is not an address of this computer.
    """
    if not 1 <= port <= 65535:
        raise InputError(f"--port must be from 1 to 65535, got {port}; the default is 7860")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=256)
    except (OSError, UnicodeError) as error:
        problems = {
            errno.EADDRINUSE: f"--port {port} is in use; choose a different one or free it",
            errno.EACCES: f"--port {port} needs administrator rights; use a port above 1023",
        }
        unknown = f"--host {host} is not an address of this computer; use 127.0.0.1 or 0.0.0.0"
        raise InputError(problems.get(getattr(error, "errno", 0), unknown)) from None


def _network_address() -> str:
    """Return the network address of this computer, or its host name if it has none."""
    with contextlib.suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # a documentation address (RFC 5737); sends no packet
        return str(probe.getsockname()[0])
    return socket.gethostname()


class Server:
    """An HTTP server for one page.

    Args:
        page: the page to serve.
        hosts: pattern of the accepted `Host` headers.
        worker: executor whose single thread classifies the images.
    """

    def __init__(self, page: Page, hosts: re.Pattern[str], worker: ThreadPoolExecutor) -> None:
        self.page = page
        self.files = page.files()
        self.hosts = hosts
        self.connections = asyncio.Semaphore(MAX_CONNECTIONS)
        self.uploads = asyncio.Semaphore(MAX_UPLOADS)
        self.worker = worker

    async def run(self, listener: socket.socket) -> None:
        """Answer requests until cancelled."""
        # The default handler prints a traceback for every lost connection.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        server = await asyncio.start_server(self._handle, sock=listener)
        try:
            # When it is cancelled, serve_forever waits until all connections are closed.
            await asyncio.Event().wait()
        finally:
            server.close()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT), self.connections:
                writer.write(await self._respond(reader))
                writer.write_eof()
                while await reader.read(2**16):
                    pass  # closing a socket with unread data would discard the response
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the client is gone or too slow, or its headers are too long
        except Exception as error:
            print(f"error: page: {printable(repr(error))}", file=sys.stderr)
        finally:
            writer.transport.abort()

    async def _respond(self, reader: asyncio.StreamReader) -> bytes:
        try:
            request = Request(await reader.readuntil(b"\r\n\r\n"))
            request.check(self.hosts, self.files)
            if request.path != UPLOAD:
                return _response(200, *self.files[request.path])
            async with self.uploads:
                upload = await reader.readexactly(int(request.headers["content-length"]))
                loop = asyncio.get_running_loop()
                work = loop.run_in_executor(self.worker, self.page.answer, upload)
                return _response(200, JSON, await work)
        except Refusal as refusal:
            status, reason = refusal.args
        except InputError as error:
            status, reason = 422, str(error)
        except (OSError, RuntimeError, MemoryError) as error:  # full disk, out of memory
            print(f"error: page: {printable(repr(error))}", file=sys.stderr)
            status, reason = 500, one_line(error)
        return _response(status, "text/plain; charset=utf-8", reason.encode())


def _response(status: int, kind: str, content: bytes) -> bytes:
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\n{HEADERS}"
    head += f"Content-Type: {kind}\nContent-Length: {len(content)}\n\n"
    return head.replace("\n", "\r\n").encode() + content
