"""Count host reads on the CPU to test that training steps never wait for the device."""

import pytest
import torch
from host_reads import HostReads
from program import ROOT, STEPS, call, tiny

from src.data.datasets import DATASETS
from src.training.classifier import Classifier
from src.transforms.augment import Augment, Augmentation
from train import main

LOG_EVERY = 4
EVERYTHING = """
--model.label_smoothing 0.1
--model.ensemble 2
--trainer.gradient_clip_val 0.5
--data.augment.flip true
--data.augment.translate 1
--data.augment.shear 5
--data.augment.policy randaugment
--data.augment.erase 0.5
--data.augment.mixup 0.8
--data.augment.cutmix 1
""".split()  # `tiny` also enables weight averaging and dropout


class ReadsByStep(HostReads):
    """Record the host reads in each optimizer step, including those that fetch the next batch."""

    def __init__(self, monkeypatch):
        super().__init__(ignore=self._is_counter)
        self.counters = set()
        self.by_step = {}
        self.step = None
        calls = {
            "on_train_batch_start": self._begin,
            "on_validation_start": self._end,
            "on_train_epoch_end": self._end,
        }
        for name, function in calls.items():
            self._call_before(monkeypatch, name, function)

    @staticmethod
    def _call_before(monkeypatch, name, function):
        original = getattr(Classifier, name)

        def hook(module, *args):
            function(module)
            return original(module, *args)

        monkeypatch.setattr(Classifier, name, hook)

    def _is_counter(self, value) -> bool:
        return value is not None and value.data_ptr() in self.counters

    def _begin(self, module):
        self._end(module)
        # The optimizer's step counters are on the CPU, so reading them does not wait.
        states = module.trainer.optimizers[0].state.values()
        self.counters = {state["step"].data_ptr() for state in states if "step" in state}
        self.step = module.trainer.global_step

    def _end(self, module):
        if self.step is not None:
            self.by_step[self.step] = list(self.found)
        self.step = None
        self.found.clear()


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "adam", "sgd"])
def test_only_logging_steps_read(optimizer, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    reads = ReadsByStep(monkeypatch)
    flags = [
        *EVERYTHING,
        f"--model.optimizer={optimizer}",
        f"--trainer.log_every_n_steps={LOG_EVERY}",
    ]
    with reads:
        ended = call(main, *tiny(tmp_path, *flags, epochs=1))
    assert ended.code == 0, ended
    by_step = reads.by_step
    assert sorted(by_step) == list(range(STEPS))
    by_step.pop(0)  # the first step creates the step counters
    for step in range(LOG_EVERY - 1, STEPS, LOG_EVERY):
        assert 0 < len(by_step.pop(step)) <= 7  # reads the logged values
    assert by_step.pop(STEPS - 1) == ["tolist"]  # the check for finite losses
    assert not any(by_step.values()), by_step


def test_augmentation_of_color_images_reads_nothing():
    settings = Augmentation(
        resized_crop=0.5,
        jitter=0.4,
        policy="trivialaugment",
    )
    info = DATASETS["cifar10"]
    images = torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    with HostReads() as reads:
        Augment(settings, info.mean, info.std)(images, generator)
    assert not reads.found


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.tolist(),
    ],
)
def test_a_read_is_found(read):
    with HostReads() as reads:
        read(torch.ones(3))
    assert reads.found
