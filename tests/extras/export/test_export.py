"""Test that exported files give the network's logits in their own runtime, or are deleted."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from program import ROOT, call
from vits import TEMPERATURE

from src.data.datasets import DATASETS, read_digits
from src.extras.export import export
from src.extras.export.formats import FORMATS
from src.runs.weights_file import BUNDLED

MEAN, STD = 0.3055, 0.3754  # mean and std of the digits dataset
MEAN_POOL = {"pool": "mean"}
STEM = {"stem_layers": 2, "pool": "mean"}
IN_TIMM = {
    "class token": {"mlp_ratio": 2.7},  # timm rounds 43.2 hidden units differently
    "mean": MEAN_POOL,
    "max": {"pool": "max"},
    "sincos": {"pool": "mean", "positions": "sincos"},
}
NETWORKS = IN_TIMM | {
    "local": MEAN_POOL | {"positions": "local"},
    "sequence": {"pool": "sequence"},
    "mirror": {"mirror": True},
    "ensemble": STEM | {"whiten": True, "whiten_pad": False, "ensemble": 2},
    "cnn": None,
}
TORCH_EXPORT = ("--format", "torch_export")


@pytest.fixture(scope="module")
def images():
    return read_digits("test")[0][100:140]


def logits(network, images):
    with torch.no_grad():
        return network((images / 255 - MEAN) / STD)


def assert_same(actual, network, images):
    expected = logits(network, images) / TEMPERATURE
    if len(images) > 1:
        assert expected.std() > 0.05, "nearly constant logits would prove nothing"
    torch.testing.assert_close(torch.as_tensor(actual), expected, atol=1e-4, rtol=0)


def exported(path, *args):
    """Export a checkpoint and return the printed output."""
    ended = call(export.main, path, *args)
    assert ended.code == 0, ended.err
    return ended.out


def error(*args):
    return call(export.main, *args).error


def description(file):
    return json.loads(file.with_name(file.name + ".json").read_text())


def open_onnx(file):
    return pytest.importorskip("onnxruntime").InferenceSession(file)


def open_file(file):
    """Return a function from images to logits that runs an exported file."""
    if file.suffix == ".pt2":
        return torch.export.load(file).module()
    session = open_onnx(file)
    return lambda images: session.run(None, {"images": images.numpy()})[0]


OLD = pytest.mark.skipif(
    torch.__version__.startswith("2.6."),
    reason="torch.onnx cannot export a stem before torch 2.7",
)


@pytest.mark.parametrize(
    ("format", "kind"),
    [
        ("onnx", "class token"),
        pytest.param("onnx", "ensemble", marks=OLD),
        ("onnx", "cnn"),
        ("torch_export", "mirror"),
        ("torch_export", "ensemble"),
    ],
)
def test_file_runs_with_any_batch_size(tmp_path, save_checkpoint, images, format, kind):
    if format == "onnx":
        pytest.importorskip("onnxscript")
    path, network = save_checkpoint(NETWORKS[kind])
    file = tmp_path / f"best{FORMATS[format].extension}"
    exported(path, "--format", format)
    run = open_file(file)
    for batch in (0, 1, 40):
        assert_same(run(images[:batch]), network, images[:batch])
    content = file.read_bytes()
    assert str(ROOT).encode() not in content
    assert b"in forward" not in content, "contains source code"


def test_onnx_int8(tmp_path, digits_run, monkeypatch):
    pytest.importorskip("onnxscript")
    # After only two epochs, predictions are uncertain, so rounding changes more of them than usual.
    lenient = FORMATS["onnx_int8"]._replace(max_changed=0.05)
    monkeypatch.setitem(FORMATS, "onnx_int8", lenient)
    path = digits_run / "checkpoints" / "best.ckpt"
    pixels, _ = read_digits("test")
    found = {}
    for format in ("onnx", "onnx_int8"):
        file = tmp_path / f"net{FORMATS[format].extension}"
        exported(path, "--format", format, "--output", file)
        found[format] = open_file(file)(pixels)
    expected, actual = found.values()
    assert (actual.argmax(1) == expected.argmax(1)).mean() > 0.95
    assert np.corrcoef(actual.flatten(), expected.flatten())[0, 1] > 0.99
    assert b"_quantized" in file.read_bytes()
    metadata = open_onnx(file).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list("0123456789")


def test_torch_export_does_not_need_this_program(tmp_path, save_checkpoint, images):
    path, network = save_checkpoint(NETWORKS["class token"])
    exported(path, *TORCH_EXPORT)
    torch.save(images, tmp_path / "images.pt")
    code = """
import sys, torch
logits = torch.export.load("best.pt2").module()(torch.load("images.pt"))
torch.save(logits, "logits.pt")
assert not [name for name in sys.modules if name.split(".")[0] == "src"]
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert_same(torch.load(tmp_path / "logits.pt"), network, images)


@pytest.mark.parametrize("kind", NETWORKS)
def test_described_code_loads_safetensors(tmp_path, save_checkpoint, images, kind):
    pytest.importorskip("timm")
    path, network = save_checkpoint(NETWORKS[kind])
    exported(path, "--format", "safetensors")
    Image.fromarray(images[0, 0].numpy()).save(tmp_path / "picture.png")
    variables = {}
    code = description(tmp_path / "best.safetensors")["python"]
    exec(code.replace("picture.png", str(tmp_path / "picture.png")), variables)
    loaded = variables["network"]
    assert type(loaded).__module__.startswith("timm.") == (kind in IN_TIMM)
    expected = logits(network, images)
    torch.testing.assert_close(logits(loaded, images), expected, atol=1e-4, rtol=0)
    calibrated = torch.tensor(variables["logits"])
    torch.testing.assert_close(calibrated, expected[:1] / TEMPERATURE, atol=1e-4, rtol=0)


def test_described_code_averages_mirror_images_only_if_they_keep_their_class(
    tmp_path, save_checkpoint, images
):
    pytest.importorskip("timm")
    dataset = replace(DATASETS["digits"], mirror_keeps_class=False)
    path, network = save_checkpoint({"mirror": True}, dataset)
    exported(path, "--format", "safetensors")
    assert not network.mirror
    variables = {}
    Image.fromarray(images[0, 0].numpy()).save(tmp_path / "picture.png")
    code = description(tmp_path / "best.safetensors")["python"]
    exec(code.replace("picture.png", str(tmp_path / "picture.png")), variables)
    loaded = logits(variables["network"], images)
    torch.testing.assert_close(loaded, logits(network, images), atol=1e-4, rtol=0)


def test_description(tmp_path, save_checkpoint):
    path, _ = save_checkpoint(MEAN_POOL)
    file = tmp_path / "new" / "digits.pt2"
    out = exported(path, *TORCH_EXPORT, "--output", file)
    described = description(file)
    assert described["classes"] == list("0123456789")
    assert (described["mean"], described["std"]) == ([MEAN], [STD])
    assert described["input"] == "images: uint8 [batch, 1, 8, 8], from 0 to 255"
    assert "[batch, 10], already divided by the temperature 1.6" in described["output"]
    assert described["temperature"] == TEMPERATURE
    assert described["checked"]["largest_difference"] < 1e-4
    assert "checked with 256 test images of digits: 0 classes differ" in out
    for line in (described["input"], described["output"], *described["python"].splitlines()):
        assert line in out


# Rejected files and invalid arguments


def test_file_that_differs_from_the_network_is_not_kept(tmp_path, save_checkpoint, monkeypatch):
    path, _ = save_checkpoint(MEAN_POOL)
    (tmp_path / "best.pt2").write_text("previous file")
    usual = FORMATS["torch_export"]

    def open_scaled(predictor, file):
        run = usual.open(predictor, file)
        return lambda images: 1.001 * run(images)

    monkeypatch.setitem(FORMATS, "torch_export", usual._replace(open=open_scaled))
    assert "not written" in error(path, *TORCH_EXPORT, "--force")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.ckpt", "best.pt2"]
    assert (tmp_path / "best.pt2").read_text() == "previous file"


def test_failure_in_a_library_is_reported_in_one_line(tmp_path, save_checkpoint, monkeypatch):
    path, _ = save_checkpoint(MEAN_POOL)
    broken = FORMATS["torch_export"]._replace(make=lambda predictor: 1 / 0)
    monkeypatch.setitem(FORMATS, "torch_export", broken)
    message = "failed (ZeroDivisionError: division by zero); run pip install"
    assert message in error(path, *TORCH_EXPORT)
    assert [p.name for p in tmp_path.iterdir()] == ["best.ckpt"]


def test_other_files_of_a_run_are_not_replaced(tmp_path, save_checkpoint):
    path, _ = save_checkpoint(MEAN_POOL)
    before = path.read_bytes()
    message = error(path, *TORCH_EXPORT, "--output", path, "--force")
    assert f"{path}: the name must end in .pt2; change --output" in message
    assert path.read_bytes() == before


def test_the_exported_weights_are_not_replaced(tmp_path):
    weights = tmp_path / "mnist.safetensors"
    weights.write_bytes(BUNDLED["mnist"].read_bytes())
    message = error(weights, "--format", "safetensors", "--force")
    assert f"{weights}: is the file to export; change --output" in message
    assert weights.read_bytes() == BUNDLED["mnist"].read_bytes()


@pytest.mark.parametrize("name", ["best.pt2", "best.pt2.json"])
def test_existing_files_need_force(tmp_path, save_checkpoint, name):
    path, _ = save_checkpoint(MEAN_POOL)
    file = tmp_path / name
    file.write_text("mine")
    message = error(path, *TORCH_EXPORT)
    assert f"{file}: exists; replace files with --force" in message
    assert file.read_text() == "mine"
    exported(path, *TORCH_EXPORT, "--force")
    assert file.read_bytes() != b"mine"
