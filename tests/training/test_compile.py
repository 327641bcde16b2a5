"""Test that networks are compiled once, without graph breaks or recompilation in later epochs."""

import pytest
import torch
from program import ROOT, VIT, call, tiny
from torch import nn
from torch._dynamo.utils import counters

from train import main

STEM = """
--model.stem_layers 2
--model.whiten true
--data.patch_size null
--model.width 16
--model.depth 1
--model.heads 2
""".split()
MUON = ["--model.optimizer", "muon"]
MEAN = ["--model.pool", "mean", "--data.augment.cutmix=1"]
NETWORKS = {
    "class token, no average": [*VIT, "--model.ema_decay=0"],
    "mean, averaged, soft targets": [*VIT, *MUON, *MEAN],
    "stem, sequence pooling": [*STEM, *MUON, "--model.pool", "sequence"],
    "ensemble": [*VIT, "--model.ensemble=2"],
}


@pytest.mark.parametrize("network", NETWORKS)
def test_one_graph_in_epochs_with_validation(network, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    original = nn.Module.compile

    def compile_fast(net):
        original(net, backend="eager")  # traces the network but does not generate code

    monkeypatch.setattr(nn.Module, "compile", compile_fast)
    torch._dynamo.reset()
    counters.clear()
    flags = ["--model.compile=true", "--trainer.limit_train_batches=3"]
    ended = call(main, *tiny(tmp_path, *flags, model=NETWORKS[network], epochs=2))
    assert ended.code == 0, ended
    assert counters["stats"]["unique_graphs"] == 1
    assert counters["frames"]["total"] == 1
    assert not counters["graph_break"]
    assert not counters["recompile_limit"]
