"""Nothing in a training step waits for the device: counted on the CPU, whatever is switched on."""

import pytest
import torch
from host_reads import HostReads
from program import ROOT, STEPS, call, tiny

from src.data.datasets import DATASETS
from src.training.classifier import Classifier
from src.training.running_mean import Mean
from src.transforms.augment import Augment, Augmentation
from src.transforms.mixing import mix
from train import main

LOG_EVERY = 4
EVERYTHING = """
--model.label_smoothing 0.1 --model.ensemble 2
--trainer.gradient_clip_val 0.5 --data.augment.flip true --data.augment.translate 1 --data.augment.shear 5
--data.augment.policy randaugment --data.augment.erase 0.5 --data.augment.mixup 0.8 --data.augment.cutmix 1
""".split()  # averaging and the dropouts are in `tiny`


class ReadsOfSteps(HostReads):
    """Reads by optimizer step: from its batch's start until the next one's, the fetching of that batch included."""

    def __init__(self, monkeypatch):
        super().__init__(
            ignore=lambda value: value is not None and value.data_ptr() in self.counters
        )
        self.counters, self.by_step, self.step = set(), {}, None
        patched = ("on_train_batch_start", "on_validation_start", "on_train_epoch_end")
        for name, after in zip(patched, (self.begin, self.end, self.end), strict=True):
            usual = getattr(Classifier, name)
            monkeypatch.setattr(
                Classifier, name, lambda m, *a, u=usual, do=after: (do(m), u(m, *a))[1]
            )

    def begin(self, module):
        """The optimizer counts its steps in tensors that lie on the CPU: reading them waits for nothing."""
        self.end(module)
        states = module.trainer.optimizers[0].state.values()
        self.counters = {state["step"].data_ptr() for state in states if "step" in state}
        self.step = module.trainer.global_step

    def end(self, module):
        if self.step is not None:
            self.by_step[self.step] = list(self.found)
        self.step = None
        self.found.clear()


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adam", "sgd"])
def test_a_step_reads_nothing_back_with_everything_on(optimizer, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    reads = ReadsOfSteps(monkeypatch)
    flags = [*EVERYTHING, "--model.optimizer", optimizer, "--trainer.log_every_n_steps", LOG_EVERY]
    with reads:
        ended = call(main, *tiny(tmp_path, *flags, epochs=1))
    assert ended.code == 0 and sorted(reads.by_step) == list(range(STEPS)), ended
    first = reads.by_step.pop(0)  # which makes the optimizer's counters
    logging = [reads.by_step.pop(step) for step in range(LOG_EVERY - 1, STEPS, LOG_EVERY)]
    assert reads.by_step.pop(STEPS - 1) == ["tolist"], "whether all losses of the epoch are finite"
    assert not any(reads.by_step.values()), reads.by_step
    assert len(first) < 100 and all(0 < len(found) <= 7 for found in logging), (
        "the curves are read there"
    )


def test_augmentation_of_color_images_reads_nothing_back():
    everything = Augmentation(
        flip=True, translate=2, rotate=10, scale=0.1, shear=5, resized_crop=0.5, jitter=0.4, hue=0.1,
        policy="trivialaugment", erase=0.3, mixup=0.8, cutmix=1.0,
    )  # fmt: skip
    info, images = DATASETS["cifar10"], torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8)
    generator, labels = torch.Generator().manual_seed(0), torch.arange(30) % 10
    with HostReads() as reads:
        pixels = Augment(everything, info.mean, info.std)(images, generator)
        mix(pixels, labels, 10, everything, generator)
    assert not reads.found


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: torch.isnan(x).any() and x,
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
    ],
)
def test_what_waits_is_found(read):
    with HostReads() as reads:
        read(torch.ones(3))
    assert reads.found


def test_a_mean_weighs_batches_by_their_images():
    mean = Mean()
    mean.update(torch.tensor(1.0), 30)
    mean.update(torch.tensor(4.0), 10)
    assert mean.compute() == 1.75
    mean.update(torch.tensor(float("nan")), 1)
    assert mean.compute().isnan(), "a loss that is not a number is not passed over"
