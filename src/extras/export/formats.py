"""The formats of an export: how its file is made of a network, and opened again by the runtime that it is for.

| format | input | opened by |
|---|---|---|
| onnx | images, uint8 or float32 | onnxruntime |
| torch_export | images, uint8 or float32 | torch.export |
| safetensors | normalized images | timm; this program, where timm has no such network |
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from src.errors import InputError
from src.extras.weights.names import timm_arguments, to_timm
from src.inference.pipeline import ImageClassifier
from src.models.build import build

Run = Callable[[Tensor], Tensor]  # the input of a format [B, C, S, S] -> logits, float32 [B, K]
MAX_ONNX = 2**31  # bytes of one file: a limit of protocol buffers


class Network(NamedTuple):
    """What is exported: the network with its preprocessing, and how a checkpoint describes it."""

    classifier: ImageClassifier
    shape: tuple[int, int, int]  # C, S, S of an image
    description: dict  # the arguments of `build`

    @property
    def timm(self) -> dict | None:
        """The arguments of `timm.create_model`; None where timm has no such network."""
        return (
            timm_arguments(self.description["network"])
            if self.description["ensemble"] == 1
            else None
        )


class Exportable(nn.Module):
    """Images -> logits, as `ImageClassifier` computes them: in place, that would be a slow graph of scattered writes.

    Args:
        brightest: the value of white: 255 for uint8 images, 1 for float32 ones.
    """

    def __init__(self, classifier: ImageClassifier, brightest: int):
        super().__init__()
        self.network = classifier.network
        mean, std = (
            torch.tensor(values).view(-1, 1, 1) for values in (classifier.mean, classifier.std)
        )
        self.register_buffer("scale", 1 / (brightest * std))
        self.register_buffer("shift", mean / std)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 or float32 [B, C, S, S] -> float32 [B, K]"""
        return self.network(images.float() * self.scale - self.shift).float()


def _trace(network: Network, dtype: str) -> ExportedProgram:
    """The network as a graph, for any batch."""
    module = (
        Exportable(network.classifier, 255 if dtype == "uint8" else 1).eval().requires_grad_(False)
    )
    example = torch.zeros(2, *network.shape, dtype=getattr(torch, dtype))
    batch = {
        "images": {0: torch.export.Dim("batch", max=2**31 - 1)}
    }  # without an end, torch 2.6 sees one at 2**63
    program = torch.export.export(module, (example,), dynamic_shapes=batch, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of our source, and where it lies on this machine
    return program


def make_onnx(network: Network, dtype: str) -> bytes:
    if (size := sum(p.nbytes for p in network.classifier.parameters())) > MAX_ONNX:
        raise InputError(
            f"--format onnx: {size / 2**30:.1f} GiB do not fit into one file; use --format torch_export"
        )
    program = torch.onnx.export(
        _trace(network, dtype), dynamo=True, output_names=["logits"], verbose=False
    )
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]  # notes of the exporter, a sixth of the file of a small network
    return model.SerializeToString()


def open_onnx(network: Network, path: Path, threads: int = 0) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # 0: as many as there are cores
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def make_torch_export(network: Network, dtype: str) -> bytes:
    file = io.BytesIO()
    torch.export.save(_trace(network, dtype), file)
    return file.getvalue()


def open_torch_export(network: Network, path: Path) -> Run:
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


def make_safetensors(network: Network, dtype: str) -> bytes:
    from safetensors.torch import save

    state = network.classifier.network.state_dict()
    if network.timm:
        state = to_timm(state, network.shape[0])
    return save({key: value.contiguous() for key, value in state.items()})


def open_safetensors(network: Network, path: Path) -> Run:
    from safetensors.torch import load_file

    if network.timm:
        import timm

        opened = timm.create_model(**network.timm)
    else:
        opened = build(**network.description)
    opened.load_state_dict(load_file(path))
    return opened.eval()


class Format(NamedTuple):
    """A format of the table above."""

    ending: str  # of its files
    packages: tuple[str, ...]  # that `requirements.txt` does not have
    make: Callable[[Network, str], bytes]
    open: Callable[[Network, Path], Run]


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), make_onnx, open_onnx),
    "torch_export": Format(".pt2", (), make_torch_export, open_torch_export),
    "safetensors": Format(".safetensors", ("safetensors",), make_safetensors, open_safetensors),
}
