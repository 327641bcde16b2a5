"""The datasets, the validation split, the training order, and what arrives at the network."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from photos import class_folders
from ?CIFAR100 import CIFAR100
from src.data.datasets import DATASETS
from torch.utils.data import DataLoader

from src import data, folders
from src.data.modules import CIFAR10DataModule, DigitsDataModule, MNISTDataModule
from src.data.sampling import TrainBatches, split_indices
from src.errors import InputError
from src.randomness import fold_in
from src.transforms.augment import Augment, Augmentation
from src.transforms.patchify import Patchify, normalize

MODULES = {
    "digits": DigitsDataModule, "mnist": MNISTDataModule, "fashion_mnist": data.FashionMNISTDataModule,
    "cifar10": CIFAR10DataModule, "cifar100": data.CIFAR100DataModule,
}  # fmt: skip
NAMED = [name for name in MODULES if name != "digits"]
MNIST_FILES = [f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]


def trainer(epoch=0, batch=0, rank=0, world=1, training=True):
    """What the data module asks of a trainer: in which epoch it is, and how many batches of it are done."""
    epochs = SimpleNamespace(current=SimpleNamespace(processed=epoch, ready=epoch + (batch > 0)))
    batches = SimpleNamespace(current=SimpleNamespace(processed=batch, ready=batch))
    loop = SimpleNamespace(epoch_progress=epochs, epoch_loop=SimpleNamespace(batch_progress=batches))
    return SimpleNamespace(world_size=world, global_rank=rank, training=training, fit_loop=loop)


def order(size=100, batch_size=10, seed=0, **position):
    return [batch.tolist() for batch in TrainBatches(size, batch_size, seed, trainer(**position))]


def flat(batches):
    return [index for batch in batches for index in batch]


@pytest.fixture(scope="module")
def digits():
    module = DigitsDataModule()
    module.prepare_data()
    return module


# The validation split --------------------------------------------------------------------------------------------


def test_split_is_complete_disjoint_and_stratified():
    labels = torch.tensor([0] * 100 + [1] * 50 + [2] * 10)[torch.randperm(160)]
    train, val = split_indices(labels, 0.2, seed=0)
    assert sorted(train.tolist() + val.tolist()) == list(range(160))
    assert labels[val].bincount().tolist() == [20, 10, 2]
    assert train.tolist() == sorted(train.tolist()) and val.tolist() == sorted(val.tolist())


def test_split_follows_from_the_seed():
    labels = torch.arange(200) % 4
    assert torch.equal(split_indices(labels, 0.1, seed=1)[1], split_indices(labels, 0.1, seed=1)[1])
    assert not torch.equal(split_indices(labels, 0.1, seed=1)[1], split_indices(labels, 0.1, seed=2)[1])


def test_split_leaves_every_class_an_image_to_train_on():
    train, val = split_indices(torch.tensor([0, 0, 0, 0, 1]), 0.9, seed=0)
    assert 4 in train.tolist() and len(val) == 3


def test_a_fraction_that_holds_out_nothing_is_refused():
    with pytest.raises(InputError, match="data.val_fraction 0.1: holds out not one of 4 images; use 0.5 or more, or 0"):
        split_indices(torch.tensor([0, 0, 1, 1]), 0.1, seed=0)
    with pytest.raises(InputError, match="not one of 2 images; use 0$"):
        split_indices(torch.tensor([0, 1]), 0.9, seed=0)


def test_digits_are_split_and_the_test_images_stay_apart(digits):
    assert {name: len(images) for name, images in digits.sets.items()} == {"train": 1294, "val": 144, "test": 359}
    counts = data.read_digits("train")[1].bincount().tolist()
    assert digits.sets["val"].labels.bincount().tolist() == [round(0.1 * count) for count in counts]


def test_no_validation_split_when_its_fraction_is_zero():
    module = DigitsDataModule(val_fraction=0)
    module.prepare_data()
    assert len(module.sets["train"]) == 1438 and module.sets["val"] is None
    assert module.val_dataloader() == []


# The training order ----------------------------------------------------------------------------------------------


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


# The loaders and the way to the network --------------------------------------------------------------------------


def test_batches_leave_the_loader_as_uint8_by_one_tensor_index(digits, monkeypatch):
    digits.trainer, asked = trainer(), []
    usual = folders.ImageSet.__getitems__
    monkeypatch.setattr(folders.ImageSet, "__getitems__", lambda self, i: asked.append(i) or usual(self, i))
    monkeypatch.setattr(folders.ImageSet, "__getitem__", None, raising=False)  # nothing goes image by image
    images, labels = next(iter(digits.train_dataloader()))
    assert images.dtype == torch.uint8 and images.shape == (128, 1, 8, 8)
    assert labels.dtype == torch.int64 and labels.shape == (128,)
    assert len(asked) == 1 and isinstance(asked[0], torch.Tensor)
    train = digits.sets["train"]
    assert torch.equal(images, train.images[asked[0]]) and torch.equal(labels, train.labels[asked[0]])


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_is_in_order_and_covers_everything(digits, split):
    digits.trainer, digits.eval_batch_size = trainer(training=False), 50
    batches = list(getattr(digits, f"{split}_dataloader")())
    whole = digits.sets[split]
    assert [len(labels) for _, labels in batches] == [50] * (len(whole) // 50) + [len(whole) % 50]
    assert torch.equal(torch.cat([images for images, _ in batches]), whole.images)
    assert torch.equal(torch.cat([labels for _, labels in batches]), whole.labels)


def test_training_loader_serves_another_order_each_epoch(digits):
    digits.trainer = trainer()
    loader: DataLoader = digits.train_dataloader()
    first = torch.cat([labels for _, labels in loader])
    digits.trainer.fit_loop = trainer(epoch=1).fit_loop
    assert not torch.equal(first, torch.cat([labels for _, labels in loader]))


def test_evaluation_batches_are_normalized_and_cut_into_patches_only(digits):
    digits.trainer = trainer(training=False)
    images, labels = digits.sets["test"].__getitems__(torch.arange(5))
    inputs, targets = digits.on_after_batch_transfer((images, labels), 0)
    expected = (images.float() / 255 - 0.3053) / 0.3761
    torch.testing.assert_close(inputs, Patchify(2)(expected))
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
    for other in ({"epoch": 2, "batch": 2}, {"epoch": 1, "batch": 3}, {"epoch": 1, "batch": 2, "rank": 1}):
        assert not torch.equal(first, served(**other))
    assert not torch.equal(first, served(epoch=1, batch=2, seed=1))
    generator = torch.Generator().manual_seed(fold_in(0, 1, 2, 0))
    augment = Augment(digits.augmentation, digits.mean, digits.std)
    assert torch.equal(first, Patchify(2)(augment(batch[0], generator)))
    digits.seed = 0


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
    assert torch.equal(inputs, normalize(images, module.mean, module.std))


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"val_fraction": 1.0}, {"workers": -1}, {"memory_budget": -1}, {"val_fraction": -1}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(InputError, match=f"data.{next(iter(settings))} "):
        DigitsDataModule(**settings)


# What is known of the datasets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODULES)
def test_description_is_plain_and_complete(name):
    module = MODULES[name](root="somewhere", patch_size=1)
    description = module.description
    assert json.loads(json.dumps(description)) == description
    assert description["module"] == type(module).__name__ and description["name"] == name
    assert description["root"] == "somewhere" and description["patch_size"] == 1
    assert len(description["mean"]) == len(description["std"]) == description["channels"] == DATASETS[name].channels
    assert description["image_size"] == {"digits": 8, "cifar10": 32, "cifar100": 32}.get(name, 28)
    assert len(set(description["classes"])) == (100 if name == "cifar100" else 10)
    assert description["image_size"] % MODULES[name]().patch_size == 0


def test_cifar_class_names_are_sorted_as_their_folders_are():
    assert len(CIFAR100) == 100 and list(CIFAR100) == sorted(CIFAR100)
    assert list(DATASETS["cifar10"].classes) == sorted(DATASETS["cifar10"].classes)


def test_digits_are_those_of_scikit_learn_and_match_the_table():
    from sklearn.datasets import load_digits

    images, labels = data.read_digits("test")
    theirs = load_digits()
    assert np.array_equal(images[:, 0], np.round(theirs.images[4::5] * 255 / 16))
    assert labels.tolist() == theirs.target[4::5].tolist()
    check_statistics("digits", data.read_digits("train")[0])


def check_statistics(name, images):
    values = torch.arange(256, dtype=torch.float64) / 255
    for channel, mean, std in zip(images.unbind(1), DATASETS[name].mean, DATASETS[name].std, strict=True):
        share = channel.flatten().bincount(minlength=256).double() / channel.numel()
        assert float(share @ values) == pytest.approx(mean, abs=1e-3)
        assert float(share @ (values - share @ values) ** 2) ** 0.5 == pytest.approx(std, abs=1e-3)


def test_named_datasets_can_lie_on_disk_as_class_folders(tmp_path, offline):
    classes = DATASETS["cifar10"].classes
    class_folders(tmp_path / "cifar10", classes, (32, 32), train=2, test=2)
    module = CIFAR10DataModule(root=str(tmp_path), val_fraction=0.5)
    module.prepare_data()
    assert {name: len(images) for name, images in module.sets.items()} == {"train": 10, "val": 10, "test": 20}
    test = module.sets["test"]
    assert test.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert test.images[:, :, 5, 7].tolist() == [[k * 20, i * 20, 1] for k in range(10) for i in range(2)]


@pytest.mark.parametrize("name", NAMED)
def test_a_missing_dataset_names_every_place_and_the_way_out(name, tmp_path, offline):
    with pytest.raises(InputError) as caught:
        MODULES[name](root=str(tmp_path)).prepare_data()
    message = str(caught.value)
    folder = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw", "cifar10": "cifar-10-batches-py"}
    assert str(tmp_path / folder.get(name, "cifar-100-python")) in message
    assert f"{tmp_path / name}/{{train,test}}/<class>/" in message
    assert "http" in message and "no network" in message and "by hand" in message
    assert "configs/digits.yaml" in message and "--data.root" in message and "\n" not in message


# The real datasets -----------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_real_mnist_is_whole_and_matches_the_table(offline, request):
    root = request.config.rootpath / "data"
    if not all((root / "MNIST" / "raw" / name).is_file() for name in MNIST_FILES):
        pytest.skip("MNIST is not under data/MNIST/raw")
    module = MNISTDataModule(root=str(root), val_fraction=0)
    module.prepare_data()
    train, test = module.sets["train"], module.sets["test"]
    assert train.images.shape == (60_000, 1, 28, 28) and test.images.shape == (10_000, 1, 28, 28)
    assert train.images.dtype == torch.uint8
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    check_statistics("mnist", train.images)


@pytest.mark.real_data
def test_real_cifar10_is_whole_and_decoded_only_once(offline, request, monkeypatch):
    root = request.config.rootpath / "data"
    if not (root / "cifar10" / "train").is_dir():
        pytest.skip("CIFAR-10 is not under data/cifar10 as class folders")
    CIFAR10DataModule(root=str(root)).prepare_data()  # decodes, unless an earlier run has

    def explode(*args):
        raise AssertionError("decoded again")

    monkeypatch.setattr(folders, "read_image", explode)
    module = CIFAR10DataModule(root=str(root), val_fraction=0)
    module.prepare_data()
    train, test = module.sets["train"], module.sets["test"]
    assert train.images.shape == (50_000, 3, 32, 32) and test.images.shape == (10_000, 3, 32, 32)
    assert train.labels.bincount().tolist() == [5000] * 10 and test.labels.bincount().tolist() == [1000] * 10
    check_statistics("cifar10", train.images)
