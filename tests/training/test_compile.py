"""A compiled training is compiled once: no graph break, and nothing compiled again in epochs with validation."""

import pytest
import torch
from program import ROOT, VIT, call, tiny
from torch._dynamo.utils import counters

from train import main

STEM = """--model.stem_layers 2 --model.whiten true --data.patch_size null --model.width 16 --model.depth 1
    --model.heads 2""".split()
MUON = ["--model.optimizer", "muon"]
NETWORKS = {
    "class token, no average": [*VIT, "--model.ema_decay", "0"],
    "mean, averaged, soft targets": [
        *VIT,
        *MUON,
        "--model.pool",
        "mean",
        "--data.augment.cutmix",
        "1",
    ],
    "stem, sequence pooling": [*STEM, *MUON, "--model.pool", "sequence"],
    "ensemble": [*VIT, "--model.ensemble", "2"],
}


@pytest.mark.parametrize("network", NETWORKS)
def test_one_graph_and_no_break_in_three_epochs_with_validation(network, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    usual = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda net: usual(net, backend="eager")
    )  # it counts, and is fast
    torch._dynamo.reset()
    counters.clear()
    flags = ["--model.compile", "true", "--trainer.limit_train_batches", "3"]
    ended = call(main, *tiny(tmp_path, *flags, model=NETWORKS[network], epochs=3))
    assert ended.code == 0, ended
    assert counters["stats"]["unique_graphs"] == counters["frames"]["total"] == 1
    assert not counters["graph_break"] and not counters["recompile_limit"]
