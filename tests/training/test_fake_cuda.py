"""Every config traced on a CUDA device that is not there: tensors without memory that say they lie on one.

PyTorch refuses an operation whose operands lie on different devices, or whose types do not fit, and `HostReads` finds
what would wait. The backward pass alone goes over PyTorch's `meta` device: its engine asks the driver for streams.
"""

import contextlib

import pytest
import torch
from host_reads import HostReads
from program import ROOT
from pytorch_lightning import Trainer
from torch._subclasses import FakeTensorMode

from src.cli.parser import parse
from src.data.folders import ImageSet
from src.data.sampling import InMemoryBatches
from src.inference.pipeline import ImageClassifier
from src.training.optim import Muon

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
CUDA = torch.device("cuda", 0)
BATCH = 16
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10)
pytestmark = pytest.mark.skipif(
    OLD, reason="before torch 2.10 even tensors without memory ask for a CUDA driver"
)


class CudaGenerator(torch.Generator):
    """Draws on the CPU, where a fake tensor has no values to draw, and says that it is one of the device."""

    device = CUDA

    def __new__(cls, device):
        assert device == CUDA, "a generator must live where the images do"
        return super().__new__(cls)

    def manual_seed(self, seed):
        super().manual_seed(seed)
        return self


@contextlib.contextmanager
def fake_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args: True)
    monkeypatch.setattr(torch, "Generator", CudaGenerator)
    monkeypatch.setattr(
        FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, raising=False
    )  # for copied networks
    monkeypatch.setattr(
        torch.nn.init, "trunc_normal_", lambda weight, std: weight
    )  # it looks at what it has drawn
    with FakeTensorMode():
        yield


def autocast():
    return torch.autocast("cuda", dtype=torch.bfloat16)


def settings(config, folder):
    flags = ["--config", str(config), "--data.batch_size", str(BATCH), "--model.compile", "false"]
    if "init_from" in config.read_text():
        flags += ["--model.init_from", "null"]
    if "FolderDataModule" in config.read_text():
        for name in ("cat", "dog"):
            (folder / "train" / name).mkdir(parents=True, exist_ok=True)
        flags += ["--data.root", str(folder)]
    return parse(flags)


def built(config, folder):
    """The data module and the model, on whatever is the default device, tied to a trainer."""
    parts = settings(config, folder)
    data, model = parts.data, parts.model
    model.trainer = data.trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False
    )
    data.trainer.training = True
    model.on_train_epoch_start()
    return data, model


def images_of(data):
    shape = (2 * BATCH, data.info.channels, data.info.image_size, data.info.image_size)
    return ImageSet(
        torch.zeros(shape, dtype=torch.uint8), torch.zeros(2 * BATCH, dtype=torch.int64)
    )


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_training_evaluation_and_prediction(config, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with torch.device("meta"):
        data, model = built(config, tmp_path)
        shape = (BATCH, data.info.channels, data.info.image_size, data.info.image_size)
        model.training_step(
            (data.patchify(torch.zeros(shape)), torch.zeros(BATCH, dtype=torch.int64)), 0
        ).backward()
        shapes = {name: p.grad.shape for name, p in model.net.named_parameters() if p.requires_grad}
    with fake_cuda(monkeypatch):
        with torch.device(CUDA):
            data, model = built(config, tmp_path)
        model._device = CUDA  # as after `model.to`, which cannot move a fake tensor
        optimizer = model.configure_optimizers()
        train_two_steps(data, model, optimizer, shapes)
        for state in optimizer.state.values():
            assert all(value.device == CUDA for key, value in state.items() if key != "step")
            assert isinstance(optimizer, Muon | torch.optim.SGD) or state["step"].device == CUDA
        evaluate_and_predict(data, model)


def train_two_steps(data, model, optimizer, shapes):
    """The second finds the optimizer's moments made."""
    model.total_steps, model.warmup_steps = 10, 2
    batches = iter(InMemoryBatches(images_of(data).to(CUDA), torch.arange(2 * BATCH).split(BATCH)))
    for step in range(2):
        with HostReads(
            ignore=lambda value: value.device.type == "cpu"
        ) as reads:  # Muon counts its steps there
            batch = data.on_after_batch_transfer(next(batches), 0)
            with autocast():
                loss = model.training_step(batch, step)
            for name, p in model.net.named_parameters():
                p.grad = torch.randn(shapes[name], device=CUDA) if p.requires_grad else None
            model.configure_gradient_clipping(optimizer, 1.0)
            model.optimizer_step(0, step, optimizer, lambda: None)
        assert loss.device == CUDA and loss.dtype == torch.float32 and not reads.found


def evaluate_and_predict(data, model):
    data.trainer.training = False
    images, labels = images_of(data).to(CUDA).__getitems__(torch.arange(BATCH, device=CUDA))
    model.eval()
    with HostReads() as reads, torch.no_grad(), autocast():
        model.validation_step(data.on_after_batch_transfer((images, labels), 0), 0)
    assert not reads.found
    classifier = ImageClassifier(model.eval_net, data.info.mean, data.info.std).eval()
    with HostReads() as reads, torch.inference_mode():
        probabilities = classifier(images).cpu()
    assert (
        probabilities.shape == (BATCH, len(data.info.classes))
        and probabilities.dtype == torch.float32
    )
    assert len(reads.found) == 1, "the probabilities come back"


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: torch.tensor(1.0, device=CUDA),
        lambda x: x.cpu(),
        lambda x: x + torch.ones(3).to(CUDA),
        lambda x: x.copy_(torch.ones(3)),
    ],
)
def test_what_waits_is_found(wait, monkeypatch):
    with fake_cuda(monkeypatch):
        x = torch.ones(3, device=CUDA)
        with HostReads() as reads:
            wait(x)
        assert reads.found


def test_operands_on_two_devices_are_refused(monkeypatch):
    with fake_cuda(monkeypatch), pytest.raises(RuntimeError, match="two devices"):
        torch.ones(3, device=CUDA) + torch.ones(3)
