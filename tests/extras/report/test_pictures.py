"""Test that TensorBoard pictures are correct, cheap to draw, and have no effect on training."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from batches import trainer
from launch import launch, torchrun
from program import differences, stop_at, tiny, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.config import ViTConfig
from src.data.modules import DigitsDataModule
from src.extras.report import figures, pictures
from src.extras.report.evaluation import summarize
from src.models.build import build_network
from src.runs.checkpoint import Checkpoint
from src.runs.results import read_metrics
from src.transforms.augment import Augmentation

START = {"training/first_batch"}
VALIDATION = {
    "validation/confusion_matrix",
    "validation/confident_mistakes",
    "validation/attention",
}
WEIGHTS = {"weights/filters", "weights/position_similarity"}


def metrics(run):
    """Return the rows of metrics.csv without the speed column."""
    rows = read_metrics(run)
    for row in rows:
        del row["images_per_second"]
    return rows


def images(run):
    """Return the steps at which pictures were logged, keyed by tag."""
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    tags = events.Tags()["images"]
    return {tag: [image.step for image in events.Images(tag)] for tag in tags}


def changed(run, other):
    """Return the differences between the checkpoints of two runs."""
    found = []
    for name in ("best.ckpt", "last.ckpt"):
        ours = Checkpoint.open(run / "checkpoints" / name)
        theirs = Checkpoint.open(other / "checkpoints" / name)
        found += differences(ours.content, theirs.content)
    return found


@pytest.fixture(scope="module")
def illustrated(tmp_path_factory):
    """Return a run with all pictures: three epochs of ten steps each."""
    runs = tmp_path_factory.mktemp("illustrated")
    ended = train(*tiny(runs, "--pictures", "true"))
    assert ended.code == 0, ended
    return runs / "digits" / "version_0"


def test_steps_of_all_pictures(illustrated):
    expected = dict.fromkeys(START, [0])
    expected |= dict.fromkeys(VALIDATION | WEIGHTS, [29])
    assert images(illustrated) == expected


def test_a_run_is_the_same_without_pictures(illustrated, tmp_path):
    assert train(*tiny(tmp_path)).code == 0
    plain = tmp_path / "digits" / "version_0"
    assert not images(plain)
    assert not (plain / "report.html").exists()
    assert changed(plain, illustrated) == []
    assert metrics(plain) == metrics(illustrated)


def test_a_resumed_run_has_the_same_pictures(illustrated, tmp_path):
    run = tmp_path / "digits" / "version_0"
    assert train(*tiny(tmp_path, "--pictures", "true"), prepare=stop_at(14)).code == 143
    resumed = train("--resume", run)
    assert resumed.code == 0, resumed
    assert changed(run, illustrated) == []
    assert metrics(run) == metrics(illustrated)
    assert images(run) == images(illustrated)


OTHERS = {
    "no validation": "--data.val_fraction 0 --patience null",
    "ensemble": "--model.ensemble 2 --data.augment.mixup 1 --trainer.num_sanity_val_steps 1",
    "stem": "--model.stem_layers 2 --data.patch_size null --trainer.check_val_every_n_epoch 2",
}


@pytest.mark.parametrize("key", OTHERS)
def test_pictures_of_other_trainings(tmp_path, key):
    args = tiny(tmp_path, "--pictures", "true", *OTHERS[key].split(), epochs=2)
    ended = train(*args)
    assert ended.code == 0, ended
    validation, end = (set(), 21) if key == "no validation" else (VALIDATION, 19)
    expected = dict.fromkeys(START, [0]) | dict.fromkeys(validation | WEIGHTS, [end])
    assert images(tmp_path / "digits" / "version_0") == expected


def test_pictures_of_a_cnn(tmp_path):
    flags = """
    --config configs/mnist_cnn.yaml --data DigitsDataModule --data.patch_size null
    --trainer.max_epochs 1 --trainer.accelerator cpu --runs
    """
    ended = train(*flags.split(), tmp_path)
    assert ended.code == 0, ended
    tags = set(images(tmp_path / "mnist_cnn" / "version_0"))
    missing = {"validation/attention", "weights/position_similarity"}
    assert tags == (START | VALIDATION | WEIGHTS) - missing


def test_two_processes_draw_once(tmp_path):
    flags = "--pictures true --trainer.devices 2 --trainer.strategy ddp --data.batch_size 64"
    args = tiny(tmp_path, *flags.split(), epochs=1)
    processes = launch(args, [torchrun(rank, 2) for rank in range(2)])
    assert [ended.code for ended in processes] == [0, 0], processes
    run = tmp_path / "digits" / "version_0"
    steps = images(run)
    assert set(steps) == START | VALIDATION | WEIGHTS
    assert all(len(steps[tag]) == 1 for tag in steps)
    assert len(list(run.glob("events*"))) <= 2
    assert "359 test images" in (run / "report.html").read_text()  # from both processes


# Each picture -------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """Return a list that records the images and captions passed to `figures.tiles`."""
    seen = []

    def tiles(images, captions, *args, **kwargs):
        seen.append((images, captions))

    monkeypatch.setattr(figures, "tiles", tiles)
    return seen


@pytest.fixture
def data():
    """Return a single-process digits data module in evaluation mode."""
    data = DigitsDataModule()
    data.setup("fit")
    data.trainer = trainer(training=False)
    return data


def predict(labels):
    """Return predictions that assign probability 1 to the given labels."""
    return [summarize(F.one_hot(labels, 10).float())]


@pytest.mark.parametrize("patch_size", [2, None])
def test_the_first_batch_is_drawn_as_images(drawn, patch_size):
    data = DigitsDataModule(patch_size=patch_size, augment=Augmentation())
    data.setup("fit")
    data.trainer = SimpleNamespace(training=False)
    images, labels = data.sets["train"].__getitems__(torch.arange(100, 140))
    pictures.draw_batch(data, data.on_after_batch_transfer((images, labels), 0))
    ((tiles, captions),) = drawn
    assert torch.equal(tiles, images[: pictures.IMAGES])
    assert captions == [str(int(label)) for label in labels[: pictures.IMAGES]]


def test_mistakes_are_drawn_if_there_are_any(data):
    labels = data.sets["val"].labels.clone()
    tags = set(pictures.draw_validation(data, predict(labels)))
    assert tags == {"validation/confusion_matrix"}
    labels[0] = (labels[0] + 1) % 10
    tags = set(pictures.draw_validation(data, predict(labels)))
    assert tags == VALIDATION - {"validation/attention"}


def test_predictions_belong_to_the_images_of_their_process(data, monkeypatch):
    evaluations = []
    monkeypatch.setattr(figures, "confusion", evaluations.append)
    data.trainer.world_size = 2
    labels = data.sets["val"].labels[::2]
    pictures.draw_validation(data, predict(labels))
    assert len(evaluations[0]) == len(labels)
    assert evaluations[0].correct.all()


@pytest.mark.parametrize("ensemble", [1, 2])
def test_attention_is_drawn_for_images_of_all_classes(drawn, data, ensemble):
    config = ViTConfig(width=8, depth=2, heads=2)
    network = build_network(config, data.info, ensemble).eval()
    pictures.draw_attention(data, network)
    ((tiles, captions),) = drawn
    assert len(tiles) == 16
    labels = data.sets["val"].labels
    assert captions[0] == str(int(labels[0]))
    assert captions[-1] == str(int(labels[-1]))
