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
    path = _path_of_today(name)
    RESULTS.mkdir(exist_ok=True)
    head = {"date": datetime.date.today().isoformat(), "machine": machine()}
    path.write_text(json.dumps(head | result | head, indent=1) + "\n")
    return path


def of_today(name: str) -> dict:
    """What was written today, nothing if nothing was."""
    path = _path_of_today(name)
    return json.loads(path.read_text()) if path.exists() else {}


def _path_of_today(name: str) -> Path:
    return RESULTS / f"{name}-{datetime.date.today().isoformat()}.json"


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()
