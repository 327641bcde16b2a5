"""An exported file gives the network's logits in its own runtime; otherwise it is not kept."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from program import ROOT, call, started
from vits import randomize

from src.data.datasets import DATASETS, read_digits
from src.extras.export import export
from src.extras.export.formats import FORMATS
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
OTHERS = {
    "sequence": SMALL | {"pool": "sequence"},
    "mirror": SMALL | {"mirror": True},
    "stem": STEM,
    "ensemble": STEM | {"whiten": True, "ensemble": 2},
    "cnn": None,
}


def checkpoint(folder, arguments, dataset=DATASETS["digits"]):
    """Write best.ckpt of a network with random weights; return its path and the network."""
    if arguments is not None and "stem_layers" not in arguments:
        dataset = replace(dataset, patch_size=dataset.image_size // 4)
    module = CNN(dataset) if arguments is None else ViT(dataset, **arguments)
    randomize(module).eval()
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


def assert_same(actual, network, images):
    expected = logits(network, images)
    if len(images) > 1:
        assert expected.std() > 0.05, "logits without spread would prove nothing"
    torch.testing.assert_close(torch.as_tensor(actual), expected, atol=1e-4, rtol=0)


def assert_no_paths(file):
    """The exporters would record our source, and its path on this machine."""
    content = file.read_bytes()
    assert str(ROOT).encode() not in content and b"in forward" not in content


def exported(path, *args):
    """Export, and return what is printed."""
    ended = call(export.main, path, *args)
    assert ended.code == 0, ended.err
    return ended.out


def error(*args):
    return call(export.main, *args).error


def description(file):
    return json.loads(file.with_name(file.name + ".json").read_text())


def session(file):
    return pytest.importorskip("onnxruntime").InferenceSession(file)


OLD = pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="torch.onnx translates a stem from torch 2.7 on"
)


@pytest.mark.parametrize("kind", ["class token", pytest.param("ensemble", marks=OLD), "cnn"])
def test_onnx(tmp_path, images, kind):
    pytest.importorskip("onnxscript")
    path, network = checkpoint(tmp_path, (PLAIN | OTHERS)[kind])
    exported(path, "--format", "onnx")
    opened = session(tmp_path / "best.onnx")
    assert opened.get_inputs()[0].shape == ["batch", 1, 8, 8]
    assert opened.get_outputs()[0].shape == ["batch", 10]
    notes = opened.get_modelmeta().custom_metadata_map
    assert json.loads(notes["classes"]) == list("0123456789")
    for batch in (0, 1, 40):
        (actual,) = opened.run(None, {"images": images[:batch].numpy()})
        assert_same(actual, network, images[:batch])
    assert_no_paths(tmp_path / "best.onnx")


def test_onnx_int8(tmp_path, digits_run):
    pytest.importorskip("onnxscript")
    path = digits_run / "checkpoints" / "best.ckpt"
    for format in ("onnx", "onnx_int8"):
        exported(path, "--format", format, "--output", tmp_path / f"net{FORMATS[format].extension}")
    pixels, _ = read_digits("test")
    expected, actual = (
        session(tmp_path / name).run(None, {"images": pixels.numpy()})[0]
        for name in ("net.onnx", "net.int8.onnx")
    )
    assert (actual.argmax(1) == expected.argmax(1)).mean() > 0.98
    assert np.corrcoef(actual.flatten(), expected.flatten())[0, 1] > 0.99
    assert b"_quantized" in (tmp_path / "net.int8.onnx").read_bytes()


@pytest.mark.parametrize("kind", ["class token", "sequence", "mirror", "ensemble", "cnn"])
def test_torch_export(tmp_path, images, kind):
    path, network = checkpoint(tmp_path, (PLAIN | OTHERS)[kind])
    exported(path, "--format", "torch_export")
    opened = torch.export.load(tmp_path / "best.pt2").module()
    for batch in (0, 1, 40):
        assert_same(opened(images[:batch]), network, images[:batch])
    assert_no_paths(tmp_path / "best.pt2")


def test_float_input_is_from_0_to_1(tmp_path, images):
    pytest.importorskip("onnxscript")
    path, network = checkpoint(tmp_path, PLAIN["mean"])
    out = exported(path, "--format", "onnx", "--input", "float32")
    assert "images: float32 [batch, 1, 8, 8], from 0 to 1" in out
    assert 'astype("float32") / 255' in out
    opened = session(tmp_path / "best.onnx")
    (actual,) = opened.run(None, {"images": (images / 255).numpy()})
    assert_same(actual, network, images)


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
def test_plain_vits_load_into_timm(tmp_path, images, kind):
    pytest.importorskip("timm")
    path, network = checkpoint(tmp_path, PLAIN[kind])
    exported(path, "--format", "safetensors")
    namespace = {}
    exec(description(tmp_path / "best.safetensors")["python"], namespace)
    assert type(namespace["network"]).__module__.startswith("timm.")
    assert_same(logits(namespace["network"], images), network, images)


@pytest.mark.parametrize("kind", OTHERS)
def test_networks_that_timm_lacks_load_into_ours(tmp_path, images, kind):
    pytest.importorskip("safetensors")
    path, network = checkpoint(tmp_path, OTHERS[kind])
    exported(path, "--format", "safetensors")
    namespace = {}
    exec(description(tmp_path / "best.safetensors")["python"], namespace)
    assert_same(logits(namespace["network"], images), network, images)


def test_description(tmp_path):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    file = tmp_path / "new" / "digits.pt2"
    out = exported(path, "--format", "torch_export", "--output", file)
    described = description(file)
    assert described["classes"] == list("0123456789")
    assert (described["mean"], described["std"], described["image_size"]) == ([MEAN], [STD], 8)
    assert described["input"]["shape"] == ["batch", 1, 8, 8]
    assert described["input"]["type"] == "uint8"
    assert described["output"]["shape"] == ["batch", 10]
    checked = described["checked"]
    assert checked["images"] == 256 and checked["largest_difference"] < 1e-4
    assert checked["changed_classes"] == 0
    assert checked["source"] == "test images of digits"
    assert "256 test images of digits" in out
    assert all(step in out for step in described["preparation"])
    assert all(line in out for line in described["python"].splitlines())


# A wrong file, and wrong arguments


@pytest.mark.parametrize("scale", [1.001, -1.0])
def test_file_that_differs_from_the_network_is_not_kept(tmp_path, monkeypatch, scale):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    (tmp_path / "best.pt2").write_text("the file before")
    usual = FORMATS["torch_export"]

    def open_scaled(predictor, file):
        run = usual.open(predictor, file)
        return lambda images: scale * run(images)  # another logit, or another class

    monkeypatch.setitem(FORMATS, "torch_export", usual._replace(open=open_scaled))
    assert "not written" in error(path, "--format", "torch_export", "--force")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.ckpt", "best.pt2"]
    assert (tmp_path / "best.pt2").read_text() == "the file before"


def test_packages_that_do_not_fit_each_other_are_one_line(tmp_path, monkeypatch):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    broken = FORMATS["torch_export"]._replace(make=lambda *args: 1 / 0)
    monkeypatch.setitem(FORMATS, "torch_export", broken)
    message = "failed (ZeroDivisionError: division by zero); use the versions"
    assert message in error(path, "--format", "torch_export")
    assert [p.name for p in tmp_path.iterdir()] == ["best.ckpt"]


@pytest.mark.parametrize("name", ["best.pt2", "best.pt2.json"])
def test_existing_file_is_kept_without_force(tmp_path, name):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    (tmp_path / name).write_text("mine")
    message = error(path, "--format", "torch_export")
    assert f"{tmp_path / name}: exists" in message and "--force" in message
    assert (tmp_path / name).read_text() == "mine"
    exported(path, "--format", "torch_export", "--force")
    assert (tmp_path / name).read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("format", "package"),
    [("onnx", "onnxruntime"), ("safetensors", "safetensors"), ("safetensors", "timm")],
)
def test_missing_package_is_named_with_the_pip_command(tmp_path, monkeypatch, format, package):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    for name in {*FORMATS[format].packages, "timm"} - {package}:
        monkeypatch.setitem(sys.modules, name, sys)  # as if installed
    monkeypatch.setitem(sys.modules, package, None)
    message = error(path, "--format", format)
    assert f"not installed: {package}; pip install -r requirements-export.txt" in message
    assert "\n" + package in "\n" + (ROOT / "requirements-export.txt").read_text()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--format", "onnx", "--output", "net.pb"], "files of --format onnx end in .onnx"),
        (["--format", "safetensors", "--input", "uint8"], "a file of weights has no input"),
        (["--format", "coreml"], "invalid choice: 'coreml'"),
        ([], "required: --format"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, args, message):
    assert message in error(tmp_path / "any.ckpt", *args)


def test_directory_is_not_replaced(tmp_path):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    folder = tmp_path / "a.pt2"
    folder.mkdir()
    args = ("--format", "torch_export", "--output", folder, "--force")
    assert "is a directory" in error(path, *args)


def test_run_without_a_checkpoint_and_folder_of_runs(tmp_path):
    assert "no such checkpoint" in error(tmp_path, "--format", "torch_export")
    folder = tmp_path / "digits" / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    path, _ = checkpoint(folder, PLAIN["mean"])
    path.rename(folder / "last.ckpt")
    message = error(tmp_path, "--format", "torch_export")
    assert f"give RUN one of: {tmp_path / 'digits'}" in message
    exported(tmp_path / "digits", "--format", "torch_export")
    assert (folder / "last.pt2").is_file()


def test_no_lightning(tmp_path):
    path, _ = checkpoint(tmp_path, PLAIN["mean"])
    (tmp_path / "script.py").write_text(
        "import runpy, sys; runpy.run_module('src.extras.export', run_name='__main__')\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    ended = started(tmp_path / "script.py", path, "--format", "torch_export")
    names = set(ended.out.splitlines()[-1].split())
    assert "torch" in names
    assert not names & {"pytorch_lightning", "lightning", "torchmetrics", "torchvision"}, ended
