"""Test that hostile checkpoints are rejected in one line and never execute code."""

import os
import pickle
import random
import re
import shutil
import time
import zipfile

import pytest
import torch
from program import call, classify, train
from vits import checkpoint, dataset, vit

from src.errors import InputError
from src.inference.predictor import Predictor
from src.runs.checkpoint import Checkpoint, load
from train import main

PROBE = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
NO_CODE = "only weights are loaded, never code"


@pytest.fixture
def best(digits_run):
    return digits_run / "checkpoints" / "best.ckpt"


@pytest.fixture
def copied_run(digits_run, tmp_path):
    """A copy of `digits_run` that tests can modify."""
    return shutil.copytree(digits_run, tmp_path / "digits" / "version_0")


# Code ---------------------------------------------------------------------------------------------

KINDS = ("pickle", "zip", "legacy")


class Evil:
    """An object that creates a directory when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def evil(best, tmp_path):
    """Return a function that writes a checkpoint whose code would create the directory `ran`."""

    def write(kind: str):
        path = tmp_path / f"{kind}.ckpt"
        attack = {"x": Evil(tmp_path / "ran")}
        content = load(best) | {"callbacks": attack}
        if kind == "pickle":
            path.write_bytes(pickle.dumps(attack))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_the_attack_works_without_protection(evil, tmp_path, kind):
    with open(evil(kind), "rb") as file:
        if kind == "pickle":
            pickle.load(file)
        else:
            torch.load(file, weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_classify_and_resume_run_no_code(copied_run, evil, tmp_path, kind):
    path = evil(kind)
    shutil.copy(path, copied_run / "checkpoints" / "last.ckpt")
    assert NO_CODE in classify("x.png", "--ckpt", path).error
    assert NO_CODE in train("--resume", copied_run, "--trainer.max_epochs", "3").error
    assert not (tmp_path / "ran").exists()


# Altered bytes ------------------------------------------------------------------------------------


def opens(path) -> bool:
    """Return whether a checkpoint loads and predicts; otherwise, expect a fast one-line error."""
    start = time.monotonic()
    try:
        predictor = Predictor(path, "cpu")
        assert torch.isfinite(predictor.probabilities(PROBE)).all()
        return True
    except InputError as error:
        message = str(error)
        assert message.startswith(str(path))
        assert "\n" not in message
        assert len(message) < 600
        return False
    finally:
        assert time.monotonic() - start < 10


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Truncate the data, or flip one to four bits and sometimes zero a range."""
    altered, kind = bytearray(data), chance.random()
    if kind < 0.2:
        return data[: chance.randrange(len(data))]
    if kind < 0.3:
        start = chance.randrange(len(data))
        end = min(start + 64, len(data))
        altered[start:end] = bytes(end - start)
    for _ in range(chance.randint(1, 4)):
        altered[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(altered)


def test_300_mutations(best, tmp_path):
    data = best.read_bytes()
    path = tmp_path / "x.ckpt"
    chance = random.Random(0)
    opened = 0
    for _ in range(300):
        path.write_bytes(mutate(data, chance))
        opened += opens(path)
    assert 0 < opened < 100  # the padding between the tensors has no checksum


def test_100_mutations_of_the_pickle_with_correct_checksums(best, tmp_path):
    path = tmp_path / "x.ckpt"
    chance = random.Random(0)
    with zipfile.ZipFile(best) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    (pickled,) = (name for name in parts if name.endswith("data.pkl"))
    for _ in range(100):
        altered = parts | {pickled: mutate(parts[pickled], chance)}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in altered.items():
                archive.writestr(name, data)
        opens(path)


def test_a_single_flipped_bit_of_a_weight_is_noticed(best, tmp_path):
    data = bytearray(best.read_bytes())
    path = tmp_path / "x.ckpt"
    weight = load(best)["state_dict"]["ema.head.weight"]
    data[data.index(weight.numpy().tobytes())] ^= 1
    path.write_bytes(data)
    assert not opens(path)


def test_a_zip_bomb_is_refused(best, tmp_path):
    path = shutil.copy(best, tmp_path / "x.ckpt")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/999", bytes(2**28))
    assert not opens(path)


# Altered values -----------------------------------------------------------------------------------


@pytest.fixture
def refuses(best, tmp_path):
    """Return a function that changes a checkpoint and returns whether it is rejected."""

    def is_refused(change) -> bool:
        content = load(best)
        path = tmp_path / "x.ckpt"
        change(content)
        torch.save(content, path)
        return not opens(path)

    return is_refused


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("depth", 10**9),
        ("width", 2**40),
        ("heads", 0),
        ("stem_layers", 10**9),
        ("mlp_ratio", float("nan")),
        ("kind", "os.system"),
    ],
)
def test_a_network_that_does_not_fit_its_weights_is_refused(refuses, key, value):
    assert refuses(lambda content: content["hyper_parameters"]["network"].update({key: value}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", ["a"] * 9),
        ("classes", 10**12),
        ("image_size", 10**15),
        ("channels", 10**9),
        ("mean", [float("nan")]),
        ("std", [0.0]),
        ("patch_size", 3),
    ],
)
def test_a_dataset_that_does_not_fit_the_network_is_refused(refuses, key, value):
    assert refuses(lambda content: content["hyper_parameters"]["dataset"].update({key: value}))


@pytest.mark.parametrize("members", [10**9, 0])
def test_an_ensemble_that_does_not_fit_the_weights_is_refused(refuses, members):
    training = {"ensemble": members}
    assert refuses(lambda content: content["hyper_parameters"]["training"].update(training))


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize(
    "change",
    [
        lambda tensor: tensor * float("nan"),
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to("meta"),
        lambda tensor: tensor[:-1],
        lambda tensor: tensor.int(),
        lambda tensor: "weights",
    ],
    ids=["NaN", "sparse", "meta", "shorter", "integers", "text"],
)
def test_tensors_of_another_kind_are_refused(refuses, change):
    def change_weight(content) -> None:
        state = content["state_dict"]
        state["ema.head.weight"] = change(state["ema.head.weight"])

    assert refuses(change_weight)


def test_a_small_file_cannot_hold_a_huge_network(tmp_path):
    """In a small file, all elements of a huge tensor can share a single stored value."""
    huge = {"width": 8000, "depth": 2, "heads": 1, "mlp_ratio": 2.0}
    with torch.device("meta"):
        network = vit(**huge)
    one = torch.zeros(1)
    state = {f"net.{key}": one.expand(value.shape) for key, value in network.state_dict().items()}
    path = checkpoint(tmp_path, state, **huge)
    assert path.stat().st_size < 10**6
    assert not opens(path)


def test_a_stem_that_would_fill_the_memory_is_refused(tmp_path):
    """With few weights, whitening computes 24 channels for each of 8192 x 8192 pixels."""
    images = dataset(image_size=8192, patch_size=None)
    options = {"width": 1, "depth": 1, "heads": 1, "stem_layers": 13, "whiten": True}
    network = vit(8192, None, mlp_ratio=2.0, **options)
    state = {f"net.{key}": value for key, value in network.state_dict().items()}
    path = checkpoint(tmp_path, state, images, **options)
    with pytest.raises(InputError, match="the output of a layer would have .* values per image"):
        Checkpoint.open(path).build_network()


def test_local_biases_that_would_fill_the_memory_are_refused(tmp_path):
    """A table of 511 x 511 values is expanded to 65,536 x 65,536."""
    images = dataset(image_size=256, patch_size=1)
    options = {"width": 4, "depth": 1, "heads": 1, "pool": "mean", "positions": "local"}
    network = vit(256, 1, mlp_ratio=1.0, **options)
    state = {f"net.{key}": value for key, value in network.state_dict().items()}
    path = checkpoint(tmp_path, state, images, **options)
    with pytest.raises(InputError, match="the output of a layer would have .* values per image"):
        Checkpoint.open(path).build_network()


def test_a_class_name_cannot_control_the_terminal(best, tmp_path):
    content = load(best)
    path = tmp_path / "x.ckpt"
    content["hyper_parameters"]["dataset"]["classes"][3] = "\x1b]0;owned\x07"
    torch.save(content, path)
    assert Predictor(path, "cpu").classes[3] == "?]0;owned?"


# Resuming -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["loops", "callbacks", "optimizer_states"])
def test_a_checkpoint_with_a_senseless_part_is_not_resumed(copied_run, part):
    path = copied_run / "checkpoints" / "last.ckpt"
    torch.save(load(path) | {part: {"x": [1]}}, path)
    error = call(main, "--resume", copied_run, "--trainer.max_epochs", "3").error
    assert "does not match this run's model, or is incomplete" in error


@pytest.mark.parametrize(
    "text",
    ["", "{", "a: &x [*x]", "model: {class_path: os.system}", "model: {class_path: os.ViT}"],
)
def test_a_damaged_config_is_one_line(copied_run, text):
    (copied_run / "config.yaml").write_text(text)
    assert call(main, "--resume", copied_run).error


# Other files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["missing.ckpt", "", "/dev/zero", "fifo", "empty.ckpt", "text.ckpt"],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(InputError) as caught:
        load(tmp_path / name)
    assert re.search("; (check|pass) ", str(caught.value))
