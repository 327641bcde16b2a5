"""Describe an exported file, with Python code that prepares a picture and classifies it."""

from pathlib import Path
from typing import Any

import torch

from src.extras.paper.strokes import stroke_center, strokes_of
from src.extras.weights.names import timm_arguments
from src.inference.predictor import Predictor

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
is_small = picture.size == ({size}, {size})
if not is_small:
    picture = ImageOps.autocontrast(picture)
pixels = numpy.asarray(picture)
border = numpy.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
if border.mean() > 127.5:  # dark strokes; the network expects light strokes on black
    picture = ImageOps.invert(picture)
if not is_small:
    strokes = picture.point(lambda value: 255 * (value > 127)).getbbox()
    picture = ImageOps.pad(picture.crop(strokes), ({side}, {side}))
    picture = ImageOps.expand(picture, ({size} - {side}) // 2)
"""
CENTER_OF_MASS = """\
for axis in (0, 1):
    mass = numpy.asarray(picture).sum(axis=1 - axis) + 1e-9
    offset = numpy.average(numpy.arange({size}) + 0.5, weights=mass) - {center}
    if abs(offset) > 0.75:  # dataset images are centered to within 0.52 pixels
        picture = numpy.roll(picture, -round(offset), axis)
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
logits = network(torch.tensor(images)).numpy()
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
dataset = DatasetInfo(classes={classes}, image_size={size}, channels={channels}, patch_size={patch},
                      mirror_keeps_class={mirror_keeps_class})
network = build_network(config, dataset, ensemble={ensemble})
network.load_state_dict(load_file({path!r}))
network.eval()
"""
RUN_WEIGHTS = """\
import torch
mean, std = torch.tensor([{mean}, {std}])[..., None, None]
with torch.no_grad():
    logits = network((torch.tensor(images) / 255 - mean) / std).numpy() / {temperature}
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
        "input": f"images: {dtype} [batch, {channels}, {size}, {size}], {values}",
        "output": f"logits: float32 [batch, {len(predictor.classes)}], {division} by the "
        f"temperature {temperature:.4g}; their softmax then gives the class probabilities",
        "torch": torch.__version__,
        "python": _python_code(predictor, format, output),
    }


def sidecar(output: Path) -> Path:
    """Return the path of the JSON file that describes an exported file."""
    return output.with_name(output.name + ".json")


def _python_code(predictor: Predictor, format: str, output: Path) -> str:
    """Return code that classifies a picture with the file."""
    dataset, checkpoint = predictor.dataset, predictor.checkpoint
    strokes, arguments = strokes_of(dataset), timm_arguments(checkpoint)
    run = {
        "onnx": RUN_ONNX,
        "onnx_int8": RUN_ONNX,
        "torch_export": RUN_TORCH,
        "safetensors": (LOAD_TIMM if arguments else LOAD_OURS) + RUN_WEIGHTS,
    }
    crop = CROP_STROKES if strokes else SQUARE[dataset.fit]
    if strokes and strokes.center == "mass":
        crop += CENTER_OF_MASS
    return "".join([OPEN_PICTURE, crop, ARRANGE, run[format], NAME_CLASS]).format(
        mode="L" if dataset.channels == 1 else "RGB",
        size=dataset.image_size,
        side=strokes and strokes.side,
        center=strokes and stroke_center(dataset.image_size, strokes),
        mean=dataset.mean,
        std=dataset.std,
        channels=dataset.channels,
        classes=len(dataset.classes),
        patch=dataset.patch_size,
        mirror_keeps_class=dataset.mirror_keeps_class,
        config=checkpoint.network,
        ensemble=checkpoint.training.ensemble,
        temperature=predictor.classifier.temperature,
        arguments=arguments,
        path=str(output),
        description=str(sidecar(output)),
    )
