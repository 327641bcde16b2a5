"""Test the validation split, the training order and the resulting batches."""

from types import SimpleNamespace

import pytest
import torch
from batches import trainer
from photos import class_folders
from torch.utils.data import DataLoader

from src.data.image_set import ImageSet
from src.data.modules import DigitsDataModule, FolderDataModule
from src.data.sampling import (
    InMemoryBatches,
    Share,
    TrainBatches,
    class_weights,
    split_fold,
    split_indices,
)
from src.errors import InputError
from src.transforms.augment import Augmentation


def order(size=100, batch_size=10, seed=0, **position):
    batches = TrainBatches(size, batch_size, seed, trainer(**position))
    return [batch.tolist() for batch in batches]


def flat(batches):
    return [index for batch in batches for index in batch]


# Validation split


def test_split_is_complete_disjoint_and_stratified():
    sizes = torch.tensor([100, 50, 10])
    labels = torch.arange(3).repeat_interleave(sizes)[torch.randperm(160)]
    train, val = split_indices(labels, 0.2, seed=0)
    assert sorted(train.tolist() + val.tolist()) == list(range(160))
    assert labels[val].bincount().tolist() == [20, 10, 2]
    assert val.tolist() == sorted(val)
    assert val.equal(split_indices(labels, 0.2, seed=0)[1])
    assert not val.equal(split_indices(labels, 0.2, seed=1)[1])


def test_an_image_of_every_class_that_has_two_is_held_out():
    labels = torch.tensor([0] * 40 + [1] * 4 + [2] * 2 + [3])
    train, val = split_indices(labels, 0.1, seed=0)
    assert labels[val].bincount().tolist() == [4, 1, 1]
    assert labels[train].bincount().tolist() == [36, 3, 1, 1]
    assert len(split_indices(labels, 0, seed=0)[1]) == 0


def test_classes_with_one_image_are_refused_if_there_is_no_other():
    with pytest.raises(InputError, match="every class has only one; .* data.val_fraction to 0"):
        split_indices(torch.tensor([0, 1]), 0.1, seed=0)


# Cross-validation


def test_folds_cover_all_images_once_and_each_class_evenly():
    labels = torch.arange(3).repeat_interleave(torch.tensor([23, 10, 2]))[torch.randperm(35)]
    held_out = []
    for fold in range(5):
        train, val = split_fold(labels, 5, fold, seed=0)
        assert sorted(train.tolist() + val.tolist()) == list(range(35))
        assert len(val) == 7
        counts = labels[val].bincount(minlength=3).tolist()
        assert counts[0] in (4, 5)
        assert counts[1] == 2
        assert not val.equal(split_fold(labels, 5, fold, seed=1)[1])
        held_out += val.tolist()
    assert sorted(held_out) == list(range(35))


def test_folds_that_cannot_be_filled_are_refused():
    with pytest.raises(InputError, match="data.folds 3: .* 5 images, 1 in the smallest class"):
        split_fold(torch.tensor([0, 0, 0, 0, 1]), 3, 0, seed=0)
    with pytest.raises(InputError, match="data.folds 5: .* there are 4 images"):
        split_fold(torch.tensor([0, 0, 1, 1]), 5, 0, seed=0)


def test_data_modules_validate_on_the_chosen_fold(tmp_path):
    """Digits are not shuffled, because they are sorted by writer."""
    data = DigitsDataModule(folds=5, fold=1)
    data.setup("fit")
    assert data.sets["val"].rows.tolist() == list(range(288, 576))
    assert len(data.sets["train"]) == 1438 - 288
    root = class_folders(tmp_path, ("cat", "dog"), (20, 20), train=6)
    for fold in range(3):
        data = FolderDataModule(str(root), 16, folds=3, fold=fold, val_fraction=0)
        data.setup("fit")
        assert data.sets["val"].labels.tolist() == [0, 0, 1, 1]
        assert data.sets["train"].labels.tolist() == [0] * 4 + [1] * 4
    class_folders(tmp_path, ("cat", "dog"), (20, 20), val=1)
    with pytest.raises(InputError, match="data.folds 3: .* already has validation images"):
        FolderDataModule(str(root), 16, folds=3).setup("fit")


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (5, 5), (0, 1)])
def test_folds_that_do_not_exist_are_refused(folds, fold):
    with pytest.raises(InputError, match=f"data.folds {folds} and data.fold {fold}: use at least"):
        DigitsDataModule(folds=folds, fold=fold)


# Training order


def test_order_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = order(seed=3, epoch=2)
    torch.manual_seed(2)
    assert order(seed=3, epoch=2) == first
    assert sorted(flat(first)) == list(range(100))
    assert order(seed=3, epoch=1) != first
    assert order(seed=4, epoch=2) != first


def test_every_iteration_asks_the_trainer_where_it_is():
    position = trainer()
    batches = TrainBatches(100, 10, 0, position)
    list(batches)
    position.fit_loop = trainer(epoch=5, batch=7).fit_loop
    assert [batch.tolist() for batch in batches] == order(epoch=5)[7:]


def test_devices_share_the_images_of_each_global_batch():
    one = order(size=105, batch_size=12, epoch=2)
    for world in (2, 3, 4):
        size = 12 // world
        parts = []
        for rank in range(world):
            parts.append(order(105, size, epoch=2, rank=rank, world=world))
        for whole, *shares in zip(one, *parts, strict=True):
            assert sorted(flat(shares)) == sorted(whole)
    with pytest.raises(InputError, match="1 training images for 2 devices"):
        TrainBatches(1, 10, 0, trainer(world=2))


# Class imbalance

LABELS = (torch.arange(10_000) >= 1000).long()  # 1,000 images of class 0, 9,000 of class 1


@pytest.mark.parametrize(("balance", "share"), [("sampler", 0.5), ("sampler_sqrt", 0.25)])
def test_a_balanced_epoch_draws_classes_by_their_weights(balance, share):
    weights = class_weights(LABELS, balance)[LABELS]
    batches = TrainBatches(10_000, 100, 0, trainer(epoch=2), weights)
    drawn = torch.cat(list(batches))
    assert len(batches) == 100
    assert (LABELS[drawn] == 0).double().mean() == pytest.approx(share, abs=0.02)
    rest = TrainBatches(10_000, 100, 0, trainer(epoch=2, batch=7), weights)
    assert torch.cat(list(rest)).equal(drawn[700:])
    other = TrainBatches(10_000, 100, 0, trainer(epoch=3), weights)
    assert not torch.cat(list(other)).equal(drawn)


@pytest.mark.parametrize(("balance", "ratio"), [("loss", 9), ("loss_sqrt", 3)])
def test_class_weights(balance, ratio):
    weights = class_weights(LABELS, balance)
    assert weights[0] / weights[1] == pytest.approx(ratio)
    assert weights[LABELS].mean() == pytest.approx(1)


@pytest.mark.parametrize("mixup", [0, 1.0])
def test_a_balanced_loss_weights_each_image_by_its_targets(mixup):
    data = DigitsDataModule(balance="loss", augment=Augmentation(mixup=mixup))
    data.prepare_data()
    data.trainer = trainer()
    batch = next(iter(data.train_dataloader()))
    _, targets, weights = data.on_after_batch_transfer(batch, 0)
    counts = data.sets["train"].labels.bincount()
    soft = targets if mixup else torch.nn.functional.one_hot(targets, 10).float()
    assert soft.shape == (len(weights), 10)
    torch.testing.assert_close(weights, soft @ (len(data.sets["train"]) / 10 / counts))
    data.trainer.training = False
    assert len(data.on_after_batch_transfer(batch, 0)) == 2


# In-memory batches


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, InMemoryBatches),
        ({"on_device": "never"}, DataLoader),
        ({"workers": 1}, DataLoader),
    ],
    ids=str,
)
def test_every_loader_serves_the_same_batches(settings, kind):
    for loader, expected in zip(load(**settings), load(), strict=True):
        assert type(loader) is kind
        for (images, labels), (others, targets) in zip(loader, expected, strict=True):
            assert images.equal(others)
            assert labels.equal(targets)


def load(**settings):
    """Return a loader for the rest of an epoch and the test loader of rank 1 (of two)."""
    data = DigitsDataModule(**settings)
    data.prepare_data()
    data.trainer = trainer(epoch=2, batch=3)
    rest = data.train_dataloader()
    data.trainer = trainer(rank=1, world=2)
    return rest, data.test_dataloader()


@pytest.mark.parametrize(("free", "kind"), [(160, InMemoryBatches), (156, DataLoader)])
def test_a_cuda_device_holds_images_that_fit_into_a_quarter_of_its_memory(free, kind, monkeypatch):
    """Use images of 40 bytes. No CUDA device is needed, because `to` is patched."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1000))
    monkeypatch.setattr(ImageSet, "to", lambda self, device: self)
    data = DigitsDataModule(workers=2)
    strategy = SimpleNamespace(root_device=torch.device("cuda", 0))
    data.trainer = SimpleNamespace(strategy=strategy)
    pixels = torch.zeros(10, 1, 2, 2, dtype=torch.uint8)
    labels = torch.zeros(10)
    loader = data._loader(ImageSet(pixels, labels), (), batch_size=5)
    assert type(loader) is kind


# Evaluation in several processes


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("size", [8, 359])
def test_every_image_is_evaluated_by_exactly_one_process(size, processes):
    shares = [Share(range(size), rank, processes) for rank in range(processes)]
    assert sorted(flat(shares)) == list(range(size))
    lengths = [len(share) for share in shares]
    assert sum(lengths) == size
    assert max(lengths) - min(lengths) <= 1


def test_every_process_evaluates_all_of_too_few_images():
    assert list(Share(range(2), 2, 3)) == [0, 1]
