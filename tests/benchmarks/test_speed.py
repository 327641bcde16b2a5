"""The benchmarks of speed run to their end, and their tables are complete and consistent. No test looks at a time."""

import json
import re
from types import SimpleNamespace

import program
import pytest
import torch
from markdown import rows

from benchmarks import cold_start, end_to_end, optimizers, peers, scaling, throughput
from benchmarks.peers import PACKAGES, PEERS, Shape
from benchmarks.turns import take_turns
from src.cli.parser import parse

SHAPE = Shape(8, 1, 4, width=12, depth=2, heads=2, mlp_ratio=2)


@pytest.fixture(autouse=True)
def threads():
    """A benchmark sets their number for its process, which here is that of all tests."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def parameters(network) -> int:
    return sum(p.numel() for p in network.parameters())


def test_everybody_has_as_many_turns_and_another_one_begins_each_round():
    order = []
    found = take_turns(
        {name: lambda name=name: order.append(name) or len(order) for name in "abc"}, rounds=2
    )
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [6, 8], "b": [4, 9], "c": [5, 7]}, "the first round is not counted"


# Throughput -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PEERS)
def test_peers_have_the_parameters_of_ours_but_for_what_is_known(name, channels):
    if name in PACKAGES:
        pytest.importorskip(name.replace("-", "_"))
    s = SHAPE._replace(channels=channels)
    pixels, width = channels * s.patch_size**2, s.width
    more = {
        "vit-pytorch": 2 * pixels
        + 2 * width
        - s.depth * 3 * width,  # two norms; no biases of queries, keys, values
        "tutorial": s.depth * (s.heads - 1) * (3 * (width**2 + width) + width**2),
    }
    network = PEERS[name](s)
    assert parameters(network) == parameters(PEERS["ours"](s)) + more.get(name, 0)
    assert network(torch.randn(2, channels, 8, 8)).shape == (2, s.classes)


def test_flops_are_counted_alike():
    flops = {
        name: throughput.count(name, SHAPE)
        for name in ("ours", "encoder", "torchvision", "tutorial")
    }
    assert flops["encoder"] == flops["torchvision"]
    assert flops["ours"][0] < flops["encoder"][0] < flops["tutorial"][0], (
        "ours leaves out what its head does not read"
    )
    width, tokens = SHAPE.width, SHAPE.tokens
    block = tokens * (4 * width**2 + 2 * width * SHAPE.hidden + 2 * tokens * width)
    by_hand = SHAPE.depth * block + (tokens - 1) * 16 * width + 10 * width
    assert flops["encoder"][1] == 2 * by_hand


def test_throughput(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(throughput, "SIZES", {"tiny": (SHAPE, 2)})
    monkeypatch.setattr(throughput, "PRODUCTS", {"cpu": ((8, 8, 8), (16, 8, 8))})
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    flags = ["--peers", "encoder", "tutorial", "--precision", "32", "bf16", "--compile"]
    out = bench(
        "throughput",
        *flags,
        "--rounds",
        2,
        "--seconds",
        0.001,
        "--threads",
        1,
        "--json",
        tmp_path / "out.json",
    )
    kinds = [
        f"tiny, {precision}, {kind}"
        for precision in ("32", "bf16")
        for kind in ("eager", "compiled")
    ]
    names = [f"{kind}: {peer}" for kind in kinds for peer in ("ours", "encoder", "tutorial")]
    written = json.loads((tmp_path / "out.json").read_text())
    assert list(rows(out)) == names == list(written["rows"]) and len(compiled) == 6
    peaks = dict(re.findall(r"^peak, (\w+): ([\d,]+) GFLOP/s$", out, re.MULTILINE))
    assert peaks.keys() == {"32", "bf16"} and "torch " + torch.__version__ in written["header"][0]
    for name, row in written["rows"].items():
        assert row["train_of_ours"] == 1 if name.endswith("ours") else row["train_of_ours"] > 0
        assert len(row["train_rounds"]) == len(row["inference_rounds"]) == 2
        done = {
            what: row[f"{what}_images/s"] / row[f"{what}_of_peak"]
            for what in ("train", "inference")
        }
        assert done["inference"] / done["train"] == pytest.approx(
            row["MFLOP_an_image"] / row["forward_MFLOP"]
        )


def test_throughput_without_a_gpu_one_line_says_so(bench, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        throughput.InputError, match="--device cuda: there is no CUDA device here; use --device cpu"
    ):
        bench("throughput", "--device", "cuda")


def test_a_peer_that_is_not_installed_is_left_out_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(
        peers,
        "importlib",
        SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: name == "timm")),
    )
    assert peers.installed(["timm", "vit-pytorch", "encoder"]) == ["timm", "encoder"]
    assert capsys.readouterr().out.startswith(
        "left out, for they are not installed: vit-pytorch (pip install "
    )


# Optimizers -------------------------------------------------------------------------------------------------------


def test_optimizers(bench):
    flags = ["--rounds", 1, "--steps", 1, "--batch", 2, "--threads", 1]
    table = rows(bench("optimizers", "--configs", "mnist", "--precision", "32-true", *flags))
    muon = [name for name in table if "Muon" in name]
    assert len(muon) == 1 + hasattr(torch.optim, "Muon") and len(table) == 4 + len(muon)
    for name, cells in table.items():
        by_muon, by_adamw = (int(cell.replace(",", "")) for cell in cells[:2])
        assert by_muon + by_adamw == 306_634 and by_muon == (294_912 if name in muon else 0)
        assert 0 < float(cells[4]) < 1
    assert float(table["mnist: our Muon"][3]) == 1


@pytest.mark.parametrize("config", optimizers.CONFIGS)
def test_every_parameter_is_in_one_group_of_each_contender(config):
    network = parse(["--config", f"configs/{config}.yaml"]).model.net
    for contender in optimizers.optimizers(network).values():
        stepped = [
            id(p)
            for optimizer in contender
            for group in optimizer.param_groups
            for p in group["params"]
        ]
        assert sorted(stepped) == sorted(id(p) for p in network.parameters() if p.requires_grad)


# Scaling ----------------------------------------------------------------------------------------------------------


def test_scaling(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(scaling, "CONTEXT", program.forks)  # costs no import
    monkeypatch.setattr(scaling, "BASE", {"images": 1, "tokens": 4, "width": 48, "depth": 1})
    short = ["--grow", "tokens", "--points", 3, "--rounds", 1, "--steps", 1, "--threads", 1]
    short += ["--epochs", 1, "--folder", 70, "--budget", 0.001, "--json", tmp_path / "out.json"]
    table = rows(bench("scaling", *short))
    names = ["tokens 16", "tokens 64", "tokens 144", "train.py, epochs 1"]
    assert list(table)[:-1] == names and list(table)[-1].startswith(
        "folder, images 70, 0.001 GiB of "
    )
    assert all(float(cells[1].replace(",", "")) > 10 for cells in table.values())
    lines = json.loads((tmp_path / "out.json").read_text())["header"]
    assert (
        lines[1].startswith("tokens, 16 to 144: time ~ tokens^")
        and "products at 288 tokens" in lines[2]
    )


def test_scaling_finds_the_exponents_of_powers():
    powers = {n: {"ms_a_step": 3 * n**2, "MiB_above_the_imports": 5 * n} for n in (4, 16, 64, 256)}
    lines = scaling.exponents("tokens", {f"tokens {n}": row for n, row in powers.items()})
    assert lines == [
        f"tokens, {n} to 256: time ~ tokens^2.00, memory ~ tokens^1.00" for n in (4, 16)
    ]


@pytest.mark.parametrize("most", [300, 1000])
def test_scaling_finds_where_the_quadratic_part_is_half(most):
    points = {
        f"tokens {t}": {"ms_a_step": 20 + 3 * t + 0.01 * t**2} for t in (16, 64, 144, 256, most)
    }
    line = scaling.half(points)[1]
    assert ("at 307" in line) and ("beyond" in line) == (most < 307)
    linear = {f"tokens {t}": {"ms_a_step": 20 + 3 * t} for t in (16, 64, 144)}
    assert "beyond" in scaling.half(linear)[1] or scaling.half(linear)[1].endswith(
        "no quadratic part"
    )


# Programs ---------------------------------------------------------------------------------------------------------


def test_cold_start(bench, digits_run, monkeypatch):
    started = []

    def run(command, **_):
        _, script, *arguments = command
        started.append(script)
        if script == "-c":
            return SimpleNamespace(returncode=0)
        ended = program.Running(*arguments, script=script).end()
        assert ended.out
        return SimpleNamespace(returncode=ended.code, stderr=ended.err)

    monkeypatch.setattr(cold_start, "subprocess", SimpleNamespace(run=run))
    table = rows(bench("cold_start", "--ckpt", digits_run, "--rounds", 1))
    programs = ["classify.py --help", "train.py --help", "classify.py IMAGE"]
    assert list(table) == ["python -c pass", cold_start.TORCH, *programs]
    assert float(table[cold_start.TORCH][1]) == 1 and len(started) == 2 * len(table)


def test_end_to_end(bench, cifar10, monkeypatch, tmp_path):
    pytest.importorskip("timm")
    monkeypatch.setattr(end_to_end, "CONTEXT", program.forks)  # costs no import
    flags = "--model.width 24 --model.stem_width 8 --model.depth 1 --model.heads 2".split() + [
        "--data.root",
        cifar10,
    ]
    flags += [
        "--data.batch_size",
        4,
        "--data.val_fraction",
        0.2,
        "--precision",
        "32-true",
        "--pictures",
        "false",
    ]
    short = [
        "--configs",
        "cifar10_cpu",
        "--images",
        9,
        "--rounds",
        1,
        "--epochs",
        1,
        "--threads",
        1,
    ]
    out = bench("end_to_end", *short, *flags, "--json", tmp_path / "out.json")
    table = {name.removeprefix("cifar10_cpu: "): cells for name, cells in rows(out).items()}
    assert list(table) == [
        "train.py",
        "bare loop",
        "bare loop, augmentation and average",
        "tutorial",
        "timm",
    ]
    assert "cifar10_cpu: 2 batches of 4, 32-true" in out and float(table["train.py"][3]) == 1
    ours, *bare = (table[name][:2] for name in list(table)[:3])
    assert bare == [ours, ours]
    shape = Shape(32, 3, 8, width=24, depth=1, heads=2, mlp_ratio=2)
    for name in ("tutorial", "timm"):
        assert table[name][0] == f"{parameters(PEERS[name](shape)):,}"
    for row in json.loads((tmp_path / "out.json").read_text())["rows"].values():
        assert row["images/s"] * row["seconds_an_epoch"] == pytest.approx(8)
