"""The Ray runtime: decisions in pure files, thin actors around them, checkpoints, tracking."""

from cluster.memory import use_huge_pages

use_huge_pages()  # here, because it has to come before a process's first tensor
