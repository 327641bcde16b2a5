"""The data modules: what they serve in training and evaluation, and what they say of themselves."""

import json

import pytest
import torch
from batches import generator, trainer
from photos import class_folders

from src.data import modules
from src.data.datasets import DATASETS, read_digits
from src.data.folders import ImageSet
from src.data.modules import CIFAR10DataModule, DigitsDataModule
from src.errors import InputError
from src.randomness import fold_in
from src.transforms.augment import Augment, Augmentation
from src.transforms.patchify import normalize, patchify

MODULES = dict(zip(DATASETS, modules.NamedDataModule.__subclasses__(), strict=True))


@pytest.fixture
def digits():
    module = DigitsDataModule()
    module.prepare_data()
    return module


def test_digits_are_split_and_the_test_images_stay_apart(digits):
    assert {name: len(images) for name, images in digits.sets.items()} == {
        "train": 1294,
        "val": 144,
        "test": 359,
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_the_digits_held_out_are_the_last_ones_as_other_people_wrote_them(seed):
    module = DigitsDataModule(seed=seed)
    module.prepare_data()
    images = read_digits("train")[0]
    assert module.sets["train"].images.equal(images[:1294]) and module.sets["val"].images.equal(
        images[1294:]
    )


@pytest.mark.parametrize(("fraction", "train"), [(0.0001, 1437), (0.9999, 1)])
def test_of_the_digits_at_least_one_is_held_out_and_one_trained_on(fraction, train):
    module = DigitsDataModule(val_fraction=fraction)
    module.setup("fit")
    assert len(module.sets["train"]) == train and len(module.sets["val"]) == 1438 - train


def test_no_validation_split_when_its_fraction_is_zero():
    module = DigitsDataModule(val_fraction=0)
    module.prepare_data()
    assert len(module.sets["train"]) == 1438 and module.sets["val"] is None
    assert module.val_dataloader() == []


def test_batches_leave_the_loader_as_uint8_by_one_tensor_index(digits, monkeypatch):
    digits.trainer, asked = trainer(), []
    usual = ImageSet.__getitems__
    monkeypatch.setattr(ImageSet, "__getitems__", lambda self, i: asked.append(i) or usual(self, i))
    monkeypatch.setattr(ImageSet, "__getitem__", None, raising=False)  # nothing goes image by image
    images, labels = next(iter(digits.train_dataloader()))
    assert images.dtype == torch.uint8 and images.shape == (128, 1, 8, 8)
    assert labels.dtype == torch.int64 and labels.shape == (128,)
    assert len(asked) == 1 and isinstance(asked[0], torch.Tensor)
    train = digits.sets["train"]
    assert torch.equal(images, train.images[asked[0]]) and torch.equal(
        labels, train.labels[asked[0]]
    )


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_is_in_order_and_covers_everything(digits, split):
    digits.trainer, digits.eval_batch_size = trainer(training=False), 50
    batches = list(getattr(digits, f"{split}_dataloader")())
    whole = digits.sets[split]
    assert [len(labels) for _, labels in batches] == [50] * (len(whole) // 50) + [len(whole) % 50]
    assert torch.equal(torch.cat([images for images, _ in batches]), whole.images)
    assert torch.equal(torch.cat([labels for _, labels in batches]), whole.labels)


def test_evaluation_batches_are_normalized_and_cut_into_patches_only(digits):
    digits.trainer = trainer(training=False)
    images, labels = digits.sets["test"].__getitems__(torch.arange(5))
    inputs, targets = digits.on_after_batch_transfer((images, labels), 0)
    expected = (images.float() / 255 - 0.3055) / 0.3754
    torch.testing.assert_close(inputs, patchify(expected, 2))
    assert inputs.shape == (5, 16, 4) and torch.equal(targets, labels)
    digits.trainer = trainer(epoch=3, batch=2, training=False)
    assert torch.equal(inputs, digits.on_after_batch_transfer((images, labels), 0)[0])


def test_augmentation_follows_from_seed_epoch_batch_and_rank(digits):
    batch = digits.sets["train"].__getitems__(torch.arange(8))

    def served(seed=0, **position):
        digits.trainer, digits.seed = trainer(**position), seed
        return digits.on_after_batch_transfer(batch, 0)[0]

    first = served(epoch=1, batch=2)
    torch.rand(3)
    assert torch.equal(first, served(epoch=1, batch=2))
    for other in (
        {"epoch": 2, "batch": 2},
        {"epoch": 1, "batch": 3},
        {"epoch": 1, "batch": 2, "rank": 1},
    ):
        assert not torch.equal(first, served(**other))
    assert not torch.equal(first, served(epoch=1, batch=2, seed=1))
    source = generator(fold_in(0, 1, 2, 0))
    augment = Augment(digits.augmentation, digits.info.mean, digits.info.std)
    torch.testing.assert_close(first, patchify(augment(batch[0], source), 2))


def test_mixup_makes_soft_targets_in_training_alone():
    module = DigitsDataModule(augment=Augmentation(mixup=1.0))
    module.prepare_data()
    batch = module.sets["train"].__getitems__(torch.arange(8))
    module.trainer = trainer()
    targets = module.on_after_batch_transfer(batch, 0)[1]
    assert targets.shape == (8, 10)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    module.trainer = trainer(training=False)
    assert torch.equal(module.on_after_batch_transfer(batch, 0)[1], batch[1])


def test_without_a_patch_size_whole_images_are_served(digits):
    module = DigitsDataModule(patch_size=None)
    module.trainer = trainer(training=False)
    images, labels = digits.sets["test"].__getitems__(torch.arange(3))
    inputs = module.on_after_batch_transfer((images, labels), 0)[0]
    torch.testing.assert_close(inputs, normalize(images, module.info.mean, module.info.std))


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"val_fraction": 1.0},
        {"workers": -1},
        {"memory_budget": -1},
        {"val_fraction": -1},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(InputError, match=f"data.{next(iter(settings))} "):
        DigitsDataModule(**settings)


def test_a_translation_out_of_the_image_is_refused_for_training_alone():
    module = DigitsDataModule(augment=Augmentation(translate=8))
    module.setup("test")
    with pytest.raises(
        InputError, match="data.augment.translate 8: images of 8 pixels can be moved by 7 at most"
    ):
        module.setup("fit")


@pytest.mark.parametrize("name", MODULES)
def test_the_description_is_plain_and_complete(name):
    module, info = MODULES[name](root="somewhere"), DATASETS[name]
    description = module.description
    assert json.loads(json.dumps(description)) == description
    assert description["module"] == type(module).__name__ and description["root"] == "somewhere"
    for key in ("name", "image_size", "channels"):
        assert description[key] == getattr(info, key)
    for key in ("classes", "mean", "std"):
        assert description[key] == list(getattr(info, key))
    assert info.image_size % description["patch_size"] == 0


def test_named_datasets_can_lie_on_disk_as_class_folders(tmp_path, offline):
    classes = DATASETS["cifar10"].classes
    class_folders(tmp_path / "cifar10", classes, (32, 32), train=2, test=2)
    module = CIFAR10DataModule(root=str(tmp_path), val_fraction=0.5)
    module.prepare_data()
    assert {name: len(images) for name, images in module.sets.items()} == {
        "train": 10,
        "val": 10,
        "test": 20,
    }
    test = module.sets["test"]
    assert test.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert test.images[:, :, 5, 7].tolist() == [
        [k * 20, i * 20, 1] for k in range(10) for i in range(2)
    ]
