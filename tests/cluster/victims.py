"""The processes that tests kill: Ray actors of this process's own cluster, by class name."""

import psutil


def victims(class_name: str) -> list[psutil.Process]:
    """Processes below this one that run an actor of a class, by age; Ray gives them its name as their title."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            title = process.cmdline()[:1]
        except psutil.Error:  # it ended meanwhile
            continue
        if title and title[0].split(".")[0].strip() == f"ray::{class_name}":
            found.append(process)
    return sorted(found, key=lambda process: process.create_time())
