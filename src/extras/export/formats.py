"""The formats of an export: how each file is made of a network, and opened again by its runtime.

| format | input | opened by |
|---|---|---|
| onnx | images, uint8 or float32 | onnxruntime |
| onnx_int8 | the same; weights of 8 bits, a third of the size | onnxruntime |
| torch_export | images, uint8 or float32 | torch.export |
| safetensors | normalized images | timm; this program, where timm has no such network |
"""

import io
import json
import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from src.errors import InputError
from src.extras.export.describe import preparation, timm_of
from src.extras.paper.render import center_of_image
from src.extras.paper.strokes import strokes_of
from src.extras.weights.names import to_timm
from src.inference.predictor import Predictor
from src.models.build import build_network

Run = Callable[[Tensor], Tensor]  # the input of a format [B, C, S, S] -> logits, float32 [B, K]
MAX_ONNX = 2**31  # bytes of one file: a limit of protocol buffers
MAX_BATCH = 2**31 - 1  # without a limit, torch 2.6 exports one of 2**63

MAX_OFFSET = 0.75  # pixels; images of MNIST are centered within 0.52


class ExportedNetwork(nn.Module):
    """Images -> logits, without the in-place normalization of `ImageClassifier`.

    Where the training images are light strokes on black, images with a light border are inverted,
    and strokes far from their center are shifted to it. Images of the dataset pass unchanged.

    Args:
        predictor: the network and its dataset.
        white: the value of white: 255 for uint8 images, 1 for float32 ones.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, predictor: Predictor, white: int):
        super().__init__()
        dataset = predictor.dataset
        self.network = predictor.classifier.network
        self.white = white
        self.strokes = strokes_of(dataset)
        self.size = dataset.image_size
        mean = torch.tensor(dataset.mean).view(-1, 1, 1)
        std = torch.tensor(dataset.std).view(-1, 1, 1)
        self.register_buffer("scale", 1 / (white * std))
        self.register_buffer("shift", mean / std)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 or float32 [B, C, S, S] -> float32 [B, K]"""
        images = images.float()
        if self.strokes:
            images = self._invert_light(images)
            if self.strokes.center == "mass":
                middle = center_of_image(self.size, self.strokes)
                images = _center_columns(images, middle)
                images = _center_columns(images.mT, middle).mT
        return self.network(images * self.scale - self.shift).float()

    def _invert_light(self, images: Tensor) -> Tensor:
        sides = (images[:, :, 0], images[:, :, -1], images[..., 0], images[..., -1])
        border = torch.cat(sides, dim=2).mean(dim=2)[..., None, None]
        return torch.where(border > self.white / 2, self.white - images, images)


def _center_columns(images: Tensor, middle: float) -> Tensor:
    """Move images [B, 1, S, S] sideways if their center of mass is off by over MAX_OFFSET."""
    size = images.shape[3]
    columns = torch.arange(size)
    mass = images.sum(dim=2)  # [B, 1, S]
    center = (mass * (columns + 0.5)).sum(dim=2) / mass.sum(dim=2).clamp(min=1e-6)
    offset = center - middle
    pixels = torch.where(offset.abs() > MAX_OFFSET, offset.round(), 0).long()
    sources = (columns + pixels[..., None]) % size
    return images.gather(3, sources[:, :, None].expand_as(images))


def make_onnx(predictor: Predictor, dtype: str) -> bytes:
    size = sum(p.nbytes for p in predictor.classifier.parameters())
    if size > MAX_ONNX:
        raise InputError(
            f"--format onnx: {size / 2**30:.1f} GiB do not fit into one file; use --format "
            "torch_export"
        )
    program = torch.onnx.export(
        _trace(predictor, dtype),
        dynamo=True,
        output_names=["logits"],
        dynamic_shapes={"images": {0: "batch"}},
        verbose=False,
    )
    assert program
    model = program.model_proto
    # Notes of the exporter, a sixth of the file of a small network.
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
    notes = {
        "classes": predictor.classes,
        "preparation": preparation(predictor.dataset, "onnx"),
    }
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    return model.SerializeToString()


def make_int8(predictor: Predictor, dtype: str) -> bytes:
    """Quantize the weights to 8 bits; activations are quantized while the file runs."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load_from_string(make_onnx(predictor, dtype))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        logging.disable(logging.WARNING)  # it recommends a preparation that gains nothing here
        try:
            quantize_dynamic(model, path, weight_type=QuantType.QInt8)
        finally:
            logging.disable(logging.NOTSET)
        return path.read_bytes()


def open_onnx(predictor: Predictor, path: Path, threads: int = 0) -> Run:
    """Open the file with this number of threads; 0 for one on each core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return run


def make_torch_export(predictor: Predictor, dtype: str) -> bytes:
    file = io.BytesIO()
    torch.export.save(_trace(predictor, dtype), file)
    return file.getvalue()


def open_torch_export(predictor: Predictor, path: Path) -> Run:
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


def make_safetensors(predictor: Predictor, dtype: str) -> bytes:
    from safetensors.torch import save

    state = predictor.classifier.network.state_dict()
    if timm_of(predictor):
        state = to_timm(state, predictor.dataset.channels)
    return save({key: value.contiguous() for key, value in state.items()})


def open_safetensors(predictor: Predictor, path: Path) -> Run:
    from safetensors.torch import load_file

    network: Any
    if arguments := timm_of(predictor):
        import timm

        network = timm.create_model(**arguments)
    else:
        checkpoint = predictor.checkpoint
        network = build_network(
            checkpoint.network, checkpoint.dataset, checkpoint.training.ensemble
        )
    network.load_state_dict(load_file(path))
    return network.eval()


def _trace(predictor: Predictor, dtype: str) -> ExportedProgram:
    """Return the network as a graph for batches of any size."""
    dataset = predictor.dataset
    network = ExportedNetwork(predictor, white=255 if dtype == "uint8" else 1)
    network.eval().requires_grad_(False)
    shape = (2, dataset.channels, dataset.image_size, dataset.image_size)
    example = torch.zeros(shape, dtype=getattr(torch, dtype))
    batch = torch.export.Dim("batch", min=0, max=MAX_BATCH)
    program = torch.export.export(
        network, (example,), dynamic_shapes={"images": {0: batch}}, strict=False
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # has lines of our source and paths of this machine
    return program


class Format(NamedTuple):
    """A format of the table above.

    Attributes:
        extension: of its files.
        packages: those it needs beyond `requirements.txt`.
        make: returns the content of the file; takes `uint8`, `float32` or `normalized`.
        open: opens the file.
        max_difference: by which a logit may differ from the network's.
        max_changed: share of images whose class may differ.
    """

    extension: str
    packages: tuple[str, ...]
    make: Callable[[Predictor, str], bytes]
    open: Callable[[Predictor, Path], Run]
    max_difference: float = 1e-4
    max_changed: float = 0.0


ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS = {
    "onnx": Format(".onnx", ONNX, make_onnx, open_onnx),
    "onnx_int8": Format(".int8.onnx", ONNX, make_int8, open_onnx, math.inf, 0.01),
    "torch_export": Format(".pt2", (), make_torch_export, open_torch_export),
    "safetensors": Format(".safetensors", ("safetensors",), make_safetensors, open_safetensors),
}
