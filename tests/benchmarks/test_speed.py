"""Test that the speed benchmarks print complete and consistent tables. Times are not checked."""

from types import SimpleNamespace

import program
import pytest
import torch
from markdown import column, rows
from PIL import Image

from benchmarks import (
    busy_machine,
    cold_start,
    compute,
    end_to_end,
    export,
    flops,
    large_folder,
    peers,
    scaling,
    throughput,
    training_step,
)
from benchmarks.interleaved import interleave
from benchmarks.peers import PACKAGES, PEERS, Shape, parameters
from src.cli.parser import parse
from src.extras.export.formats import FORMATS

SHAPE = Shape(8, 1, 4, width=12, depth=2, heads=2, mlp_ratio=2)
THROUGHPUT = """
--peers encoder
--precision 32-true bf16-mixed
--compile
--rounds 2
--seconds 0.001
"""
END_TO_END = """
--configs cifar10_cpu
--images 9
--rounds 1
--precision 32-true
--pictures false
--model.width 24
--model.stem_width 8
--model.depth 1
--model.heads 2
--data.batch_size 4
--data.val_fraction 0.2
"""


def test_interleave_starts_each_round_with_another_contender():
    order = []

    def contender(name):
        return lambda: order.append(name) or len(order)

    found = interleave({name: contender(name) for name in "abc"}, rounds=2)
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [6, 8], "b": [4, 9], "c": [5, 7]}, "the first round is not counted"


# Networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PEERS)
def test_peers_have_the_parameters_of_ours_except_known_ones(name, channels):
    if name in PACKAGES:
        pytest.importorskip(name.replace("-", "_"))
    shape = SHAPE._replace(channels=channels)
    width = shape.width
    depth = shape.depth
    norms = 2 * channels * shape.patch_size**2 + 2 * width
    wide_head = 3 * (width**2 + width) + width**2
    more = {
        "vit-pytorch": norms - depth * 3 * width,  # no biases for queries, keys and values
        "tutorial": depth * (shape.heads - 1) * wide_head,
    }
    network = PEERS[name](shape)
    assert parameters(network) == parameters(peers.ours(shape)) + more.get(name, 0)
    assert network(torch.randn(2, channels, 8, 8)).shape == (2, shape.classes)


def test_throughput_counts_flops_as_by_hand():
    flops = {name: throughput.count(name, SHAPE) for name in ("ours", "encoder", "tutorial")}
    width = SHAPE.width
    tokens = SHAPE.tokens
    block = tokens * (4 * width**2 + 2 * width * SHAPE.hidden + 2 * tokens * width)
    embedding = (tokens - 1) * 16 * width
    products = 3 * (SHAPE.depth * block + 10 * width) + 2 * embedding  # pixels need no gradient
    assert flops["encoder"] == 2 * products
    assert flops["ours"] < flops["encoder"] < flops["tutorial"]


def test_throughput(bench, monkeypatch):
    monkeypatch.setattr(throughput, "SIZES", {"tiny": (SHAPE, 2)})
    monkeypatch.setattr(throughput, "PRODUCTS", ((8, 8, 8), (16, 8, 8)))
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    out = bench("throughput", THROUGHPUT)
    table = rows(out)
    assert f"torch {torch.__version__}" in out
    assert len(table) == 2 * len(compiled) == 8
    assert min(column(table, 2)) > 0
    assert column(table, 3).count(1) >= 4, "ours is 1.0 in each setting"


def test_flops(bench):
    table = rows(bench("flops", "--configs mnist cifar10_best"))
    width, blocks, tokens = 96, 4, 16
    block = 4 * width**2 + 2 * width * 2 * width + 2 * tokens * width
    products = 3 * tokens * blocks * block + 2 * tokens * 49 * width + 3 * width * 10
    assert float(table["mnist"][0]) == pytest.approx(2 * products / 1e6, abs=0.6)
    assert max(column(table, 0)) > 3000
    assert table["cifar10_best"][3] == "300"
    assert flops.count("mnist").images == 445 * 128, "full batches of 95% of 60,000 images"


def test_flops_of_all_configs():
    names = flops.countable()
    assert {"mnist_cnn", "cifar100", "cifar10_evening"} <= set(names)
    for name in names:
        assert flops.count(name).total > 0
    assert not {"folder", "vit_b16", "cifar10_finetune"} & set(names)


# Training -----------------------------------------------------------------------------------------


def test_training_step(bench):
    flags = "--configs mnist --rounds 1 --seconds 0 --data.batch_size 2 --threads 1"
    table = rows(bench("training_step", flags))
    names = ["32-true", "bf16-mixed", *training_step.optimizers(parse([]))]
    assert list(table) == [f"mnist, {name}" for name in names]
    assert float(table["mnist, 32-true"][2]) == 1
    assert min(column(table, 0)) > 0


def test_end_to_end(bench, cifar10, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr(end_to_end, "EPOCHS", 1)
    out = bench("end_to_end", f"{END_TO_END} --data.root {cifar10}")
    assert "cifar10_cpu: 2 batches of 4, 32-true" in out
    table = rows(out)
    loops = ["bare loop", "bare loop, augmentation and averaging"]
    names = ["train.py", *loops, "tutorial", "timm"]
    assert list(table) == [f"cifar10_cpu: {name}" for name in names]
    for seconds, speed in zip(column(table, 0), column(table, 2), strict=True):
        assert seconds * speed == pytest.approx(8, rel=0.1)


def test_scaling(bench, monkeypatch):
    monkeypatch.setattr(large_folder, "CONTEXT", program.forks)  # avoids repeated imports
    monkeypatch.setattr(scaling, "BASE", {"images": 1, "tokens": 4, "width": 48, "depth": 1})
    monkeypatch.setattr(scaling, "GROWTH", {"tokens": (16, 64, 144)})
    out = bench("scaling", "--rounds 1 --threads 1")
    table = rows(out)
    trainings = ["train.py, 1 epochs", "train.py, 3 epochs"]
    assert list(table) == ["tokens 16", "tokens 64", "tokens 144", *trainings]
    assert min(column(table, 1)) > 10
    assert "tokens, 16 to 144: time ~ tokens^" in out
    assert "at 288 tokens, half of the multiplications" in out


def test_scaling_finds_exponents():
    rows = {
        f"tokens {n}": {"ms_per_step": 3 * n**2, "MiB_beyond_the_imports": 5 * n}
        for n in scaling.GROWTH["tokens"]
    }
    line = scaling.exponent("tokens", rows)
    assert line == "tokens, 144 to 576: time ~ tokens^2.00, memory ~ tokens^1.00"


# Programs, data and images ------------------------------------------------------------------------


def test_cold_start(bench, monkeypatch):
    def run(command, **options):
        _, script, *arguments = command
        if script != "-c":
            ended = program.Running(*arguments, script=script).end()
            assert ended.code == 0, ended

    only_run = SimpleNamespace(run=run, DEVNULL=None)
    monkeypatch.setattr(cold_start, "subprocess", only_run)
    table = rows(bench("cold_start", "--rounds 1"))
    programs = ["classify.py --help", "train.py --help", "classify.py IMAGE"]
    assert list(table) == ["python -c pass", cold_start.TORCH, *programs]
    assert float(table[cold_start.TORCH][1]) == 1


def test_export(bench, digits_run, monkeypatch):
    """Measure two of the formats, because each export takes seconds."""
    pytest.importorskip("onnxscript")
    formats = {name: FORMATS[name] for name in ("onnx", "safetensors")}
    monkeypatch.setattr(export, "FORMATS", formats)
    out = bench("export", f"{digits_run} --rounds 1 --threads 1")
    table = rows(out)
    assert list(table) == ["PyTorch", *formats]
    assert "256 test images of digits" in out
    assert max(column(table, 1)) < 1e-4


def test_large_folder(bench, monkeypatch):
    monkeypatch.setattr(large_folder, "in_new_process", lambda function, *args: function(*args))
    table = rows(bench("large_folder", "--images 100 --budget 0.002"))
    budgets = ["budget 0.002 GiB, 2 workers", "budget 0.002 GiB, 0 workers"]
    assert list(table) == [*budgets, "budget 0.0 GiB, 2 workers"]
    assert min(column(table, 3)) > 0


def test_data_pipeline(bench, cifar10):
    out = bench("data_pipeline", f"--root {cifar10} --images 40 --rounds 1")
    assert "40 images of 3x32x32" in out
    assert len(rows(out)) == 3


def test_picture(bench, digits_run, tmp_path):
    bench("picture", f"{digits_run} --output {tmp_path}/out.png")
    width, height = Image.open(tmp_path / "out.png").size
    assert width > 2 * height > 400


def test_compute(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "MEASURED", {"cifar10_plain_cpu": 0.9})
    picture = tmp_path / "compute.png"
    table = rows(bench("compute", f"--picture {picture}"))
    name = "cifar10_plain_cpu.yaml"
    assert table[name] == ["0.9000", "0.26", "this project"]
    assert list(table)[:2] == [name, "airbench94 with Muon (CNN)"]
    assert Image.open(picture).width > 500


def test_freed_memory(bench):
    table = rows(bench("freed_memory", "--configs digits --seconds 0.01 --rounds 1"))
    assert list(table) == ["digits, freed memory returned", "digits, freed memory kept"]
    assert table["digits, freed memory returned"][1] == "1.0000"
    assert min(column(table, 2)) > 0


def test_busy_machine(bench, monkeypatch):
    monkeypatch.setattr(busy_machine, "train_briefly", lambda config, threads: (1200.0, "1"))
    monkeypatch.setattr(busy_machine, "THREADS", ("2", "auto"))
    table = rows(bench("busy_machine", "--rounds 2"))
    assert table["digits, 1 busy programs"] == ["1,200", "1,200", "1, 1"]
