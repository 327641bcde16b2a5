"""What the whole-program tests share."""

import program
import pytest
import torch
import torchvision


@pytest.fixture(autouse=True)
def seed():
    """Every test draws the same random numbers, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """The directory of a finished run: two epochs of the tiny network on scikit-learn's digits. Leave it as it is."""
    return program.run(tmp_path_factory.mktemp("digits_run"))


@pytest.fixture
def offline(monkeypatch):
    """torchvision cannot download: it fails at once."""

    def fail(*args, **kwargs):
        raise OSError("no network")

    for module in (torchvision.datasets.mnist, torchvision.datasets.cifar):
        monkeypatch.setattr(module, "download_and_extract_archive", fail)
