"""Test that synthetic photos of every kind show their digit, and that counts match the files."""

import io

import numpy as np
import pytest
from markdown import rows
from photos import ZERO, written
from PIL import Image
from program import ROOT
from vits import save_module

from benchmarks.photo_kinds import KINDS
from src.data.modules import MNISTDataModule
from src.extras.paper.photo import extract_digit
from src.extras.paper.strokes import strokes_of
from src.training.classifier import ViT

MNIST = MNISTDataModule(root=str(ROOT / "data"))


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_seeded_and_show_their_digit(kind):
    strokes = strokes_of(MNIST.info)
    digit = extract_digit(written(ZERO, pen=24), 28, strokes).image
    similar = []
    for seed in range(3):
        picture, ending = KINDS[kind](digit, np.random.default_rng(seed))
        assert ending in ("png", "jpg")
        found = extract_digit(Image.open(io.BytesIO(picture)), 28, strokes).image
        similar.append(np.corrcoef(found.ravel(), digit.ravel())[0, 1])
    assert np.median(similar) > 0.5, similar
    assert KINDS[kind](digit, np.random.default_rng(2)) == (picture, ending)


@pytest.mark.real_data
@pytest.mark.skipif(not (ROOT / "data/MNIST").is_dir(), reason="data/MNIST is missing")
def test_counts_match_the_names_of_the_files(bench, tmp_path):
    path = save_module(tmp_path / "mnist.ckpt", ViT(MNIST.info, width=8, depth=1, heads=1))
    flags = f'--count 12 --seeds 0 3 --kinds "thin pen" --keep {tmp_path / "kept"}'
    (cells,) = rows(bench("photos", f"{path} {flags}")).values()
    names = [file.stem for file in (tmp_path / "kept").rglob("*.*")]
    assert cells[0] == "12"
    assert len(names) == 24
    assert sum(name.endswith("_correct") for name in names) == int(cells[1]) + int(cells[2])
