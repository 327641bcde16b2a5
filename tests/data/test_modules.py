"""Test the data modules: splits, training and evaluation batches, and settings."""

import pytest
import torch
from batches import generator, trainer

from src.data.datasets import read_digits
from src.data.modules import DigitsDataModule
from src.errors import InputError
from src.randomness import fold_in
from src.transforms.augment import Augmentation
from src.transforms.patchify import patchify


@pytest.fixture
def digits():
    data = DigitsDataModule()
    data.prepare_data()
    return data


def first_images(data, split="test", count=5):
    return data.sets[split].__getitems__(torch.arange(count))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_last_digits_are_held_out_whatever_the_seed(seed):
    data = DigitsDataModule(seed=seed)
    data.prepare_data()
    images, _ = read_digits("train")
    assert data.sets["train"].images.equal(images[:1294])
    assert data.sets["val"].images.equal(images[1294:])
    assert len(data.sets["test"]) == 359


def test_nothing_is_held_out_with_a_fraction_of_zero():
    data = DigitsDataModule(val_fraction=0)
    data.prepare_data()
    assert len(data.sets["train"]) == 1438
    assert data.sets["val"] is None
    assert data.val_dataloader() == []


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_is_in_order_and_complete(digits, split):
    digits.trainer = trainer(training=False)
    digits.eval_batch_size = 50
    loader = getattr(digits, f"{split}_dataloader")()
    images, labels = zip(*loader, strict=True)
    whole = digits.sets[split]
    assert [len(batch) for batch in labels[:-1]] == [50] * (len(whole) // 50)
    assert torch.cat(images).equal(whole.images)
    assert torch.cat(labels).equal(whole.labels)


@pytest.mark.parametrize(("limit", "limited"), [(0.5, True), (2, True), (3, False), (1.0, False)])
def test_validation_of_a_part_covers_all_classes(digits, limit, limited):
    digits.sets["val"] = digits.sets["val"].subset(digits.sets["val"].labels.argsort())
    digits.eval_batch_size = 50  # 3 batches in 144 images
    digits.trainer = trainer(limit_val_batches=limit)
    labels = next(iter(digits.val_dataloader()))[1]
    assert (len(labels.unique()) == 10) == limited
    shares = [digits.share("val") for digits.trainer.global_rank in (0, 0)]
    assert list(shares[0]) == list(shares[1])
    assert sorted(shares[0]) == list(range(144))


def test_evaluation_only_normalizes_and_patchifies(digits):
    images, labels = first_images(digits)
    digits.trainer = trainer(training=False)
    inputs, targets = digits.on_after_batch_transfer((images, labels), 0)
    expected = (images / 255 - 0.3055) / 0.3754
    torch.testing.assert_close(inputs, patchify(expected, 2))
    assert inputs.shape == (5, 16, 4)
    assert targets.equal(labels)


def test_augmentation_depends_on_seed_epoch_batch_and_rank(digits):
    images, labels = first_images(digits, "train", 8)

    def serve(seed=0, **position):
        digits.trainer = trainer(**position)
        digits.seed = seed
        inputs, _ = digits.on_after_batch_transfer((images, labels), 0)
        return inputs

    position = {"epoch": 1, "batch": 2}
    first = serve(**position)
    torch.rand(3)
    assert serve(**position).equal(first)
    for change in ({"epoch": 2}, {"batch": 3}, {"rank": 1}, {"seed": 1}):
        assert not serve(**position | change).equal(first)

    augmented = digits.augment(images, generator(fold_in(0, 1, 2, 0)))
    assert first.equal(patchify(augmented, 2))


def test_training_batches_need_a_trainer(digits):
    with pytest.raises(InputError, match="pass the data module itself to Trainer.fit"):
        digits.train_dataloader()


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"val_fraction": 1.0}, "val_fraction must be at least 0 and below 1, got 1.0"),
        ({"patch_size": 0}, "patch_size 0 does not divide the image size 8x8"),
        (
            {"augment": Augmentation(translate=8)},
            "augment.translate must be below the image size 8, got 8",
        ),
    ],
)
def test_impossible_settings_are_refused(setting, reason):
    with pytest.raises(InputError, match=f"data.{reason}"):
        DigitsDataModule(**setting)
