"""Freed memory is reused (src/training/memory.py)."""

import platform
import subprocess
import sys

import pytest

from src.training import memory

PAGE_FAULTS = """
import resource
import sys

import torch

from src.training.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):  # until the heap has a large enough gap
    torch.ones(2**24)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs the GNU C library")
def test_freed_memory_is_reused():
    assert page_faults("keep") < page_faults("return") / 4


def page_faults(mode: str) -> int:
    command = [sys.executable, "-c", PAGE_FAULTS, mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_a_c_library_without_mallopt(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.keep_freed_memory()
