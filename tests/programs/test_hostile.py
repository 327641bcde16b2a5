"""Checkpoints of strangers: what is not a checkpoint of ours is refused in one line, and nothing in it is run."""

import os
import pickle
import random
import shutil
import time
import zipfile

import pytest
import torch
from program import call, classify, tiny, train

from src.errors import InputError
from src.inference.predictor import Predictor, build_network
from src.models.vit import VisionTransformer
from src.runs.checkpoint import load_checkpoint
from train import main

PROBE = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def evil_files(folder, checkpoint) -> list:
    """Checkpoints that would run code: a bare pickle, and the two formats of torch.save, the code within."""
    content = load_checkpoint(checkpoint) | {"callbacks": {"x": Evil(folder / "ran")}}
    paths = [folder / "bare.ckpt", folder / "zip.ckpt", folder / "legacy.ckpt"]
    paths[0].write_bytes(pickle.dumps(content["callbacks"]))
    torch.save(content, paths[1])
    torch.save(content, paths[2], _use_new_zipfile_serialization=False)
    return paths


@pytest.fixture
def evil(digits_run, tmp_path):
    return evil_files(tmp_path, digits_run / "checkpoints" / "best.ckpt")


def test_the_attack_works_on_those_who_let_it(evil, tmp_path):
    for path in evil:
        with open(path, "rb") as file:
            pickle.load(file) if path.stem == "bare" else torch.load(file, weights_only=False)
        (tmp_path / "ran").rmdir()


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_no_code_is_run_by_classify_or_resume(digits_run, evil, tmp_path, kind):
    run = shutil.copytree(digits_run, tmp_path / "digits" / "version_0")
    shutil.copy(evil[kind], run / "checkpoints" / "last.ckpt")
    assert (
        "only plain weights are opened, never code" in classify("x.png", "--ckpt", evil[kind]).error
    )
    assert (
        "only plain weights are opened, never code"
        in train("--resume", run, "--trainer.max_epochs", "3").error
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".pth"])
def test_no_code_is_run_by_init_from(evil, tmp_path, suffix):
    path = evil[1].rename(tmp_path / f"weights{suffix}")
    assert str(path) in train(*tiny(tmp_path, "--model.init_from", path)).error
    assert not (tmp_path / "ran").exists()


def test_a_foreign_class_is_refused_even_if_harmless(tmp_path):
    torch.save(
        {"hyper_parameters": complex(1, 2), "state_dict": os.path},
        tmp_path / "x.ckpt",
        pickle_module=Namer,
    )
    with pytest.raises(InputError, match="never code"):
        load_checkpoint(tmp_path / "x.ckpt")


class Namer:
    """A pickle module that writes modules by name, as no honest one does."""

    class Pickler(pickle._Pickler):
        def save(self, obj, save_persistent_id=True):
            if obj is os.path:
                return self.write(b"cposix\nsystem\n")
            return super().save(obj, save_persistent_id)

    dump, dumps, Unpickler, load = pickle.dump, pickle.dumps, pickle.Unpickler, pickle.load
    HIGHEST_PROTOCOL = pickle.HIGHEST_PROTOCOL


# Altered --------------------------------------------------------------------------------------------------------------


def opens(path) -> bool:
    """Whether the checkpoint can be classified with; if not, it was refused in one line, and soon."""
    start = time.monotonic()
    try:
        predictor = Predictor(path, "cpu")
        assert torch.isfinite(predictor.probabilities(PROBE)).all()
    except InputError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error) and len(str(error)) < 600
        return False
    finally:
        assert time.monotonic() - start < 10
    return True


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Flip one to four bits, or cut the end off, or blank a part."""
    data, kind = bytearray(data), chance.random()
    if kind < 0.2:
        return bytes(data[: chance.randrange(len(data))])
    if kind < 0.3:
        start = chance.randrange(len(data))
        data[start : start + 64] = bytes(len(data[start : start + 64]))
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def test_300_mutations_of_a_checkpoint(digits_run, tmp_path):
    data, path = (digits_run / "checkpoints" / "best.ckpt").read_bytes(), tmp_path / "x.ckpt"
    chance, opened = random.Random(0), 0
    for _ in range(300):
        path.write_bytes(mutate(data, chance))
        opened += opens(path)
    assert 0 < opened < 100  # only what is flipped in the padding between the values is not noticed


def test_a_single_bit_of_a_weight_is_noticed(digits_run, tmp_path):
    data = (digits_run / "checkpoints" / "best.ckpt").read_bytes()
    weight = load_checkpoint(digits_run / "checkpoints" / "best.ckpt")["state_dict"][
        "ema.head.weight"
    ]
    place = data.index(weight.numpy().tobytes())
    path = tmp_path / "x.ckpt"
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    assert not opens(path)


def test_200_mutations_with_correct_checksums(digits_run, tmp_path):
    """What a person with a hex editor, and not a failing disk, would do: an altered pickle in a sound archive."""
    with zipfile.ZipFile(digits_run / "checkpoints" / "best.ckpt") as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    pickled = next(name for name in parts if name.endswith("data.pkl"))
    path, chance = tmp_path / "x.ckpt", random.Random(0)
    for _ in range(200):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, mutate(data, chance) if name == pickled else data)
        opens(path)


def test_a_packed_archive_is_refused(digits_run, tmp_path):
    """A zip bomb: a megabyte that unpacks to a gigabyte."""
    shutil.copy(digits_run / "checkpoints" / "best.ckpt", tmp_path / "x.ckpt")
    with zipfile.ZipFile(tmp_path / "x.ckpt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/999", bytes(2**28))
    assert not opens(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("key", "value"),
    [("depth", 10**9), ("width", 12_000), ("width", 2**40), ("image_size", 10**15), ("image_size", 8000),
     ("stem_layers", 10**9), ("mlp_ratio", 1e12), ("mlp_ratio", float("nan")), ("classes", 10**12),
     ("channels", 10**9), ("heads", 0), ("depth", -1), ("depth", "2"), ("kind", "os.system"), ("more", 1)],
)  # fmt: skip
def test_a_gigantic_network_is_refused_before_it_is_built(digits_run, tmp_path, key, value):
    content = load_checkpoint(digits_run / "checkpoints" / "best.ckpt")
    content["hyper_parameters"]["network"][key] = value
    if key in content["hyper_parameters"]["dataset"]:
        content["hyper_parameters"]["dataset"][key] = value
    torch.save(content, tmp_path / "x.ckpt")
    assert not opens(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("key", "value"),
    [("classes", ["a"] * 9), ("classes", 10), ("image_size", 4096), ("channels", 10**9), ("mean", [float("nan")]),
     ("mean", []), ("std", [0.0]), ("patch_size", None), ("patch_size", 3)],
)  # fmt: skip
def test_data_that_does_not_fit_the_network_is_refused(digits_run, tmp_path, key, value):
    content = load_checkpoint(digits_run / "checkpoints" / "best.ckpt")
    content["hyper_parameters"]["dataset"][key] = value
    torch.save(content, tmp_path / "x.ckpt")
    assert not opens(tmp_path / "x.ckpt")


def test_a_whitened_stem_that_would_fill_the_memory_is_refused(digits_run):
    """A few kilobytes of weights that read 8192 pixels: whitening makes 24 channels of every one."""
    images = {"image_size": 8192, "patch_size": None, "channels": 3}
    others = {
        "classes": 10,
        "width": 1,
        "depth": 1,
        "heads": 1,
        "stem_layers": 13,
        "stem_width": None,
        "whiten": True,
    }
    network = VisionTransformer(**images, **others)
    content = load_checkpoint(digits_run / "checkpoints" / "best.ckpt")
    content["hyper_parameters"]["network"].update(images | others)
    content["hyper_parameters"]["dataset"].update(images)
    content["state_dict"] = {f"net.{key}": value for key, value in network.state_dict().items()}
    with pytest.raises(InputError, match="it would compute .* values at once"):
        build_network(content)


@pytest.mark.parametrize("members", [10**9, 0, -1, 2, "2", None, 1.5])
def test_an_ensemble_that_makes_no_sense_is_refused(digits_run, tmp_path, members):
    content = load_checkpoint(digits_run / "checkpoints" / "best.ckpt")
    content["hyper_parameters"]["ensemble"] = members
    content["hyper_parameters"]["network"]["depth"] = None  # that of a size
    torch.save(content, tmp_path / "x.ckpt")
    assert not opens(tmp_path / "x.ckpt")


def small_but_huge(tensor):
    return torch.zeros(1).expand(10**6, 10**6)


@pytest.mark.parametrize(
    "change",
    [small_but_huge, lambda t: t * float("nan"), lambda t: t.to_sparse(), lambda t: t.to("meta"), lambda t: t[:-1],
     lambda t: t.int(), lambda t: "weights", lambda t: None],
)  # fmt: skip
def test_tensors_that_are_not_what_they_should_be_are_refused(digits_run, tmp_path, change):
    content = load_checkpoint(digits_run / "checkpoints" / "best.ckpt")
    content["state_dict"]["ema.head.weight"] = change(content["state_dict"]["ema.head.weight"])
    torch.save(content, tmp_path / "x.ckpt")
    assert not opens(tmp_path / "x.ckpt")


def test_a_small_file_cannot_hold_a_huge_network(digits_run, tmp_path):
    """Weights that fit the network, of a gigabyte each, but all of whose values are one and the same."""
    content = load_checkpoint(digits_run / "checkpoints" / "best.ckpt")
    content["hyper_parameters"]["network"]["width"] = 8000
    with torch.device("meta"):
        arguments = content["hyper_parameters"]["network"]
        network = VisionTransformer(
            **{key: value for key, value in arguments.items() if key != "kind"}
        )
    one = torch.zeros(1)
    content["state_dict"] = {
        f"net.{key}": one.expand(value.shape) for key, value in network.state_dict().items()
    }
    torch.save(content, tmp_path / "x.ckpt")
    assert (tmp_path / "x.ckpt").stat().st_size < 10**6
    assert not opens(tmp_path / "x.ckpt")


def test_a_class_name_cannot_steer_the_terminal(digits_run, tmp_path):
    content = load_checkpoint(digits_run / "checkpoints" / "best.ckpt")
    content["hyper_parameters"]["dataset"]["classes"][3] = "\x1b]0;owned\x07"
    torch.save(content, tmp_path / "x.ckpt")
    assert Predictor(tmp_path / "x.ckpt", "cpu").classes[3] == "?]0;owned?"


@pytest.mark.parametrize(
    "change", ["loops", "callbacks", "optimizer_states", "total_steps", "pytorch-lightning_version"]
)
def test_a_checkpoint_with_a_part_that_makes_no_sense_is_not_resumed(digits_run, tmp_path, change):
    run = shutil.copytree(digits_run, tmp_path / "digits" / "version_0")
    content = load_checkpoint(run / "checkpoints" / "last.ckpt")
    content[change] = {"x": [1]}
    torch.save(content, run / "checkpoints" / "last.ckpt")
    error = call(main, "--resume", run, "--trainer.max_epochs", "3").error
    assert "does not fit this run's model, or is incomplete" in error


@pytest.mark.parametrize(
    "text",
    ["", "{", "model: [1, 2", "- a\n- b", "a: &x [*x]", "\0\1\2", "model: {class_path: os.system}"],
)
def test_a_damaged_config_is_one_line(digits_run, tmp_path, text):
    run = shutil.copytree(digits_run, tmp_path / "digits" / "version_0")
    (run / "config.yaml").write_text(text)
    assert call(main, "--resume", run).error


@pytest.mark.parametrize(
    "name", ["missing.ckpt", "", "/dev/zero", "/dev/null", "fifo", "empty.ckpt", "text.ckpt"]
)
def test_what_is_not_a_checkpoint_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(InputError, match=r"; (check|name|train) "):
        load_checkpoint(tmp_path / name)
