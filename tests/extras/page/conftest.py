"""Fixtures that run the web page's server in a thread, with an untrained network."""

import asyncio
import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from launch import free_port
from vits import save_module

from src.config import DatasetInfo
from src.extras.page.page import Page
from src.extras.page.request import host_pattern
from src.extras.page.server import Server, listen
from src.inference.predictor import Predictor
from src.training.classifier import ViT

HOSTILE = "</script><img src=x onerror=run()>${run()}"  # valid as a folder name


class Client:
    """Send raw HTTP requests to a local server."""

    def __init__(self, port: int):
        self.port = port

    def connect(self, host: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection((host, self.port), timeout=60)

    def send(self, head: str, body: bytes = b"", host: str = "127.0.0.1") -> tuple[int, str, bytes]:
        """Send a request, and return the status, headers and body of the response.

        `PORT` in `head` is replaced by the server's port. The status is 0 if the server
        closed the connection without a response.
        """
        head = head.replace("PORT", str(self.port)).replace("\n", "\r\n")
        with self.connect(host) as connection:
            connection.sendall(f"{head}\r\n\r\n".encode("latin-1"))
            connection.sendall(body)
            return self.receive(connection)

    @staticmethod
    def receive(connection: socket.socket) -> tuple[int, str, bytes]:
        answer = b"".join(iter(lambda: connection.recv(2**16), b""))
        head, _, body = answer.decode("latin-1").partition("\r\n\r\n")
        return int(head[9:12] or 0), head, body.encode("latin-1")

    def get(self, path: str = "/", host: str = "127.0.0.1") -> tuple[int, str, bytes]:
        name = f"[{host}]" if ":" in host else host
        return self.send(f"GET {path} HTTP/1.1\nHost: {name}:PORT", host=host)

    def upload(self, image: bytes, headers: str = "") -> tuple[int, str, bytes]:
        """Upload an image as the page does, and return the response."""
        head = f"POST /classify HTTP/1.1\nHost: 127.0.0.1:PORT\nContent-Length: {len(image)}"
        return self.send(f"{head}\nContent-Type: application/octet-stream{headers}", image)


class Running(Client):
    """A server that runs in its own thread."""

    def __init__(self, page: Page):
        super().__init__(free_port())
        self.page = page
        self.listener = listen("127.0.0.1", self.port)
        self.thread = threading.Thread(target=asyncio.run, args=[self._run()])
        self.thread.start()
        self.get()  # wait until the server is running

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.task = asyncio.current_task()
        hosts = host_pattern("127.0.0.1", self.port, is_private=True)
        with ThreadPoolExecutor(1) as worker, contextlib.suppress(asyncio.CancelledError):
            await Server(self.page, hosts, worker).run(self.listener)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Return the path of a checkpoint of an untrained network for color images of two classes."""
    path = tmp_path_factory.mktemp("page") / "photos.ckpt"
    dataset = DatasetInfo(
        classes=("cat", HOSTILE), image_size=8, channels=3, patch_size=4, name="photos"
    )
    return save_module(path, ViT(dataset, width=8, depth=1, heads=1))


@pytest.fixture(scope="session")
def predictor(checkpoint):
    return Predictor(checkpoint, "cpu")


@pytest.fixture
def start():
    """Return a function that starts a server for a page."""
    started = []

    def start(page: Page) -> Running:
        started.append(Running(page))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def running(predictor, start):
    """Return a running server whose page offers six test images."""
    images = torch.arange(6 * 3 * 64).to(torch.uint8).reshape(6, 3, 8, 8)
    examples = [(image, predictor.classes[i % 2]) for i, image in enumerate(images)]
    return start(Page(predictor, examples, predictor.prepare, draws=False))


@pytest.fixture
def client():
    """Return the `Client` class, whose instances connect to a given port."""
    return Client
