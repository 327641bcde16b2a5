"""Test the precision that `auto` selects on each type of device."""

import pytest
import torch
import yaml
from program import tiny

from src.cli.parser import parse
from src.training import precision
from src.training.precision import automatic_precision
from src.training.trainer import Trainer


@pytest.fixture(params=[True, False], ids=["bf16", "float32"])
def cpu(request, monkeypatch):
    """Simulate a CPU that is faster in bf16 or in float32; return the expected precision."""
    monkeypatch.setattr(precision, "cpu_is_faster_in_bf16", lambda: request.param)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return "bf16-mixed" if request.param else "32-true"


@pytest.mark.parametrize("faster", [True, False])
@pytest.mark.parametrize("supported", [True, False])
def test_a_cpu_with_avx512_bf16_is_timed(monkeypatch, supported, faster):
    """Intel CPUs with AVX512_BF16 but without AMX are slower in bf16."""
    threads = torch.get_num_threads()
    seconds = {torch.float32: 2.0, torch.bfloat16: 1.0 if faster else 3.0}
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    monkeypatch.setattr(precision, "_product_seconds", seconds.get)
    assert precision.cpu_is_faster_in_bf16.__wrapped__() == (supported and faster)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
def test_a_cpu(cpu, accelerator):
    assert automatic_precision(accelerator) == cpu
    assert Trainer(accelerator="cpu", logger=False).precision == cpu


def test_mps_trains_in_32_bit(cpu, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert automatic_precision("auto") == "32-true"
    assert automatic_precision("mps") == "32-true"


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_cuda(cpu, monkeypatch, has_bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def is_bf16_supported(including_emulation):
        return has_bf16 or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    assert automatic_precision("auto") == expected
    assert automatic_precision("cuda") == expected


@pytest.mark.parametrize("given", ["auto", "16-mixed"])
def test_the_config_names_the_chosen_precision(cpu, tmp_path, given):
    """A run keeps its precision when it is resumed on a different machine."""
    flags = tiny(tmp_path, "--trainer.precision", given)
    settings = parse([str(flag) for flag in flags])
    expected = cpu if given == "auto" else given
    assert settings.trainer["precision"] == expected
    assert yaml.safe_load(settings.config)["trainer"]["precision"] == expected
