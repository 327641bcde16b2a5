"""Test predictions.csv: order, several processes, and untrusted names."""

import csv

import pytest
import torch
from batches import trainer

from src.config import DatasetInfo
from src.data.image_set import ImageSet
from src.data.sampling import Share
from src.training.classifier import CNN
from src.training.predictions import CollectPredictions, write_predictions

CLASSES = ("cat", "=dog()")
MODULE = CNN(DatasetInfo(classes=CLASSES, image_size=28, channels=1))
MODULE.temperature = 2.0
LOGITS = torch.tensor([[3.0, 0.0], [0.0, 1.0], [2.0, 0.0]])


def rows(run, paths=None):
    images = ImageSet(torch.zeros(3, 1, 2, 2), torch.tensor([0, 0, 1]), paths)
    collect = CollectPredictions()
    for logits in LOGITS.split(2):
        collect.on_test_batch_end(None, MODULE, logits, None, 0)
    write_predictions(run, images, CLASSES, collect.gather(trainer(), Share(range(3), 0, 1)))
    with open(run / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_image(tmp_path):
    found = rows(tmp_path)
    assert [row["image"] for row in found] == ["0", "1", "2"]
    assert [row["true"] for row in found] == ["cat", "cat", "'=dog()"]
    assert [row["predicted"] for row in found] == ["cat", "'=dog()", "cat"]
    expected = (LOGITS / 2).softmax(1).amax(1).tolist()
    assert [float(row["probability"]) for row in found] == pytest.approx(expected, abs=1e-6)


def test_names_are_neither_formulas_nor_line_breaks(tmp_path):
    paths = ["=cmd()", 'a\r"b\nc,d', "e\udcff"]
    assert [row["image"] for row in rows(tmp_path, paths)] == ["'=cmd()", paths[1], "e\\udcff"]


def test_each_image_comes_from_the_process_that_tested_it(monkeypatch):
    gathered = []

    def all_gather_object(parts, own):
        gathered.append(own)
        parts[:] = gathered

    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)
    for rank in range(2):
        collect = CollectPredictions()
        collect.on_test_batch_end(None, MODULE, LOGITS[rank::2], None, 0)
        found = collect.gather(trainer(rank=rank, world=2), Share(range(3), rank, 2))
    assert [label for _, (_, label) in sorted(found.items())] == [0, 1, 0]
