"""A page to play with: draw a digit, or drop, paste or photograph an image, and see what the network makes of it.

Built on Gradio. What the browser sends is untrusted: images go through `src/data/images.py`, never through Gradio's
own decoding, and everything that is shown is escaped. `server.py` guards the door.
"""

import base64
import binascii
import contextlib
import io
import os
import tempfile
from html import escape
from pathlib import Path

from PIL import Image
from torch import Tensor

from src.errors import InputError
from src.extras.report.contact_sheet import heated, picture_of
from src.inference.batch import UNSURE
from src.inference.predictor import Predictor

# Gradio reads these when it is imported, or at each of its own requests to the page it serves.
os.environ |= {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}
os.environ["NO_PROXY"] = ",".join(
    filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"])
)
try:
    import gradio as gr
except ModuleNotFoundError as error:
    if error.name != "gradio":
        raise
    raise InputError(
        "--serve needs Gradio; install it with: pip install -r requirements-app.txt"
    ) from None

SHOWN = 10  # classes; where there are more, the likeliest
DRAWING = "data:image/png;base64,"
HERE = Path(__file__)
INVITATIONS = {True: "Draw something, or choose a photo.", False: "Choose an image."}


# The page -------------------------------------------------------------------------------------------------------------


def build(predictor: Predictor, examples: list[tuple[Tensor, str]]) -> gr.Blocks:
    """The page, not yet served: fields on one side, the answer on the other."""
    draws = bool(predictor.strokes)
    name = predictor.dataset["name"]
    once = {
        "concurrency_limit": 1,
        "concurrency_id": "network",
        "show_progress": "hidden",
        "api_visibility": "private",
    }
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(60, 300)) as page:
        gr.HTML(f"<h1>{escape(name)}</h1><p>{_about(predictor)}</p>")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=280):
                if draws:
                    with gr.Tab("Draw"):
                        pad = _pad()
                    with gr.Tab("Photo"):
                        photo = _photo()
                else:
                    photo = _photo()
                    if examples:
                        row = _examples(examples)
            with gr.Column(min_width=280):
                answer = gr.HTML(_said(INVITATIONS[draws]), elem_classes="answer")
        photo.change(lambda path: _of_file(predictor, path, draws), photo, answer, **once)
        if draws:
            pad.input(
                lambda drawn: _of_drawing(predictor, drawn),
                pad,
                answer,
                trigger_mode="always_last",
                **once,
            )
        elif examples:
            row.select(lambda index: _of_example(predictor, examples, index), row, answer, **once)
    return page


def _about(predictor: Predictor) -> str:
    parameters = sum(p.numel() for p in predictor.classifier.parameters())
    size, kind = predictor.image_size, "gray" if predictor.channels == 1 else "color"
    network = f"A network of {parameters:,} parameters that tells {len(predictor.classes):,} classes apart"
    return f"{network}; it reads {kind} images of {size}x{size} pixels."


def _pad() -> gr.HTML:
    canvas = '<canvas width="320" height="320" aria-label="drawing field"></canvas><button>Clear</button>'
    return gr.HTML(
        "", html_template=canvas, js_on_load=HERE.with_suffix(".js").read_text(), elem_classes="pad",
        apply_default_css=False,
    )  # fmt: skip


def _photo() -> gr.Image:
    """Gradio's field for an image, but what was sent is handed on as a file, unopened, and no address is fetched."""
    camera = gr.WebcamOptions(mirror=False, constraints={"video": {"facingMode": "environment"}})
    looks = {"label": "Photo", "height": "20rem", "elem_id": "photo", "buttons": []}
    photo = gr.Image(
        type="filepath", sources=["upload", "webcam", "clipboard"], webcam_options=camera, **looks
    )
    usual = photo.async_move_resource_to_block_cache

    async def keep(path: str) -> str:
        if not Path(path).resolve().is_relative_to(Path(photo.GRADIO_CACHE).resolve()):
            raise InputError("this file was not sent to the page")
        return await usual(path)

    # Replaced in this one field: Gradio writes a stub file into src/ for every subclass of its own.
    photo.preprocess = lambda payload: payload.path if payload else None
    photo.async_move_resource_to_block_cache = keep
    return photo


def _examples(examples: list[tuple[Tensor, str]]) -> gr.HTML:
    chosen = """element.addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (button) { props.value = button.dataset.index; trigger("select"); }
    });"""
    buttons = [
        f'<button data-index="{i}" title="{escape(name)}">'
        f'<img src="{_address(picture_of(image))}" alt="{escape(name)}"></button>'
        for i, (image, name) in enumerate(examples)
    ]
    html = f'<p>Or one of the test images:</p><div class="choice">{"".join(buttons)}</div>'
    return gr.HTML(  # the names of the classes are not part of the template, which browsers run as code
        "",
        html_template="${images}",
        images=html,
        js_on_load=chosen,
        elem_classes="examples",
        apply_default_css=False,
    )


# Answers --------------------------------------------------------------------------------------------------------------


def _of_file(predictor: Predictor, path: str | None, draws: bool) -> str:
    """An uploaded file; None when it was taken away."""
    if not path:
        return _said(INVITATIONS[draws])
    try:
        return _answer(predictor, *_open(predictor, path))
    except InputError as error:
        return _said(str(error).replace(path, Path(path).name))


def _of_drawing(predictor: Predictor, drawn: str) -> str:
    """A drawing, as the address that a browser makes of a PNG file; empty when it was wiped."""
    if not drawn:
        return _said(INVITATIONS[True])
    try:
        png = base64.b64decode(drawn.removeprefix(DRAWING), validate=True)
    except (binascii.Error, ValueError):
        return _said("That is not a drawing.")
    with tempfile.NamedTemporaryFile(suffix=".png", dir=os.environ["GRADIO_TEMP_DIR"]) as file:
        file.write(png)
        file.flush()
        try:
            return _answer(predictor, *_open(predictor, file.name))
        except InputError as error:
            return _said(str(error).replace(file.name, "The drawing"))


def _open(predictor: Predictor, path: str) -> tuple[Tensor, str]:
    """What the network is given of an image file, uint8 [C, S, S], and what the user should know of it."""
    given = predictor.open(path)
    return given.image, "; ".join(given.notes)


def _of_example(predictor: Predictor, examples: list[tuple[Tensor, str]], index: str) -> str:
    if not (index.isdecimal() and int(index) < len(examples)):
        return _said("There is no such image.")
    image, name = examples[int(index)]
    return _answer(predictor, image, f"labeled {name}")


def _answer(predictor: Predictor, image: Tensor, note: str = "") -> str:
    """What the network makes of an image, uint8 [C, S, S], as HTML."""
    best = predictor.top(image[None], SHOWN)[0]
    if not note and best[0]["probability"] < UNSURE:
        note = "a guess: the network is not sure"
    top = f'<div class="top"><b>{escape(best[0]["class"])}</b><span>{escape(note)}</span></div>'
    few = len(predictor.classes) <= SHOWN
    rows = (
        sorted(best, key=lambda row: row["index"]) if few else best
    )  # each bar keeps its place, where there is one
    short = " short" if max(len(row["class"]) for row in rows) <= 2 else ""
    bars = "".join(
        f'<li><span class="name" title="{escape(row["class"])}">{escape(row["class"])}</span>'
        f'<span class="rail"><i style="width: {row["probability"]:.1%}"></i></span>'
        f'<span class="value">{row["probability"]:.1%}</span></li>'
        for row in rows
    )
    pictures = [(_address(picture_of(image)), "What the network was given")]
    with contextlib.suppress(InputError):  # a convolutional network has no attention
        looked = heated(image, predictor.attention(image[None])[0])
        pictures.append((_address(looked), "Where it looked (attention)"))
    figures = "".join(
        f'<figure><img src="{address}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
        for address, caption in pictures
    )
    return f'{top}<ol class="bars{short}">{bars}</ol><div class="pictures">{figures}</div>'


def _said(message: str) -> str:
    return f'<div class="top said"><b>{escape(message)}</b></div>'


def _address(picture: Image.Image) -> str:
    """A PNG file that stands in the page itself."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return DRAWING + base64.b64encode(file.getvalue()).decode()
