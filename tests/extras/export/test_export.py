"""An exported file is the network: its runtime alone gives the same logits by it. Otherwise it is not kept."""

import json
import subprocess
import sys

import pytest
import torch
from program import ROOT, call, started
from vits import randomize

from src.data.datasets import read_digits
from src.data.modules import DigitsDataModule
from src.extras.export.formats import FORMATS
from src.extras.weights.names import timm_arguments
from src.extras.export import export
from src.runs.checkpoint import FORMAT
from src.training.classifier import CNN, ViT

MEAN, STD = 0.3055, 0.3754  # of the digits
SMALL = {"width": 16, "depth": 1, "heads": 2}
STEM = SMALL | {"stem_layers": 2, "pool": "mean"}
PLAIN = {
    "class token": SMALL | {"mlp_ratio": 2.7},  # 43.2 hidden units: timm rounds otherwise
    "mean": SMALL | {"pool": "mean"},
    "sincos": SMALL | {"pool": "mean", "positions": "sincos"},
}
WHITENED = STEM | {"whiten": True}
OTHERS = {
    "sequence": SMALL | {"pool": "sequence"},
    "stem": STEM,
    "ensemble": WHITENED | {"ensemble": 2},
    "cnn": None,
}


def checkpoint(folder, arguments):
    """best.ckpt of a network with random weights that reads digits, and the network."""
    patch_size = None if arguments is None or "stem_layers" in arguments else 2
    dataset = DigitsDataModule(patch_size=patch_size).description
    module = randomize(CNN(dataset) if arguments is None else ViT(dataset, **arguments)).eval()
    content = {
        "format": FORMAT,
        "hyper_parameters": dict(module.hparams),
        "state_dict": module.state_dict(),
    }
    torch.save(content, folder / "best.ckpt")
    return folder / "best.ckpt", module.net


@pytest.fixture(scope="module")
def images():
    return read_digits("test")[0][100:140]


def logits(network, images):
    with torch.no_grad():
        return network((images / 255 - MEAN) / STD)


def assert_same(found, network, images):
    expected = logits(network, images)
    assert expected.std() > 0.05, "logits without spread would prove nothing"
    torch.testing.assert_close(torch.as_tensor(found), expected, atol=1e-4, rtol=0)


def assert_tells_nothing_of_this_machine(path):
    """The exporters would write down our source, and where it lies."""
    assert str(ROOT).encode() not in path.read_bytes() and b"in forward" not in path.read_bytes()


def exported(path, *args):
    """What the program says, when it has to succeed."""
    ended = call(export.main, path, *args)
    assert ended.code == 0, ended.err
    return ended.out


def error(*args):
    """The one line of a mistake."""
    return call(export.main, *args).error


def session(path):
    return pytest.importorskip("onnxruntime").InferenceSession(path)


OLD = pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="torch.onnx translates a stem from torch 2.7 on"
)


@pytest.mark.parametrize("kind", ["class token", pytest.param("ensemble", marks=OLD), "cnn"])
def test_onnx_runs_in_onnxruntime_with_any_batch(tmp_path, images, kind):
    pytest.importorskip("onnxscript")
    path, network = checkpoint(tmp_path, (PLAIN | OTHERS)[kind])
    exported(path, "--format", "onnx")
    opened = session(tmp_path / "best.onnx")
    for batch in (1, 2, 40):
        (found,) = opened.run(None, {"images": images[:batch].numpy()})
        assert_same(found, network, images[:batch])
    assert_tells_nothing_of_this_machine(tmp_path / "best.onnx")


@pytest.mark.parametrize("kind", ["class token", "sequence", "ensemble", "cnn"])
def test_torch_export_runs_in_torch_with_any_batch(tmp_path, images, kind):
    path, network = checkpoint(tmp_path, (PLAIN | OTHERS)[kind])
    exported(path, "--format", "torch_export")
    opened = torch.export.load(tmp_path / "best.pt2").module()
    for batch in (1, 2, 40):
        assert_same(opened(images[:batch]), network, images[:batch])
    assert_tells_nothing_of_this_machine(tmp_path / "best.pt2")


def test_floats_are_from_0_to_1(tmp_path, images):
    pytest.importorskip("onnxscript")
    path, network = checkpoint(tmp_path, PLAIN["mean"])
    said = exported(path, "--format", "onnx", "--input", "float32")
    assert "images: float32 [batch, 1, 8, 8], from 0 to 1" in said
    (found,) = session(tmp_path / "best.onnx").run(None, {"images": (images / 255).numpy()})
    assert_same(found, network, images)


def test_torch_export_needs_nothing_of_this_program(tmp_path, images):
    path, network = checkpoint(tmp_path, PLAIN["class token"])
    exported(path, "--format", "torch_export")
    torch.save(images, tmp_path / "images.pt")
    code = """
import sys, torch
logits = torch.export.load("best.pt2").module()(torch.load("images.pt"))
torch.save(logits, "logits.pt")
assert not [name for name in sys.modules if name.split(".")[0] == "src"]
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert_same(torch.load(tmp_path / "logits.pt"), network, images)


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_vits_load_into_timm_by_the_printed_arguments(tmp_path, images, kind):
    pytest.importorskip("timm")
    path, network = checkpoint(tmp_path, PLAIN[kind])
    lines = exported(path, "--format", "safetensors").splitlines()
    there = {}
    exec("\n".join(line.removeprefix("  ") for line in lines if line.startswith("  ")), there)
    assert type(there["network"]).__module__.startswith("timm.")
    described = json.loads((tmp_path / "best.safetensors.json").read_text())
    with torch.no_grad():
        found = there["network"]((images / 255 - described["mean"][0]) / described["std"][0])
    assert_same(found, network, images)


@pytest.mark.parametrize("kind", OTHERS)
def test_networks_that_timm_lacks_load_by_the_printed_lines(tmp_path, images, kind):
    pytest.importorskip("safetensors")
    path, network = checkpoint(tmp_path, OTHERS[kind])
    lines = exported(path, "--format", "safetensors").splitlines()
    there = {}
    exec("\n".join(line.removeprefix("  ") for line in lines if line.startswith("  ")), there)
    assert_same(logits(there["network"], images), network, images)


def test_sizes_by_name_are_spelled_out_for_timm():
    dataset = {"image_size": 32, "patch_size": 4, "channels": 3, "classes": 7}
    network = {
        "kind": "vit",
        "size": "S",
        "width": None,
        "depth": 2,
        "heads": None,
        "mlp_ratio": 4.0,
        **dataset,
    }
    arguments = timm_arguments(network | {"pool": "cls", "stem_layers": 0})
    assert (arguments["embed_dim"], arguments["depth"], arguments["num_heads"]) == (384, 2, 6)


def test_the_description_has_what_a_user_needs(tmp_path):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    said = exported(path, "--format", "torch_export", "--output", tmp_path / "new" / "digits.pt2")
    described = json.loads((tmp_path / "new" / "digits.pt2.json").read_text())
    assert described["classes"] == list("0123456789")
    assert (described["mean"], described["std"], described["image_size"]) == ([MEAN], [STD], 8)
    assert (
        described["input"]["shape"] == ["batch", 1, 8, 8] and described["input"]["type"] == "uint8"
    )
    assert described["output"]["shape"] == ["batch", 10]
    assert (
        described["checked"]["images"] == 256 and described["checked"]["largest_difference"] < 1e-4
    )
    assert (
        described["checked"]["source"] == "test images of digits"
        and "256 test images of digits" in said
    )


@pytest.mark.parametrize("scale", [1.001, -1.0])
def test_a_file_that_is_not_the_network_is_not_kept(tmp_path, monkeypatch, scale):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    (tmp_path / "best.pt2").write_text("the file before")
    usual = FORMATS["torch_export"]

    def opened(network, file):
        run = usual.open(network, file)
        return lambda images: scale * run(images)  # another logit, or another class

    monkeypatch.setitem(FORMATS, "torch_export", usual._replace(open=opened))
    assert "it is not the network" in error(path, "--format", "torch_export", "--force")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.ckpt", "best.pt2"]
    assert (tmp_path / "best.pt2").read_text() == "the file before"


def test_packages_that_do_not_fit_each_other_are_one_line(tmp_path, monkeypatch):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    monkeypatch.setitem(
        FORMATS, "torch_export", FORMATS["torch_export"]._replace(make=lambda *args: 1 / 0)
    )
    assert "failed (ZeroDivisionError: division by zero); use the versions" in error(
        path, "--format", "torch_export"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["best.ckpt"]


@pytest.mark.parametrize("there", ["best.pt2", "best.pt2.json"])
def test_a_file_that_is_there_is_kept_without_force(tmp_path, there):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    (tmp_path / there).write_text("mine")
    line = error(path, "--format", "torch_export")
    assert str(tmp_path / there) in line and "--force" in line
    assert (tmp_path / there).read_text() == "mine"
    exported(path, "--format", "torch_export", "--force")
    assert (tmp_path / there).read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("format", "package"),
    [
        ("onnx", "onnx"),
        ("onnx", "onnxruntime"),
        ("safetensors", "safetensors"),
        ("safetensors", "timm"),
    ],
)
def test_a_missing_package_names_the_pip_line(tmp_path, monkeypatch, format, package):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    for name in {*FORMATS[format].packages, "timm"} - {package}:
        monkeypatch.setitem(sys.modules, name, sys)  # as if it were there
    monkeypatch.setitem(sys.modules, package, None)
    line = error(path, "--format", format)
    assert (
        line
        == f"error: --format {format}: the package {package} is missing; pip install -r requirements-export.txt\n"
    )
    assert "\n" + package in "\n" + (ROOT / "requirements-export.txt").read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["--format", "onnx", "--output", "net.pb"],
            "--output net.pb: the files of --format onnx end in .onnx",
        ),
        (
            ["--format", "safetensors", "--input", "uint8"],
            "--input uint8: a file of weights has no input",
        ),
        (["--format", "coreml"], "invalid choice: 'coreml'"),
        ([], "required: --format"),
    ],
)
def test_mistakes_in_the_arguments_are_one_line(tmp_path, args, said):
    assert said in error(tmp_path / "any.ckpt", *args)


def test_a_directory_is_not_written_over(tmp_path):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    (tmp_path / "a.pt2").mkdir()
    assert "is a directory" in error(
        path, "--format", "torch_export", "--output", tmp_path / "a.pt2", "--force"
    )


def test_a_run_without_a_checkpoint_and_a_folder_of_runs(tmp_path):
    assert "there is no such checkpoint" in error(tmp_path, "--format", "torch_export")
    folder = tmp_path / "digits" / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    checkpoint(folder, PLAIN["mean"])[0].rename(folder / "last.ckpt")
    assert f"give RUN one of these: {tmp_path / 'digits'}" in error(
        tmp_path, "--format", "torch_export"
    )
    exported(tmp_path / "digits", "--format", "torch_export")
    assert (folder / "last.pt2").is_file()


def test_it_needs_no_lightning(tmp_path):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    (tmp_path / "script.py").write_text(
        "import runpy, sys; runpy.run_module('src.extras.export', run_name='__main__')\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    ended = started(tmp_path / "script.py", path, "--format", "torch_export")
    names = set(ended.out.splitlines()[-1].split())
    assert "torch" in names and not names & {
        "pytorch_lightning",
        "lightning",
        "torchmetrics",
        "torchvision",
    }, ended
