"""The server of the page in a thread of the tests, with an untrained network behind it."""

import asyncio
import contextlib
import json
import socket
import threading

import pytest
import torch
from launch import free_port

from src.config import DatasetInfo, TrainingConfig, ViTConfig
from src.extras.page.page import Page
from src.extras.page.request import host_pattern
from src.extras.page.server import Server, listen
from src.inference.predictor import Predictor
from src.models.build import build_network
from src.runs.checkpoint import FORMAT, describe

HOSTILE = (
    "</script><img src=x onerror=run()>${run()}"  # a folder, and so a class, may have this name
)


class Running:
    """A running server.

    Attributes:
        page: its page.
        port: its port on 127.0.0.1.
    """

    def __init__(self, page: Page):
        self.page = page
        self.port = free_port()
        self.listener = listen("127.0.0.1", self.port)
        self.thread = threading.Thread(target=asyncio.run, args=[self._run()])
        self.thread.start()
        self.send("GET / HTTP/1.1")  # now it runs

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.task = asyncio.current_task()
        hosts = host_pattern("127.0.0.1", self.port, is_private=True)
        with contextlib.suppress(asyncio.CancelledError):
            await Server(self.page, hosts).run(self.listener)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def send(self, request: str, body: bytes = b"") -> tuple[int, str, bytes]:
        """Return status, headers and body of the answer; PORT in the request is replaced.

        The status is 0 if the connection was closed without an answer.
        """
        head = request.replace("PORT", str(self.port)).replace("\n", "\r\n")
        with self.connect() as connection:
            connection.sendall(f"{head}\r\n\r\n".encode("latin-1"))
            connection.sendall(body)
            return self.receive(connection)

    def upload(self, image: bytes, headers: str = "") -> tuple[int, str, bytes]:
        """Return the answer to an image, sent as the page would."""
        head = f"POST /classify HTTP/1.1\nHost: 127.0.0.1:PORT\nContent-Length: {len(image)}"
        return self.send(f"{head}\nContent-Type: application/octet-stream{headers}", image)

    @staticmethod
    def receive(connection: socket.socket) -> tuple[int, str, bytes]:
        answer = b"".join(iter(lambda: connection.recv(2**16), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1]) if head else 0
        return status, head.decode(), body

    def about(self) -> dict:
        return json.loads(self.send("GET /page.json HTTP/1.1\nHost: 127.0.0.1:PORT")[2])


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A file of an untrained network for color images of two classes."""
    path = tmp_path_factory.mktemp("page") / "photos.ckpt"
    dataset = DatasetInfo(
        classes=("cat", HOSTILE), image_size=8, channels=3, patch_size=4, name="photos"
    )
    config = ViTConfig(width=8, depth=1, heads=1)
    weights = build_network(config, dataset).state_dict()
    content = {
        "format": FORMAT,
        "hyper_parameters": describe(dataset, config, TrainingConfig()),
        "state_dict": {f"net.{key}": value for key, value in weights.items()},
    }
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def predictor(checkpoint):
    return Predictor(checkpoint, "cpu")


@pytest.fixture
def start():
    """A function that starts the server of a page."""
    started = []

    def start(page: Page) -> Running:
        started.append(Running(page))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def running(predictor, start):
    """A server for a network that has six test images to choose from."""
    images = torch.arange(6 * 3 * 64).to(torch.uint8).reshape(6, 3, 8, 8)
    examples = [(image, predictor.classes[i % 2]) for i, image in enumerate(images)]
    return start(Page(predictor, examples, predictor.prepare, draws=False))
