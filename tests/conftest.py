"""Fixtures shared by several test folders."""

import program
import pytest
import torch
import torchvision


@pytest.fixture(autouse=True)
def seed():
    """Seed the random number generators, so that results do not depend on the test order."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A finished run of the tiny network: two epochs on digits. Tests must not modify it."""
    return program.run(tmp_path_factory.mktemp("digits_run"))


@pytest.fixture
def offline(monkeypatch):
    """Make torchvision's downloads fail immediately."""

    def fail(*args, **kwargs):
        raise OSError("no network")

    for module in (torchvision.datasets.mnist, torchvision.datasets.cifar):
        monkeypatch.setattr(module, "download_and_extract_archive", fail)
