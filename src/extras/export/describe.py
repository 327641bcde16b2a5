"""Describe an exported file: how to prepare images for it, and Python code that uses it."""

from pathlib import Path
from typing import Any

import torch

from src.config import DatasetInfo
from src.extras.paper.render import center_of_image
from src.extras.paper.strokes import strokes_of
from src.extras.weights.names import timm_arguments
from src.inference.predictor import DARK, Predictor

Description = dict[str, Any]

VALUES = {
    "uint8": "from 0 to 255",
    "float32": "from 0 to 1",
    "normalized": "from 0 to 1, minus mean and divided by std of each channel",
}

OPEN_PICTURE = """\
import json, numpy
from PIL import Image, ImageOps
picture = ImageOps.exif_transpose(Image.open("picture.png")).convert("RGBA")
white = Image.new("RGBA", picture.size, "white")
picture = Image.alpha_composite(white, picture).convert("{mode}")
"""
CROP_SQUARE = """\
picture = ImageOps.fit(picture, ({size}, {size}), Image.Resampling.BICUBIC)
"""
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
TO_FLOAT = """\
images = images.astype("float32") / 255
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
network = timm.create_model({arguments}, checkpoint_path={path!r}).eval()
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


def describe(predictor: Predictor, format: str, dtype: str, output: Path) -> Description:
    """Return all that another program needs to use the file, as plain values.

    Args:
        predictor: the exported network.
        format: a key of `FORMATS`.
        dtype: a key of `VALUES`.
        output: the exported file.
    """
    dataset = predictor.dataset
    size, channels = dataset.image_size, dataset.channels
    description = {
        "file": output.name,
        "checkpoint": str(predictor.checkpoint.path),
        "format": format,
        "dataset": dataset.name,
        "classes": predictor.classes,
        "image_size": size,
        "channels": channels,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "preparation": preparation(dataset, format),
        "input": {
            "name": "images",
            "type": "uint8" if dtype == "uint8" else "float32",
            "shape": ["batch", channels, size, size],
            "values": VALUES[dtype],
        },
        "output": {
            "name": "logits",
            "type": "float32",
            "shape": ["batch", len(predictor.classes)],
            "values": "their softmax gives the probabilities of the classes",
        },
        "parameters": sum(p.numel() for p in predictor.classifier.parameters()),
        "torch": torch.__version__,
    }
    if format != "safetensors":
        return description | {"python": _run_code(dataset, format, dtype, output)}
    return description | {"timm": timm_of(predictor), "python": _load_code(predictor, output)}


def sidecar(output: Path) -> Path:
    """Return the file that describes an export."""
    return output.with_name(output.name + ".json")


def timm_of(predictor: Predictor) -> dict[str, Any] | None:
    """Return the arguments of `timm.create_model` for the network; None if timm has none such."""
    checkpoint = predictor.checkpoint
    return timm_arguments(checkpoint.network, checkpoint.dataset, checkpoint.training.ensemble)


def preparation(dataset: DatasetInfo, format: str) -> list[str]:
    """Return the steps from a picture to an image that the file takes, as sentences."""
    size, strokes = dataset.image_size, strokes_of(dataset)
    mode = "gray" if dataset.channels == 1 else f"{dataset.channels} channels"
    steps = [f"Turn it upright (EXIF), put it on white where transparent, make it {mode}, 8 bits."]
    if strokes is None:
        steps.append(
            f"Crop the center square and resize it to {size}x{size} pixels, bicubic with "
            "antialiasing."
        )
        if min(dataset.mean) < DARK:
            steps.append("If its border is light, invert it: the training images are dark there.")
        return steps
    margin = (size - strokes.side) // 2
    steps += [
        f"If it has {size}x{size} pixels and light strokes on black, skip the next three steps.",
        "Stretch its contrast to 0 to 255. If its border is light (above 127), invert it: strokes "
        "are light on black.",
        f"Crop it to the strokes (above 127) and scale the longer side to {strokes.side} pixels, "
        "with antialiasing.",
        f"Center it on black, {size}x{size} pixels: the margin of the longer side is {margin}.",
    ]
    if strokes.center == "mass":
        center = center_of_image(size, strokes)
        actor = "Shift it" if format == "safetensors" else "Nothing more: the file shifts it"
        steps.append(
            f"{actor} by whole pixels, so that the center of mass is {center} pixels from the left "
            "and the top."
        )
    return steps


def summary(description: Description) -> list[str]:
    """Return the printed lines about the file's preparation, input, output and check."""
    lines = [f"step {i}  {step}" for i, step in enumerate(description["preparation"], 1)]
    for key in ("input", "output"):
        part = description[key]
        shape = ", ".join(map(str, part["shape"]))
        lines.append(f"{key:8}{part['name']}: {part['type']} [{shape}], {part['values']}")
    checked = description["checked"]
    lines.append(
        f"checked with {checked['images']} {checked['source']}: {checked['changed_classes']} "
        f"classes differ, logits by at most {checked['largest_difference']:.1e}"
    )
    return lines


def _run_code(dataset: DatasetInfo, format: str, dtype: str, output: Path) -> str:
    """Return Python code that classifies a picture with the file."""
    strokes = strokes_of(dataset)
    parts = [OPEN_PICTURE, CROP_STROKES if strokes else CROP_SQUARE, ARRANGE]
    if dtype == "float32":
        parts.append(TO_FLOAT)
    parts += [RUN_TORCH if format == "torch_export" else RUN_ONNX, NAME_CLASS]
    return "".join(parts).format(
        mode="L" if dataset.channels == 1 else "RGB",
        size=dataset.image_size,
        side=strokes and strokes.side,
        channels=dataset.channels,
        path=str(output),
        description=str(sidecar(output)),
    )


def _load_code(predictor: Predictor, output: Path) -> str:
    """Return Python code that loads the weights of the file into a network."""
    if arguments := timm_of(predictor):
        listed = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        return LOAD_TIMM.format(arguments=listed, path=str(output))
    dataset = predictor.dataset
    return LOAD_OURS.format(
        config=predictor.checkpoint.network,
        classes=len(dataset.classes),
        size=dataset.image_size,
        channels=dataset.channels,
        patch=dataset.patch_size,
        ensemble=predictor.checkpoint.training.ensemble,
        path=str(output),
    )
