"""The memory of processes that compute."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_HUGE_KIB = """
import {first}
import torch

large = torch.ones(2**24)
print(next(line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")))
"""


@pytest.mark.skipif(
    not _POLICY.exists() or "[never]" in _POLICY.read_text(), reason="this kernel gives nobody huge pages"
)
@pytest.mark.parametrize(
    ("first", "chosen"), [("jobs.cli", None), ("cluster.worker", None), ("cluster.local", None), ("cluster.local", "0")]
)
def test_large_tensors_lie_in_huge_pages_unless_the_environment_says_otherwise(first, chosen):
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    if chosen is not None:
        environment["THP_MEM_ALLOC_ENABLE"] = chosen
    command = [sys.executable, "-c", _HUGE_KIB.format(first=first)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    if chosen is None:
        assert int(printed) > 0
    elif "[madvise]" in _POLICY.read_text():
        assert int(printed) == 0
