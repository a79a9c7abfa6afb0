"""What a benchmark's result says of the machine it ran on, and where the results go."""

import datetime
import json
import os
import platform
import re
from pathlib import Path

import psutil
import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, str | int | float]:
    """Processor, cores, memory, versions and how busy the machine was when asked."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load_average": round(psutil.getloadavg()[0], 2),
    }


def write(name: str, result: dict) -> Path:
    """A dated JSON file `results/NAME-DATE.json` with the machine's description; returns its path."""
    date = datetime.date.today().isoformat()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{date}.json"
    path.write_text(json.dumps({"date": date, "machine": machine(), **result}, indent=1) + "\n")
    return path


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()
