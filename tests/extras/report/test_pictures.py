"""Pictures show what the model gets and gives, cost little, and change nothing."""

import math
import re

import pytest
import torch
from launch import launch, torchrun
from program import differences, each, started, stop_at, tiny, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from src.data.modules import DigitsDataModule
from src.extras.report import figures, pictures
from src.extras.report.evaluation import Answers
from src.models.build import build
from src.models.vit import VisionTransformer
from src.runs.checkpoint import load_checkpoint
from src.runs.results import read_metrics
from src.transforms.augment import Augmentation

START = {"training/first_batch"}
VALIDATION = {"validation/confusion_matrix", "validation/surest_mistakes", "validation/attention"}
WEIGHTS = {"weights/filters", "weights/position_similarity"}


def at_any_price() -> None:
    """For `prepare`: pictures may take all of the training time, so that none is left out in a short training."""
    pictures.SHARE = math.inf


def metrics(run) -> list[dict]:
    """Rows of metrics.csv, but for the speed."""
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in read_metrics(run)]


def images(run) -> dict[str, list[int]]:
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    return {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}


@pytest.fixture(scope="module")
def illustrated(tmp_path_factory):
    """A run of three epochs of ten steps, with all of its pictures."""
    runs = tmp_path_factory.mktemp("illustrated")
    ended = train(*tiny(runs, "--pictures", "true"), prepare=(at_any_price,))
    assert ended.code == 0, ended.text
    return runs / "digits" / "version_0"


def test_when_which_picture_is_drawn(illustrated):
    found = images(illustrated)
    assert set(found) == START | VALIDATION | WEIGHTS
    assert all(found[tag] == [0] for tag in START)
    assert all(found[tag] == [9, 19, 29] for tag in VALIDATION)  # after epochs 1, 2, and the last
    assert all(found[tag] == [29] for tag in WEIGHTS)


def test_texts_hold_the_complete_config_and_all_layers(illustrated):
    events = EventAccumulator(str(illustrated)).Reload()
    config, layers = (
        events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()
        for name in ("config", "layers")
    )
    assert [line[4:] for line in config.splitlines()] == (
        illustrated / "config.yaml"
    ).read_text().splitlines()
    weights = load_checkpoint(illustrated / "checkpoints" / "last.ckpt")["state_dict"]
    total = sum(value.numel() for key, value in weights.items() if key.startswith("net."))
    assert layers.splitlines()[-1] == f"| | all | {total:,} |"


def test_a_run_is_the_same_with_pictures_and_without(illustrated, tmp_path):
    assert train(*tiny(tmp_path)).code == 0
    plain = tmp_path / "digits" / "version_0"
    assert not images(plain)
    for file in ("best.ckpt", "last.ckpt"):
        assert (
            differences(
                *(load_checkpoint(run / "checkpoints" / file) for run in (plain, illustrated))
            )
            == []
        )
    assert metrics(plain) == metrics(illustrated)


@pytest.mark.parametrize("step", [4, 10, 17])
def test_stopped_and_resumed_with_pictures(illustrated, tmp_path, step):
    run = tmp_path / "digits" / "version_0"
    assert (
        train(
            *tiny(tmp_path, "--pictures", "true"), prepare=(each, (at_any_price,), stop_at(step))
        ).code
        == 143
    )
    resumed = train("--resume", run, prepare=(at_any_price,))
    assert resumed.code == 0, resumed.text
    for file in ("best.ckpt", "last.ckpt"):
        assert (
            differences(*(load_checkpoint(r / "checkpoints" / file) for r in (run, illustrated)))
            == []
        )
    assert metrics(run) == metrics(illustrated) and images(run) == images(illustrated)


def test_they_can_be_switched_off_when_a_run_is_resumed(illustrated, tmp_path):
    assert train(*tiny(tmp_path, "--pictures", "true"), prepare=stop_at(4)).code == 143
    run = tmp_path / "digits" / "version_0"
    assert train("--resume", run, "--pictures", "false").code == 0
    assert set(images(run)) == START and not (run / "report.html").exists()


def test_too_little_time_for_pictures(tmp_path):
    """Ten steps of a tiny network are no time: only what is drawn in any case is drawn."""
    assert train(*tiny(tmp_path, "--pictures", "true", epochs=2)).code == 0
    found = images(tmp_path / "digits" / "version_0")
    assert all(found[tag] == [19] for tag in VALIDATION | WEIGHTS)


OTHERS = {
    "without validation": ("--data.val_fraction", "0", "--patience", "null"),
    "ensemble": ("--model.ensemble", "2", "--data.augment.mixup", "1"),
    "stem": (
        "--model.stem_layers",
        "2",
        "--data.patch_size",
        "null",
        "--trainer.check_val_every_n_epoch",
        "2",
    ),
    "accumulate": ("--trainer.accumulate_grad_batches", "3", "--trainer.num_sanity_val_steps", "1"),
}


@pytest.mark.parametrize("key", OTHERS)
def test_pictures_of_other_trainings(tmp_path, key):
    ended = train(
        *tiny(tmp_path, "--pictures", "true", *OTHERS[key], epochs=2), prepare=(at_any_price,)
    )
    assert ended.code == 0, ended.text
    found = images(tmp_path / "digits" / "version_0")
    assert set(found) == START | WEIGHTS | (set() if key == "without validation" else VALIDATION)
    last = {"accumulate": 7, "without validation": 21}.get(key, 19)
    assert all(found[tag][-1] == last for tag in found.keys() - START)


def test_pictures_of_a_cnn(tmp_path):
    arguments = "--config configs/mnist_cnn.yaml --data DigitsDataModule --data.patch_size null --trainer.max_epochs 1"
    ended = train(*arguments.split(), "--trainer.accelerator", "cpu", "--runs", tmp_path)
    assert ended.code == 0, ended.text
    without = {"validation/attention", "weights/position_similarity"}
    assert (
        set(images(tmp_path / "mnist_cnn" / "version_0"))
        == (START | VALIDATION | WEIGHTS) - without
    )


def test_two_processes_draw_once(tmp_path):
    ddp = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "64")
    ended = launch(
        tiny(tmp_path, "--pictures", "true", *ddp, epochs=1),
        [torchrun(rank, 2) for rank in range(2)],
    )
    assert [one.code for one in ended] == [0, 0], ended
    run = tmp_path / "digits" / "version_0"
    assert {tag: len(steps) for tag, steps in images(run).items()} == dict.fromkeys(
        START | VALIDATION | WEIGHTS, 1
    )
    assert len(list(run.glob("events*"))) <= 2 and (run / "report.html").is_file()


def test_help_does_not_wait_for_figures():
    code = """
import runpy, sys
sys.argv = ["train.py", "--help"]
try:
    runpy.run_path("train.py", run_name="__main__")
except SystemExit:
    print("src.extras.report.pictures" in sys.modules, "src.extras.report.figures" in sys.modules)
"""
    ended = started("-c", code)
    assert "--pictures" in ended.out and ended.out.endswith("True False\n"), ended


# Each picture ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """What `figures.tiles` was asked to draw."""
    seen = []
    monkeypatch.setattr(
        figures, "tiles", lambda images, captions, columns, **more: seen.append((images, captions))
    )
    return seen


@pytest.mark.parametrize("patch_size", [2, None])
def test_the_first_batch_is_what_the_images_were(drawn, patch_size):
    data = DigitsDataModule(patch_size=patch_size, augment=Augmentation())
    data.setup("fit")
    images, labels = data.sets["train"].__getitems__(torch.arange(100, 140))
    data.trainer = type("Trainer", (), {"training": False})
    pictures.of_batch(data, data.on_after_batch_transfer((images, labels), 0))
    ((shown, captions),) = drawn
    assert torch.equal(shown, images[: pictures.IMAGES])
    assert captions == [str(int(label)) for label in labels[: pictures.IMAGES]]


def test_mixed_labels_are_both_named(drawn):
    data = DigitsDataModule(patch_size=None)
    targets = torch.zeros(2, 10)
    targets[0, 3], targets[0, 8], targets[1, 5] = 0.7, 0.3, 1.0
    pictures.of_batch(data, (torch.zeros(2, 1, 8, 8), targets))
    assert drawn[0][1] == ["70% 3\n30% 8", "5"]


def test_validation_without_a_mistake_has_no_picture_of_one():
    data = DigitsDataModule()
    data.setup("fit")
    answers, labels = Answers(), data.sets["val"].labels
    answers.add(torch.nn.functional.one_hot(labels, 10).float())
    assert set(pictures.of_validation(data, answers, None)) == {"validation/confusion_matrix"}
    answers.predicted[0][0] = (labels[0] + 1) % 10
    assert set(pictures.of_validation(data, answers, None)) == VALIDATION - {"validation/attention"}


@pytest.mark.parametrize("ensemble", [1, 2])
def test_the_same_validation_images_are_watched_every_time(drawn, ensemble):
    data = DigitsDataModule()
    data.setup("fit")
    network = {"kind": "vit", "image_size": 8, "patch_size": 2, "channels": 1, "classes": 10}
    net = build(network | {"width": 8, "depth": 2, "heads": 2}, ensemble).eval()
    answers = Answers()
    answers.add(torch.nn.functional.one_hot(data.sets["val"].labels, 10).float())
    seen = [pictures.watch(net, data, torch.device("cpu")) for _ in range(2)]
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][1], seen[1][1])
    indices, maps = seen[0]
    assert maps.shape == (8, 4, 4) and len(indices.unique()) == 8 and indices[-1] > 100
    pictures.of_validation(data, answers, seen[0])
    (shown, captions), val = drawn[-1], data.sets["val"]
    assert torch.equal(shown[::2], val.images[indices].expand(-1, 3, -1, -1))
    assert captions == [
        c for label in val.labels[indices].tolist() for c in (str(label), "attention")
    ]


def test_a_validation_of_fewer_images_than_are_watched():
    data = DigitsDataModule()
    data.setup("fit")
    data.sets["val"] = data.sets["val"].subset(torch.arange(3))
    net = build(
        {"kind": "vit", "image_size": 8, "patch_size": 4, "channels": 1, "classes": 10, "depth": 1}
    ).eval()
    assert pictures.watch(net, data, torch.device("cpu"))[0].tolist() == [0, 1, 2]
    cnn = build({"kind": "cnn", "image_size": 8, "channels": 1, "classes": 10})
    assert pictures.watch(cnn, data, torch.device("cpu")) is None


@pytest.mark.parametrize("ensemble", [1, 3])
@pytest.mark.parametrize(
    "network",
    [
        {"kind": "vit", "patch_size": 4, "depth": 3, "width": 8, "heads": 2},
        {
            "kind": "vit",
            "patch_size": None,
            "stem_layers": 2,
            "depth": 1,
            "width": 8,
            "heads": 2,
            "pool": "sequence",
        },
        {"kind": "cnn"},
    ],
)
def test_the_table_of_layers_counts_every_parameter_once(network, ensemble):
    net = build({"image_size": 8, "channels": 3, "classes": 5} | network, ensemble)
    *rows, (_, _, total) = re.findall(
        r"\|(?: `(.*?)`)? \| (.*?) \| ([\d,]+) \|", pictures.layer_table(net)
    )
    repeated = [f"{name}." for name, what, _ in rows if what.endswith("times what follows")]
    counts = [
        int(count.replace(",", ""))
        for name, _, count in rows
        if not name.startswith(tuple(repeated))
    ]
    assert sum(counts) == int(total.replace(",", "")) == sum(p.numel() for p in net.parameters())
    if isinstance(net, VisionTransformer) and len(net.blocks) == 3:
        assert "| `blocks` | 3 times what follows |" in pictures.layer_table(net)
