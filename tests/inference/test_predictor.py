"""Prediction is validation: the same pixels, the same weights, the same logits; and it needs little to be imported."""

import pytest
import torch
from batches import random_images, trainer
from PIL import Image
from program import started

from src.data.modules import DigitsDataModule
from src.errors import InputError
from src.inference.pipeline import ImageClassifier
from src.inference.predictor import Predictor, build_network, find_device
from src.runs.checkpoint import load_checkpoint
from src.training.classifier import ViT

HEAVY = [
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "torchvision",
    "torchmetrics",
    "jsonargparse",
    "sklearn",
]


@pytest.fixture(scope="module")
def checkpoint(digits_run):
    """best.ckpt of a short run on digits, with averaged weights and dropout."""
    return digits_run / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor(checkpoint, "cpu")


@pytest.fixture(scope="module")
def digits():
    """The data module as it validates."""
    module = DigitsDataModule()
    module.prepare_data()
    module.trainer = trainer(training=False)
    return module


def validating(checkpoint):
    """The LightningModule of a checkpoint, as it validates."""
    return ViT.load_from_checkpoint(checkpoint).eval()


def png(folder, image, name="digit.png"):
    Image.fromarray(image[0].numpy()).save(folder / name)
    return str(folder / name)


def test_a_png_of_a_test_image_gives_the_logits_of_validation(
    checkpoint, predictor, digits, tmp_path
):
    images, labels = digits.sets["test"].__getitems__(torch.tensor([7]))
    read = predictor.read([png(tmp_path, images[0])])
    assert torch.equal(read, images)
    with torch.inference_mode():
        expected = validating(checkpoint)(digits.on_after_batch_transfer((images, labels), 0)[0])
    assert expected.std() > 0.01  # it has learned something, so that the comparison says something
    torch.testing.assert_close(predictor.probabilities(read), expected.softmax(1))
    torch.testing.assert_close(
        predictor.probabilities(read), predictor.probabilities(read)
    )  # dropout is off


@pytest.mark.parametrize("kind", ["ema", "net"])
def test_averaged_weights_are_used_where_there_are_some(checkpoint, kind):
    content = load_checkpoint(checkpoint)
    state = content["state_dict"]
    if kind == "net":
        content["state_dict"] = {
            key: value for key, value in state.items() if not key.startswith("ema.")
        }
    for key, value in build_network(content).state_dict().items():
        assert torch.equal(value, state[f"{kind}.{key}"])
    assert not torch.allclose(state["ema.head.weight"], state["net.head.weight"], atol=1e-4)


def test_top_gives_the_likeliest_first_with_their_names(predictor, digits):
    images = digits.sets["test"].images[:5]
    probabilities = predictor.probabilities(images)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))
    for row, expected in zip(predictor.top(images, 3), probabilities, strict=True):
        assert [p["index"] for p in row] == expected.argsort(descending=True)[:3].tolist()
        assert [p["class"] for p in row] == [str(p["index"]) for p in row]
        assert [p["probability"] for p in row] == pytest.approx(
            [float(expected[p["index"]]) for p in row], abs=1e-6
        )
    assert len(predictor.top(images, 99)[0]) == 10


def test_more_images_than_a_batch_stay_in_order(predictor, digits):
    images = digits.sets["test"].images[:300]
    found = torch.tensor([row[0]["probability"] for row in predictor.top(images, 1)])
    torch.testing.assert_close(found, predictor.probabilities(images).amax(1), atol=1e-5, rtol=0)


def test_dark_strokes_on_light_are_swapped(predictor, digits, tmp_path):
    image = digits.sets["test"].images[0]
    assert torch.equal(predictor.read([png(tmp_path, 255 - image)])[0], image)


def out_of_memory(*args):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("method", ["forward", "to"])
def test_too_little_memory_for_the_network_is_not_blamed_on_the_checkpoint(
    checkpoint, monkeypatch, method
):
    monkeypatch.setattr(ImageClassifier, method, out_of_memory)
    with pytest.raises(InputError, match="not enough memory for (its|the) network") as caught:
        Predictor(checkpoint, "cpu")
    assert "train again" not in str(caught.value) and "\n" not in str(caught.value)


def test_too_little_memory_for_the_images_is_one_line(predictor, monkeypatch):
    monkeypatch.setattr(ImageClassifier, "forward", out_of_memory)
    with pytest.raises(InputError, match="device cpu: not enough memory for 3 images; free some"):
        predictor.top(random_images(3, 1, 8, 8), 1)


def test_auto_is_a_device_that_is_there():
    assert torch.zeros(1, device=find_device("auto")).item() == 0


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "", "meta"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match="--device cpu") as caught:
        find_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("dataset", "classes", ["a", "b"]),
        ("dataset", "patch_size", 3),
        ("dataset", "mean", []),
        ("dataset", "image_size", -8),
        ("network", "depth", 9),
        ("network", "width", "wide"),
        ("network", "kind", "rnn"),
    ],
)
def test_hyperparameters_that_do_not_fit_the_weights_are_refused(
    checkpoint, tmp_path, group, key, value
):
    content = load_checkpoint(checkpoint)
    content["hyper_parameters"][group][key] = value
    torch.save(content, tmp_path / "altered.ckpt")
    with pytest.raises(InputError, match="altered.ckpt: ") as caught:
        Predictor(tmp_path / "altered.ckpt", "cpu")
    assert "\n" not in str(caught.value)


def test_classifying_a_file_needs_neither_lightning_nor_torchvision(checkpoint, digits, tmp_path):
    path = png(tmp_path, digits.sets["test"].images[0])
    (tmp_path / "script.py").write_text(
        "import runpy, sys; runpy.run_path('classify.py', run_name='__main__')\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    ended = started(tmp_path / "script.py", path, "--ckpt", checkpoint, "--device", "cpu")
    names = ended.out.splitlines()[-1].split()
    assert "torch" in names and "PIL" in names and not set(names) & set(HEAVY), ended
