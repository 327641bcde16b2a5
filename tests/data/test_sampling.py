"""The validation split and the training order, functions of the seed and the epoch; and batches from one memory."""

from types import SimpleNamespace

import program
import pytest
import torch
from batches import trainer
from program import STEPS, differences, stop_at, tiny
from torch.utils.data import DataLoader

from src.data.folders import ImageSet
from src.data.modules import DigitsDataModule
from src.data.sampling import InMemoryBatches, Share, TrainBatches, split_indices
from src.errors import InputError
from src.runs.checkpoint import load_checkpoint
from src.runs.results import read_metrics


def order(size=100, batch_size=10, seed=0, **position):
    return [batch.tolist() for batch in TrainBatches(size, batch_size, seed, trainer(**position))]


def flat(batches):
    return [index for batch in batches for index in batch]


def test_split_is_complete_disjoint_and_stratified():
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 10)[torch.randperm(160)]
    train, val = split_indices(labels, 0.2, seed=0)
    assert sorted(train.tolist() + val.tolist()) == list(range(160))
    assert labels[val].bincount().tolist() == [20, 10, 2]
    assert train.tolist() == sorted(train.tolist()) and val.tolist() == sorted(val.tolist())


def test_split_follows_from_the_seed():
    labels = torch.arange(200) % 4
    assert torch.equal(split_indices(labels, 0.1, seed=1)[1], split_indices(labels, 0.1, seed=1)[1])
    assert not torch.equal(
        split_indices(labels, 0.1, seed=1)[1], split_indices(labels, 0.1, seed=2)[1]
    )


def test_split_leaves_every_class_an_image_to_train_on():
    train, val = split_indices(torch.tensor([0, 0, 0, 0, 1]), 0.9, seed=0)
    assert 4 in train.tolist() and len(val) == 3


def test_a_fraction_that_holds_out_nothing_is_refused():
    with pytest.raises(
        InputError,
        match="data.val_fraction 0.1: holds out not one of 4 images; use 0.5 or more, or 0",
    ):
        split_indices(torch.tensor([0, 0, 1, 1]), 0.1, seed=0)
    with pytest.raises(InputError, match="not one of 2 images; use 0$"):
        split_indices(torch.tensor([0, 1]), 0.9, seed=0)


def test_order_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = order(seed=3, epoch=2)
    torch.manual_seed(2)
    assert order(seed=3, epoch=2) == first
    assert sorted(flat(first)) == list(range(100)) and flat(first) != list(range(100))
    assert order(seed=3, epoch=1) != first and order(seed=4, epoch=2) != first


def test_order_is_asked_of_the_trainer_at_every_epoch_anew():
    position = trainer(epoch=0)
    batches = TrainBatches(100, 10, 0, position)
    first = list(batches)
    position.fit_loop = trainer(epoch=1).fit_loop
    assert not torch.equal(torch.cat(first), torch.cat(list(batches)))


@pytest.mark.parametrize("done", [1, 9])
def test_order_continues_within_an_epoch(done):
    assert order(epoch=5, batch=done) == order(epoch=5)[done:]


def test_the_last_smaller_batch_is_dropped():
    batches = order(size=25, batch_size=10)
    assert [len(batch) for batch in batches] == [10, 10] and len(set(flat(batches))) == 20
    assert [len(batch) for batch in order(size=7, batch_size=10)] == [7]


def test_two_devices_share_the_images_without_overlap():
    both = [order(epoch=1, rank=rank, world=2) for rank in (0, 1)]
    assert not set(flat(both[0])) & set(flat(both[1]))
    assert sorted(flat(both[0]) + flat(both[1])) == list(range(100))
    assert len(TrainBatches(100, 10, 0, trainer(world=2))) == len(both[0]) == 5
    with pytest.raises(InputError, match="use fewer devices"):
        TrainBatches(1, 10, 0, trainer(world=2))


# Batches from one memory ------------------------------------------------------------------------------------------


def some_images(count=10):
    images = torch.arange(count, dtype=torch.uint8).view(count, 1, 1, 1).expand(count, 1, 2, 2)
    return ImageSet(images.contiguous(), torch.arange(count) * 10)


def test_batches_come_in_the_order_of_their_indices():
    batches = InMemoryBatches(some_images(), torch.tensor([3, 1, 9, 0, 5]).split(2))
    assert len(batches) == 3
    for _ in range(2):
        served = list(batches)
        assert [images[:, 0, 0, 0].tolist() for images, _ in served] == [[3, 1], [9, 0], [5]]
        assert [labels.tolist() for _, labels in served] == [[30, 10], [90, 0], [50]]


def test_indices_are_moved_to_the_images_once_an_iteration():
    batches = iter(InMemoryBatches(some_images().to("meta"), torch.arange(10).split(5)))
    assert [(images.device.type, images.shape) for images, _ in batches] == [
        ("meta", (5, 1, 2, 2))
    ] * 2


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, InMemoryBatches),
        ({"on_device": "never"}, DataLoader),
        ({"workers": 1}, DataLoader),
    ],
)
def test_which_loader_serves(settings, kind):
    module = DigitsDataModule(**settings)
    assert type(module._loader(some_images(), torch.arange(10).split(5))) is kind


def test_images_that_are_files_are_never_served_from_memory():
    partly = ImageSet(some_images(4).images, torch.arange(10), [f"{i}.png" for i in range(6)])
    assert type(DigitsDataModule()._loader(partly, torch.arange(10).split(5))) is DataLoader


@pytest.mark.parametrize(("free", "kind"), [(160, InMemoryBatches), (156, DataLoader)])
def test_a_cuda_device_takes_what_fits_into_a_quarter_of_its_free_memory(free, kind, monkeypatch):
    """40 bytes of images; the device is a stand-in, and nothing can be moved there."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1000))
    monkeypatch.setattr(ImageSet, "to", lambda self, device: self)
    module = DigitsDataModule(workers=2)
    module.trainer = on(torch.device("cuda", 0))
    assert type(module._loader(some_images(), torch.arange(10).split(5))) is kind


def on(device):
    return SimpleNamespace(strategy=SimpleNamespace(root_device=device))


def outcome(run):
    rows = [
        {key: value for key, value in row.items() if key != "images_per_second"}
        for row in read_metrics(run)
    ]
    return [load_checkpoint(run / "checkpoints" / name) for name in ("last.ckpt", "best.ckpt")] + [
        rows
    ]


def test_a_run_is_the_same_bit_for_bit_and_goes_on_with_the_other_in_the_middle_of_an_epoch(
    tmp_path,
):
    erase = ["--data.augment.erase", "0.5"]
    expected = outcome(program.run(tmp_path / "whole", *erase))
    for choice, other in (("auto", "never"), ("never", "auto")):
        run = tmp_path / choice / "digits" / "version_0"
        flags = tiny(tmp_path / choice, *erase, "--data.on_device", choice, epochs=2)
        assert program.train(*flags, prepare=stop_at(STEPS + 4)).code == 143
        assert program.train("--resume", run, "--data.on_device", other).code == 0
        assert not differences(outcome(run), expected)


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [8, 359])
def test_every_image_is_evaluated_by_exactly_one_process(size, processes):
    shares = [list(Share(size, rank, processes)) for rank in range(processes)]
    assert sorted(flat(shares)) == list(range(size))
    lengths = [len(Share(size, rank, processes)) for rank in range(processes)]
    assert lengths == [len(share) for share in shares] and max(lengths) - min(lengths) <= 1


def test_fewer_images_than_processes_are_evaluated_by_all():
    assert [list(Share(2, rank, 3)) for rank in range(3)] == [[0, 1]] * 3


def test_overfitting_sees_the_same_order_in_every_epoch():
    orders = []
    for epoch in (0, 4):
        position = trainer(epoch=epoch)
        position.overfit_batches = 3
        orders.append([batch.tolist() for batch in TrainBatches(100, 10, 0, position)])
    assert orders[0] == orders[1] == order(epoch=0)


def test_the_global_batch_is_the_same_for_any_number_of_processes():
    """Half as many images on each of two: together they are those of one process, batch by batch."""
    one = order(size=105, batch_size=12, epoch=2)
    for world in (2, 3, 4):
        parts = [
            order(size=105, batch_size=12 // world, epoch=2, rank=rank, world=world)
            for rank in range(world)
        ]
        assert [set(flat(batches)) for batches in zip(*parts, strict=True)] == [
            set(batch) for batch in one
        ]
