"""Precision `auto`, by what the device can do."""

import pytest
import torch
import yaml
from program import tiny

from src.cli.parser import parse
from src.training import precision
from src.training.trainer import Trainer


@pytest.fixture(params=[True, False], ids=["bf16", "no bf16"])
def cpu(request, monkeypatch):
    """A CPU that has the instructions, or not, and no accelerator beside it."""
    monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return "bf16-mixed" if request.param else "32-true"


@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
def test_a_cpu_trains_in_bf16_where_it_has_the_instructions(cpu, accelerator):
    assert precision.automatic_precision(accelerator) == cpu
    assert Trainer(accelerator="cpu", logger=False).precision == cpu


def test_cuda_decides_by_itself_and_mps_stays_with_32_bit(cpu, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert (
        precision.automatic_precision("auto") == precision.automatic_precision("mps") == "32-true"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for fast, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, fast=fast: fast
        )
        assert (
            precision.automatic_precision("auto")
            == precision.automatic_precision("cuda")
            == expected
        )
    assert precision.automatic_precision("cpu") == cpu


def test_the_config_of_a_run_names_what_was_chosen(cpu, tmp_path):
    """So that the run keeps it when it is resumed on a machine that would choose otherwise."""
    settings = parse([str(a) for a in tiny(tmp_path, "--trainer.precision", "auto")])
    assert (
        yaml.safe_load(settings.config)["trainer"]["precision"]
        == settings.trainer["precision"]
        == cpu
    )
    settings = parse([str(a) for a in tiny(tmp_path, "--trainer.precision", "16-mixed")])
    assert yaml.safe_load(settings.config)["trainer"]["precision"] == "16-mixed"
