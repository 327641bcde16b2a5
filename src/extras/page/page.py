"""The web page: static files, and JSON responses to uploaded images."""

import base64
import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from src.errors import InputError, printable
from src.extras.report.contact_sheet import overlay_attention, to_picture
from src.inference.batch import UNSURE
from src.inference.predictor import Predictor, PreparedImage

MAX_BARS = 10
JSON = "application/json"
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}


@dataclass
class Page:
    """A web page that shows one network's predictions for an image.

    Args:
        predictor: the network and its dataset.
        examples: images to choose from, uint8 [C, S, S], with their class names.
        prepare: function that reads an image file.
        draws: whether the page has a drawing area.
        unsure: answers with a lower probability are called a guess (default: `UNSURE`).
    """

    predictor: Predictor
    examples: list[tuple[Tensor, str]]
    prepare: Callable[[str], PreparedImage]
    draws: bool
    unsure: float | None = None

    def files(self) -> dict[str, tuple[str, bytes]]:
        """Return the content type and content of every path that a browser can load."""
        dataset = self.predictor.dataset
        about = {
            "name": printable(dataset.name),
            "parameters": sum(p.numel() for p in self.predictor.classifier.parameters()),
            "classes": len(self.predictor.classes),
            "channels": dataset.channels,
            "size": dataset.image_size,
            "draws": self.draws,
            "unsure": self.unsure or UNSURE,
            "examples": [_picture(name, to_picture(image)) for image, name in self.examples],
        }
        folder = Path(__file__).parent
        files = {path: (kind, (folder / name).read_bytes()) for path, (name, kind) in FILES.items()}
        return files | {"/page.json": (JSON, json.dumps(about).encode())}

    def answer(self, upload: bytes) -> bytes:
        """Classify an image, and return its top classes, notes and two pictures as JSON.

        Args:
            upload: content of an image file.

        Raises:
            InputError: the image cannot be read.
        """
        with tempfile.TemporaryDirectory(prefix="page-") as folder:
            path = Path(folder, "image")
            path.write_bytes(upload)
            try:
                prepared = self.prepare(str(path))
            except InputError as error:
                raise InputError(str(error).replace(f"{path}: ", "")) from None
        image = prepared.image
        pictures = [_picture("What the network was given", to_picture(image))]
        with contextlib.suppress(InputError):  # convolutional networks have no attention
            attention = self.predictor.attention(image[None])[0]
            pictures.append(
                _picture("Where it looked (attention)", overlay_attention(image, attention))
            )
        best = self.predictor.top(image[None], MAX_BARS)[0]
        return json.dumps({"best": best, "notes": prepared.notes, "pictures": pictures}).encode()


def _picture(caption: str, picture: Image.Image) -> dict[str, str]:
    file = io.BytesIO()
    picture.save(file, "PNG")
    content = base64.b64encode(file.getvalue()).decode()
    return {"caption": caption, "source": f"data:image/png;base64,{content}"}
