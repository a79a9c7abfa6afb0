"""The named search spaces: each a function that asks for settings one by one, so later questions depend on answers."""

from collections.abc import Callable, Sequence
from typing import Protocol

from jobs.errors import UsageError, nearest

Value = str | int | float | bool | None


class Asks(Protocol):
    """Who answers a space's questions: an Optuna trial, or what stands in for one. Names are paths of settings."""

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """One of `choices`; of a single one, that."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number from `low` to `high`, both included."""
        ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from `low` to `high`."""
        ...


Space = Callable[[Asks], None]

NEED_NUMBER = ("k-means", "mini-batch-k-means", "gaussian-mixture", "agglomerative", "spectral")
STRATEGIES = (*NEED_NUMBER, "dirichlet-process-mixture", "hdbscan", "dp-means")


def modes(ask: Asks) -> None:
    """What counts as a mode, how many there are and how they are found, what adapts under them, the learning rate."""
    kind = ask.suggest_categorical("modes.kind", ("codebook", "clustered", "embedding", "single"))
    representation = None
    if kind == "codebook":
        ask.suggest_int("modes.num_modes", 8, 128, log=True)
        if ask.suggest_categorical("modes.concentration", (None, 1.0, 10.0)) is not None:
            _refresh(ask)
    elif kind == "clustered":
        if ask.suggest_categorical("modes.strategy", STRATEGIES) in NEED_NUMBER:
            ask.suggest_int("modes.num_modes", 4, 64, log=True)
        representation = ask.suggest_categorical(
            "modes.representation", ("statistics", "embedding", "gradient", "adapted")
        )
        ask.suggest_categorical("modes.assignment", ("soft", "hard"))
        _refresh(ask)
    if kind != "embedding":
        ask.suggest_categorical("modes.code_size", (16, 32, 64))
    if "embedding" in (kind, representation):
        ask.suggest_categorical("encoder.kind", ("deep-set",))
        ask.suggest_categorical("encoder.embedding_size", (16, 32, 64))
    has_many = kind in ("codebook", "clustered")  # particles of every one would cost more than a trial is worth
    inferences = ("conjugate",) if has_many else ("conjugate", "gradient", "svgd")
    inference = ask.suggest_categorical("inference.kind", inferences)
    if inference != "conjugate":
        ask.suggest_float("inference.step_size", 1e-3, 0.3, log=True)
        ask.suggest_int("inference.num_steps", 1, 5)
        ask.suggest_categorical("inference.num_particles", (5,))
        ask.suggest_categorical("train.evidence_weight", (0.0,))
    ask.suggest_float("optimizer.learning_rate", 5e-4, 1e-2, log=True)


def codebook(ask: Asks) -> None:
    """A codebook with an exact head: how many codes, how far apart they start, the evidence, the learning rate."""
    ask.suggest_categorical("modes.kind", ("codebook",))
    ask.suggest_int("modes.num_modes", 8, 128, log=True)
    ask.suggest_categorical("modes.code_size", (16, 32, 64))
    ask.suggest_categorical("inference.kind", ("conjugate",))
    ask.suggest_float("hypernetwork.spread", 0.1, 2.0, log=True)
    ask.suggest_float("train.evidence_weight", 0.0, 4.0)
    ask.suggest_float("optimizer.learning_rate", 5e-4, 1e-2, log=True)


def _refresh(ask: Asks) -> None:
    """Meta-steps from one survey to the next; the effect follows within the shortest interval."""
    ask.suggest_categorical("modes.refresh_every", (25, 50, 100))


SPACES: dict[str, Space] = {"modes": modes, "codebook": codebook}


def space(name: str) -> Space:
    """The space of a name; raises `UsageError` with the nearest name."""
    if name not in SPACES:
        raise UsageError(f"unknown space {name!r}, which is no YAML file either{nearest(name, SPACES)}")
    return SPACES[name]
