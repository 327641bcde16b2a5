"""Test the images of benchmarks/oblong_images.py."""

import pytest
from PIL import Image


@pytest.mark.parametrize(("kind", "size"), [("wide", (192, 64)), ("photo", (64, 48))])
def test_half_of_the_images_are_wide(bench, cifar10, tmp_path, kind, size):
    out = tmp_path / "oblong"
    counts = "--train 4 --val 2 --test 2"
    bench("oblong_images", f"{kind} {out} --source {cifar10}/cifar10 {counts}")
    files = sorted((out / "train" / "ship").iterdir())
    sizes = [Image.open(file).size for file in files]
    assert sizes == [size, size[::-1]] * 2
    files = out.glob("*/*/*.png")
    assert len(list(files)) == 5 * 8
