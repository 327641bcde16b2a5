"""A compiled training is compiled once: no graph break, and nothing compiled again in epochs with validation."""

import pytest
import short
import torch
from torch._dynamo.utils import counters

STEM = "--model.stem_layers 2 --data.patch_size null --model.width 16 --model.depth 1 --model.heads 2".split()
MUON = ["--model.optimizer", "muon"]
NETWORKS = {
    "class token, no average": [*short.VIT, "--model.ema_decay", "0", "--model.drop_path", "0.1"],
    "mean, averaged, soft targets": [*short.VIT, *MUON, "--model.pool", "mean", "--data.augment.cutmix", "1"],
    "stem, sequence pooling": [*STEM, *MUON, "--model.pool", "sequence"],
    "ensemble": [*short.VIT, "--model.ensemble", "2"],
}


@pytest.mark.parametrize("network", NETWORKS)
def test_one_graph_and_no_break_in_three_epochs_with_validation(network, tmp_path, monkeypatch):
    usual = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: usual(net, backend="eager"))  # it counts, and is fast
    torch._dynamo.reset()
    counters.clear()
    flags = ["--model.compile", "true", "--trainer.limit_train_batches", "3"]
    short.run(tmp_path, *flags, model=NETWORKS[network], epochs=3)
    assert counters["stats"]["unique_graphs"] == counters["frames"]["total"] == 1
    assert not counters["graph_break"] and not counters["recompile_limit"]
