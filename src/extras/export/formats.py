"""Write files in each export format, and open them in its runtime.

| format | input | runtime |
|---|---|---|
| onnx | uint8 images | onnxruntime |
| onnx_int8 | uint8 images; 8-bit weights make the file a third of the size | onnxruntime |
| torch_export | uint8 images | torch.export |
| safetensors | normalized images | timm; this program if timm has no such network |
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
from safetensors.torch import load_file, save
from torch import Tensor, nn

from src.extras.weights.names import TIMM, from_ours, timm_arguments
from src.inference.pipeline import ImageClassifier
from src.inference.predictor import Predictor

Run = Callable[[Tensor], Tensor]  # images, uint8 [B, C, S, S] -> logits, float32 [B, K]
MAX_BATCH = 2**31 - 1  # without this, torch 2.6 sets a limit of 2**63


class ExportedNetwork(nn.Module):
    """An `ImageClassifier` for export, with out-of-place normalization."""

    scale: Tensor
    shift: Tensor

    def __init__(self, classifier: ImageClassifier):
        super().__init__()
        self.network, self.temperature = classifier.network, classifier.temperature
        mean = torch.tensor(classifier.mean).view(-1, 1, 1)
        std = torch.tensor(classifier.std).view(-1, 1, 1)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", mean / std)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float32 [B, K], of uint8 images [B, C, S, S]."""
        inputs = images.float() * self.scale - self.shift
        return self.network(inputs).float() / self.temperature


def make_onnx(predictor: Predictor) -> bytes:
    program = torch.onnx.export(
        _trace(predictor),
        dynamo=True,
        output_names=["logits"],
        dynamic_shapes={"images": {0: "batch"}},
        verbose=False,
    )
    assert program
    model = program.model_proto
    # The exporter's metadata makes up a sixth of a small network's file.
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
    model.metadata_props.add(key="classes", value=json.dumps(predictor.classes))
    return model.SerializeToString()


def make_int8(predictor: Predictor) -> bytes:
    """Quantize the weights to 8 bits; activations are quantized at run time."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load_from_string(make_onnx(predictor))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        # Hide the advice to preprocess the model, which has no benefit here.
        logging.disable(logging.WARNING)
        try:
            quantize_dynamic(model, path, weight_type=QuantType.QInt8)
        finally:
            logging.disable(logging.NOTSET)
        return path.read_bytes()


def open_onnx(predictor: Predictor, path: Path) -> Run:
    """Open the file in onnxruntime, with the number of threads of PyTorch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return run


def make_torch_export(predictor: Predictor) -> bytes:
    file = io.BytesIO()
    torch.export.save(_trace(predictor), file)
    return file.getvalue()


def open_torch_export(predictor: Predictor, path: Path) -> Run:
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


def make_safetensors(predictor: Predictor) -> bytes:
    state = predictor.classifier.network.state_dict()
    if timm_arguments(predictor.checkpoint):
        state = from_ours(state, TIMM, predictor.dataset.channels)
    return save({key: value.contiguous() for key, value in state.items()})


def open_safetensors(predictor: Predictor, path: Path) -> Run:
    network: Any
    if arguments := timm_arguments(predictor.checkpoint):
        import timm

        network = timm.create_model(**arguments)
    else:
        network = predictor.checkpoint.build_network()
    network.load_state_dict(load_file(path))
    ours = predictor.classifier
    return ImageClassifier(network.eval(), ours.mean, ours.std, ours.temperature).logits


def _trace(predictor: Predictor) -> torch.export.ExportedProgram:
    """Return the network as a graph that accepts any batch size."""
    dataset = predictor.dataset
    network = ExportedNetwork(predictor.classifier).eval().requires_grad_(False)
    size = dataset.image_size
    example = torch.zeros(2, dataset.channels, size, size, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=0, max=MAX_BATCH)
    program = torch.export.export(
        network, (example,), dynamic_shapes={"images": {0: batch}}, strict=False
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # contains our source code and local paths
    return program


class Format(NamedTuple):
    """An export format, as in the table above.

    Attributes:
        extension: file extension.
        make: function that returns the content of the file.
        open: function that opens the file.
        max_difference: maximum absolute difference between the logits of the file and the network.
        max_changed: maximum fraction of images with a different predicted class.
    """

    extension: str
    make: Callable[[Predictor], bytes]
    open: Callable[[Predictor, Path], Run]
    max_difference: float = 1e-4
    max_changed: float = 0.0


FORMATS = {
    "onnx": Format(".onnx", make_onnx, open_onnx),
    "onnx_int8": Format(".int8.onnx", make_int8, open_onnx, math.inf, 0.01),
    "torch_export": Format(".pt2", make_torch_export, open_torch_export),
    "safetensors": Format(".safetensors", make_safetensors, open_safetensors),
}
