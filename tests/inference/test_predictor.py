"""Prediction is validation: the same pixels, the same weights, the same logits; and it needs little to be imported."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from short import ROOT, run
from src.training.classifier import CNN, Classifier
from src.inference.predictor import Predictor, build_network, find_device

from src.data.modules import DigitsDataModule
from src.errors import InputError
from src.runs.checkpoint import load_checkpoint

HEAVY = ["pytorch_lightning", "lightning", "lightning_fabric", "torchvision", "torchmetrics", "jsonargparse", "sklearn"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """best.ckpt of a short run on digits, with averaged weights and dropout."""
    return run(tmp_path_factory.mktemp("runs")) / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return Predictor(checkpoint, "cpu")


@pytest.fixture(scope="module")
def digits():
    """The data module as it validates."""
    module = DigitsDataModule()
    module.prepare_data()
    module.trainer = SimpleNamespace(training=False)
    return module


def module_of(checkpoint):
    """The LightningModule of a checkpoint, as it validates."""
    content = load_checkpoint(checkpoint)
    module = Classifier(**content["hyper_parameters"])
    module.load_state_dict(content["state_dict"])
    return module.eval()


def png(folder, image, name="digit.png"):
    Image.fromarray(image[0].numpy()).save(folder / name)
    return str(folder / name)


def test_a_png_of_a_test_image_gives_the_logits_of_validation_bit_for_bit(checkpoint, predictor, digits, tmp_path):
    images, labels = digits.sets["test"].__getitems__(torch.tensor([7]))
    read = predictor.read([png(tmp_path, images[0])])
    assert torch.equal(read, images)
    with torch.inference_mode():
        expected = module_of(checkpoint)(digits.on_after_batch_transfer((images, labels), 0)[0])
    assert expected.std() > 0.01  # it has learnt something, so that the comparison says something
    assert torch.equal(predictor.probabilities(read), expected.softmax(1))


def test_averaged_weights_are_used(checkpoint, predictor):
    state = load_checkpoint(checkpoint)["state_dict"]
    used = predictor.network.state_dict()
    assert all(torch.equal(value, state[f"averaged.{key}"]) for key, value in used.items())
    assert not all(torch.equal(value, state[f"net.{key}"]) for key, value in used.items())


def test_without_averaged_weights_the_trained_ones_are_used(checkpoint):
    content = load_checkpoint(checkpoint)
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if not k.startswith("averaged.")}
    used = build_network(content).state_dict()
    assert used.keys() and all(torch.equal(value, content["state_dict"][f"net.{key}"]) for key, value in used.items())


def test_dropout_is_off(predictor, digits):
    images = digits.sets["test"].images[:20]
    assert torch.equal(predictor.probabilities(images), predictor.probabilities(images))


def test_probabilities_of_all_classes_sum_to_one(predictor, digits):
    images = digits.sets["test"].images[:30]
    assert predictor.probabilities(images).shape == (30, 10)
    torch.testing.assert_close(predictor.probabilities(images).sum(1), torch.ones(30))
    for row in predictor.top(images, 10):
        assert sum(p["probability"] for p in row) == pytest.approx(1, abs=1e-5)
        assert sorted(p["index"] for p in row) == list(range(10))


def test_top_gives_the_likeliest_first_with_their_names(predictor, digits):
    images = digits.sets["test"].images[:5]
    probabilities = predictor.probabilities(images)
    for row, expected in zip(predictor.top(images, 3), probabilities, strict=True):
        assert [p["index"] for p in row] == expected.argsort(descending=True)[:3].tolist()
        assert [p["class"] for p in row] == [str(p["index"]) for p in row]
        assert [p["probability"] for p in row] == pytest.approx([float(expected[p["index"]]) for p in row], abs=1e-6)
    assert len(predictor.top(images, 99)[0]) == 10


def test_more_images_than_a_batch_stay_in_order(predictor, digits):
    images = digits.sets["test"].images[:300]
    together = predictor.top(images, 1)
    single = [predictor.top(images[i : i + 1], 1)[0] for i in (0, 255, 256, 299)]
    for index, alone in zip((0, 255, 256, 299), single, strict=True):
        assert together[index][0]["index"] == alone[0]["index"]
        assert together[index][0]["probability"] == pytest.approx(alone[0]["probability"], abs=1e-5)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "1"])
def test_a_large_photo_of_any_mode_is_made_to_fit(predictor, tmp_path, mode):
    Image.linear_gradient("L").resize((300, 200)).convert("RGB").convert(mode).save(tmp_path / "photo.png")
    images = predictor.read([str(tmp_path / "photo.png")])
    assert images.shape == (1, 1, 8, 8) and images.dtype == torch.uint8
    assert images[0, 0, 0].float().mean() < 60 < 200 < images[0, 0, -1].float().mean()


def test_invert_swaps_dark_and_light(predictor, digits, tmp_path):
    path = png(tmp_path, digits.sets["test"].images[0])
    assert torch.equal(predictor.read([path], invert=True), 255 - predictor.read([path]))


def test_a_network_without_patches_reads_whole_images(tmp_path):
    torch.manual_seed(0)
    module = CNN(DigitsDataModule(patch_size=None).description).eval()
    torch.save({"hyper_parameters": dict(module.hparams), "state_dict": module.state_dict()}, tmp_path / "cnn.ckpt")
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    expected = module((images / 255 - 0.3053) / 0.3761).softmax(1)
    torch.testing.assert_close(Predictor(tmp_path / "cnn.ckpt", "cpu").probabilities(images), expected)


def test_auto_is_a_device_that_is_there():
    assert torch.zeros(1, device=find_device("auto")).item() == 0


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "", "meta:x"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(InputError, match="--device cpu") as caught:
        find_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [("dataset", "classes", ["a", "b"]), ("dataset", "patch_size", 3), ("dataset", "mean", []), ("network", "depth", 9),
     ("network", "width", "wide"), ("network", "kind", "rnn"), ("dataset", "image_size", -8)],
)  # fmt: skip
def test_hyperparameters_that_do_not_fit_the_weights_are_refused(checkpoint, tmp_path, group, key, value):
    content = load_checkpoint(checkpoint)
    content["hyper_parameters"][group][key] = value
    torch.save(content, tmp_path / "altered.ckpt")
    with pytest.raises(InputError, match="altered.ckpt: ") as caught:
        predictor = Predictor(tmp_path / "altered.ckpt", "cpu")
        predictor.top(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), 10)
    assert "\n" not in str(caught.value)


def imported_by(code, *arguments):
    script = f"{code}\nimport sys\nprint('modules', *sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()[-1].split()[1:]


def test_importing_it_needs_neither_lightning_nor_torchvision():
    names = imported_by("import src.predict")
    assert "torch" in names and "PIL" in names and not set(names) & set(HEAVY)


def test_classifying_a_file_needs_neither_lightning_nor_torchvision(checkpoint, digits, tmp_path):
    path = png(tmp_path, digits.sets["test"].images[0])
    code = "import runpy; runpy.run_path('classify.py', run_name='__main__')"
    names = imported_by(code, path, "--ckpt", str(checkpoint), "--device", "cpu")
    assert "torch" in names and not set(names) & set(HEAVY)
