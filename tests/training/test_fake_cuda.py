"""Train, evaluate and predict with every config on a fake CUDA device.

Fake tensors have no storage but report a device. PyTorch rejects operands with different devices
or incompatible types, and `HostReads` records operations that would wait for the device.
Gradients are computed on the `meta` device, because autograd asks the CUDA driver for streams.
"""

import contextlib

import pytest
import torch
from host_reads import HostReads
from program import ROOT
from pytorch_lightning import Trainer
from torch._subclasses import FakeTensorMode

from src.cli.parser import parse
from src.data.image_set import ImageSet
from src.data.sampling import InMemoryBatches
from src.inference.pipeline import ImageClassifier
from src.training.optim import Muon

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
CUDA = torch.device("cuda", 0)
BATCH = 16
VERSION = tuple(map(int, torch.__version__.split(".")[:2]))
pytestmark = pytest.mark.skipif(
    VERSION < (2, 10), reason="before torch 2.10, fake tensors need a CUDA driver"
)


class CudaGenerator(torch.Generator):
    """A CPU generator that reports a CUDA device. Fake tensors never draw numbers from it."""

    device = CUDA

    def __new__(cls, device):
        assert device == CUDA, "a generator must be on the device of the images"
        return super().__new__(cls)

    def manual_seed(self, seed):
        super().manual_seed(seed)
        return self


@contextlib.contextmanager
def fake_cuda(monkeypatch):
    changes = [
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch.cuda, "is_bf16_supported", lambda *args: True),
        (torch, "Generator", CudaGenerator),
        (torch.nn.init, "trunc_normal_", lambda weight, std: weight),  # does not read values
    ]
    for owner, name, value in changes:
        monkeypatch.setattr(owner, name, value)
    # Weight averaging needs a deep copy of the network.
    monkeypatch.setattr(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, raising=False)
    with FakeTensorMode():
        yield


def autocast():
    return torch.autocast("cuda", dtype=torch.bfloat16)


def build(config, folder):
    """Return a data module and a model on the default device, attached to a trainer."""
    flags = [
        f"--config={config}",
        f"--data.batch_size={BATCH}",
        "--model.compile=false",
    ]
    text = config.read_text()
    if "class_path: ViT" in text:
        flags += ["--model.init_from=null", "--model.depth=2"]  # blocks are identical
    if "init_from: cifar100" in text:  # the shape comes from these weights
        flags += ["--model.stem_layers=3"]
    if "FolderDataModule" in text:
        for name in ("cat", "dog"):
            (folder / "train" / name).mkdir(parents=True, exist_ok=True)
        flags += [f"--data.root={folder}"]
    settings = parse(flags)
    data = settings.data
    model = settings.model
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.training = True
    model.trainer = data.trainer = trainer
    model.on_train_epoch_start()
    return data, model


def shape_of(data, count: int) -> tuple[int, ...]:
    info = data.info
    return count, info.channels, info.image_size, info.image_size


def trained_parameters(config, folder) -> set[str]:
    """Return the names of all parameters that receive a gradient."""
    with torch.device("meta"):
        data, model = build(config, folder)
        inputs = data.patchify(torch.zeros(shape_of(data, BATCH)))
        labels = torch.zeros(BATCH, dtype=torch.int64)
        model.training_step((inputs, labels), 0).backward()
    parameters = model.net.named_parameters()
    return {name for name, p in parameters if p.grad is not None}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config(config, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    trained = trained_parameters(config, tmp_path)
    with fake_cuda(monkeypatch):
        with torch.device(CUDA):
            data, model = build(config, tmp_path)
            pixels = torch.zeros(shape_of(data, 2 * BATCH), dtype=torch.uint8)
            labels = torch.zeros(2 * BATCH, dtype=torch.int64)
            images = ImageSet(pixels, labels)
        model._device = CUDA  # `model.to` cannot move fake tensors
        optimizer = model.configure_optimizers()
        train_two_steps(data, model, images, optimizer, trained)
        check_state(optimizer)
        evaluate_and_predict(data, model, images)


def train_two_steps(data, model, images, optimizer, trained):
    """Take two training steps: the first creates the optimizer state, and the second uses it."""
    model.total_steps, model.warmup_steps = 10, 2
    indices = torch.arange(2 * BATCH).split(BATCH)
    batches = iter(InMemoryBatches(images, indices))
    for step in range(2):
        # Reading Muon's step counters does not wait, because they are on the CPU.
        with HostReads(ignore=lambda value: value.device.type == "cpu") as reads:
            batch = data.on_after_batch_transfer(next(batches), 0)
            with autocast():
                loss = model.training_step(batch, step)
            for name, p in model.net.named_parameters():
                p.grad = torch.randn_like(p) if name in trained else None
            model.configure_gradient_clipping(optimizer, 1.0)
            model.optimizer_step(0, step, optimizer, lambda: None)
        assert loss.device == CUDA
        assert loss.dtype == torch.float32
        assert not reads.found


def check_state(optimizer):
    """Check that optimizer state is on the device, except for Muon's and SGD's step counters."""
    counts_on_cpu = isinstance(optimizer, Muon | torch.optim.SGD)
    for state in optimizer.state.values():
        for key, value in state.items():
            assert value.device == CUDA or (key == "step" and counts_on_cpu)


def evaluate_and_predict(data, model, images):
    data.trainer.training = False
    model.eval()
    batch = images.__getitems__(torch.arange(BATCH, device=CUDA))
    with HostReads() as reads, torch.no_grad(), autocast():
        model.validation_step(data.on_after_batch_transfer(batch, 0), 0)
    assert not reads.found
    classifier = ImageClassifier(model.eval_net, data.info.mean, data.info.std).eval()
    with HostReads() as reads, torch.inference_mode():
        probabilities = classifier(batch[0]).cpu()
    assert probabilities.shape == (BATCH, len(data.info.classes))
    assert probabilities.dtype == torch.float32
    assert len(reads.found) == 1, "only the probabilities may be read"


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.cpu(),
        lambda x: x.copy_(torch.ones(3)),
    ],
)
def test_a_copy_between_devices_is_found(wait, monkeypatch):
    with fake_cuda(monkeypatch):
        x = torch.ones(3, device=CUDA)
        with HostReads() as reads:
            wait(x)
        assert reads.found
