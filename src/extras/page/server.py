"""Serves the page of `page.py`, for this computer alone unless told otherwise.

What browsers send is untrusted: its size is limited, no file is handed out but what was sent, and nothing is fetched
from elsewhere, neither by the server nor by the browser.
"""

import contextlib
import errno
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from src.errors import InputError
from src.inference.predictor import Predictor

if TYPE_CHECKING:
    import gradio as gr

MAX_UPLOAD = (
    20 * 2**20
)  # bytes of an image file; that of a camera with 50 million pixels is smaller
MAX_MESSAGE = 2**20  # bytes of everything else, of which a drawing is the largest: some 10 kB
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"  # Gradio evaluates code


def serve(predictor: Predictor, examples: list[tuple[Tensor, str]], host: str, port: int) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        examples: images to offer, uint8 [C, S, S], each with the name of its class.

    Raises:
        InputError: the port is in use, or the host is not one of this computer's.
    """
    _check_address(host, port)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="classify-page-") as folder:
        page = start(predictor, examples, host, port, Path(folder))
        print(f"Serving {page.title} on {page.local_url} (Ctrl-C stops it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()
        finally:
            page.close(verbose=False)


def start(
    predictor: Predictor, examples: list[tuple[Tensor, str]], host: str, port: int, folder: Path
) -> "gr.Blocks":
    """Begin to serve the page, in threads; what is uploaded lies in `folder`, for a few minutes each."""
    from src.extras.page.page import (  # only here: Gradio takes seconds to import, a mistake is said at once
        build,
        gr,
    )

    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_EXAMPLES_CACHE": str(folder)}
    page = build(predictor, examples)
    from starlette.middleware import Middleware  # comes with Gradio

    page.launch(
        server_name=host,
        server_port=port,
        app_kwargs={"middleware": [Middleware(Guard, folder=folder)]},
        max_file_size=MAX_UPLOAD,
        allowed_paths=[],
        footer_links=[],
        theme=gr.themes.Default(
            font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ),  # the computer's own
        css=Path(__file__).with_name("page.css").read_text(),
        share=False,
        ssr_mode=False,
        mcp_server=False,
        run_history=False,
        enable_monitoring=False,
        inline=False,
        quiet=True,
        prevent_thread_lock=True,
    )
    return page


def _check_address(host: str, port: int) -> None:
    """Take the address for a moment: what is wrong with it is found before Gradio words it in its own way."""
    if not 1 <= port <= 65535:
        raise InputError(f"--port {port}: use 1 to 65535, for example 7860")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"--port {port} is in use; choose another, or stop what uses it"
            ) from None
        if error.errno == errno.EACCES:
            raise InputError(
                f"--port {port}: no permission to use it; choose one above 1023"
            ) from None
        raise InputError(
            f"--host {host}: not an address of this computer; use 127.0.0.1, or 0.0.0.0 for all"
        ) from None


class Guard:
    """Refuses, before Gradio sees them, requests that the page never makes, and has browsers load nothing from outside.

    Gradio itself would fetch any address of the Internet for whoever asks for it as a file.
    """

    def __init__(self, app, folder: Path):
        self.app, self.folder = app, folder

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def with_policy(message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    (b"content-security-policy", POLICY.encode()),
                ]
            await send(message)

        if reason := self.refusal(scope):
            await send(
                {
                    "type": "http.response.start",
                    "status": 403,
                    "headers": [(b"content-type", b"text/plain")],
                }
            )
            return await send({"type": "http.response.body", "body": reason.encode()})
        await self.app(scope, receive, with_policy)

    def refusal(self, scope) -> str | None:
        path, headers = scope["path"], dict(scope["headers"])
        if "proxy=" in path or (
            "file=" in path and not _is_within(path.split("file=", 1)[1], self.folder)
        ):
            return "only what was sent to this page is served"
        size, most = (
            headers.get(b"content-length", b"0"),
            MAX_UPLOAD + 2**20 if path.endswith("/upload") else MAX_MESSAGE,
        )
        if scope["method"] == "POST" and (b"transfer-encoding" in headers or int(size) > most):
            return f"more than {most >> 20} MiB"
        return None


def _is_within(path: str, folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # a NUL byte, a name that is too long
        return Path(path).resolve().is_relative_to(folder.resolve())
    return False
