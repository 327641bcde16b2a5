"""Describe an exported file: how to prepare images for it, and Python code that uses it."""

from pathlib import Path
from typing import Any

import torch

from src.config import DatasetInfo
from src.extras.paper.strokes import center_of_image, strokes_of
from src.extras.weights.names import timm_arguments
from src.inference.predictor import DARK, Predictor

Description = dict[str, Any]

OPEN_PICTURE = """\
import json, numpy
from PIL import Image, ImageOps
picture = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGBA")
white = Image.new("RGBA", picture.size, "white")
picture = Image.alpha_composite(white, picture).convert("{mode}")
"""
SQUARE = {
    "crop": """\
picture = ImageOps.fit(picture, ({size}, {size}), Image.Resampling.BICUBIC)
""",
    "pad": """\
picture = ImageOps.contain(picture, ({size}, {size}), Image.Resampling.BICUBIC)
missing = [{size} - length for length in (picture.height, picture.width)]
margins = [(length // 2, length - length // 2) for length in missing]
picture = numpy.pad(numpy.atleast_3d(picture), [*margins, (0, 0)], "edge")
""",
    "stretch": """\
picture = picture.resize(({size}, {size}), Image.Resampling.BICUBIC)
""",
}
CROP_STROKES = """\
if picture.size != ({size}, {size}):
    picture = ImageOps.autocontrast(picture)
    if numpy.asarray(picture)[[0, -1]].mean() > 127:
        picture = ImageOps.invert(picture)
    strokes = picture.point(lambda value: 255 * (value > 127)).getbbox()
    picture = ImageOps.pad(picture.crop(strokes), ({side}, {side}))
    picture = ImageOps.expand(picture, ({size} - {side}) // 2)
"""
ARRANGE = """\
pixels = numpy.asarray(picture).reshape({size}, {size}, {channels})
images = pixels.transpose(2, 0, 1)[None]
"""
RUN_ONNX = """\
import onnxruntime
session = onnxruntime.InferenceSession({path!r})
(logits,) = session.run(None, {{"images": images}})
"""
RUN_TORCH = """\
import torch
network = torch.export.load({path!r}).module()
logits = network(torch.from_numpy(images)).numpy()
"""
NAME_CLASS = """\
classes = json.load(open({description!r}))["classes"]
print(classes[logits[0].argmax()])
"""
LOAD_TIMM = """\
import timm
network = timm.create_model(**{arguments}, checkpoint_path={path!r}).eval()
"""
LOAD_OURS = """\
from safetensors.torch import load_file
from src.config import CNNConfig, DatasetInfo, ViTConfig
from src.models.build import build_network
config = {config!r}
dataset = DatasetInfo(classes={classes}, image_size={size}, channels={channels}, patch_size={patch})
network = build_network(config, dataset, ensemble={ensemble})
network.load_state_dict(load_file({path!r}))
network.eval()
"""
PREDICT = """\
def predict(images):
    return (network(images) / {temperature}).softmax(1)
"""


def describe(predictor: Predictor, format: str, output: Path) -> Description:
    """Return everything that other programs need to use the file, as plain values.

    Args:
        predictor: the exported network.
        format: a key of `FORMATS`.
        output: the exported file.
    """
    dataset = predictor.dataset
    size, channels = dataset.image_size, dataset.channels
    temperature = predictor.classifier.temperature
    dtype, values, division = "uint8", "from 0 to 255", "already divided"
    if format == "safetensors":
        dtype, division = "float32", "to be divided"
        values = "from 0 to 1, normalized per channel: (value - mean) / std"
    return {
        "checkpoint": str(predictor.checkpoint.path),
        "format": format,
        "dataset": dataset.name,
        "classes": predictor.classes,
        "image_size": size,
        "channels": channels,
        "mean": dataset.mean,
        "std": dataset.std,
        "temperature": temperature,
        "preparation": preparation(dataset, format),
        "input": f"images: {dtype} [batch, {channels}, {size}, {size}], {values}",
        "output": f"logits: float32 [batch, {len(predictor.classes)}], {division} by the "
        f"temperature {temperature:.4g}; their softmax then gives the class probabilities",
        "torch": torch.__version__,
        "python": _python_code(predictor, format, output),
    }


def sidecar(output: Path) -> Path:
    """Return the path of the JSON file that describes an exported file."""
    return output.with_name(output.name + ".json")


def preparation(dataset: DatasetInfo, format: str) -> list[str]:
    """Return the steps that turn a picture into an input image, one sentence per step."""
    size, strokes = dataset.image_size, strokes_of(dataset)
    square = f"{size}x{size} pixels"
    mode = "grayscale" if dataset.channels == 1 else f"{dataset.channels} channels"
    steps = [
        "Apply the EXIF orientation, composite transparent pixels over white, and convert the "
        f"picture to {mode}, 8 bits per channel."
    ]
    if strokes is None:
        action = {
            "crop": f"Crop the center square and resize it to {square}",
            "pad": f"Resize the longer side to {size} pixels and repeat the edges to fill {square}",
            "stretch": f"Resize it to {square}, ignoring its proportions",
        }
        steps.append(f"{action[dataset.fit]}, bicubic and antialiased.")
        if min(dataset.mean) < DARK:
            steps.append(
                "If its border is light, invert it: the training images have dark borders."
            )
        return steps
    steps += [
        f"If it has {square} and light strokes on black, skip the next three steps.",
        "Stretch its contrast to the range from 0 to 255. If its border is light (above 127), "
        "invert it: strokes are light on black.",
        "Crop it to the bounding box of the strokes (above 127) and resize the longer side to "
        f"{strokes.side} pixels with antialiasing.",
        f"Center it on a black image of {square}; the longer side then has margins of "
        f"{(size - strokes.side) // 2} pixels.",
    ]
    if strokes.center == "mass":
        center = center_of_image(size, strokes)
        actor = "Shift it" if format == "safetensors" else "Do nothing more: the file shifts it"
        steps.append(
            f"{actor} by whole pixels, so that the center of mass is {center} pixels from the left "
            "and the top."
        )
    return steps


def _python_code(predictor: Predictor, format: str, output: Path) -> str:
    """Return code that classifies a picture with the file, or that loads its weights."""
    dataset, checkpoint = predictor.dataset, predictor.checkpoint
    strokes, arguments = strokes_of(dataset), timm_arguments(checkpoint)
    if format == "safetensors":
        parts = [LOAD_TIMM if arguments else LOAD_OURS, PREDICT]
    else:
        crop = CROP_STROKES if strokes else SQUARE[dataset.fit]
        run = RUN_TORCH if format == "torch_export" else RUN_ONNX
        parts = [OPEN_PICTURE, crop, ARRANGE, run, NAME_CLASS]
    return "".join(parts).format(
        mode="L" if dataset.channels == 1 else "RGB",
        size=dataset.image_size,
        side=strokes and strokes.side,
        channels=dataset.channels,
        classes=len(dataset.classes),
        patch=dataset.patch_size,
        config=checkpoint.network,
        ensemble=checkpoint.training.ensemble,
        temperature=predictor.classifier.temperature,
        arguments=arguments,
        path=str(output),
        description=str(sidecar(output)),
    )
