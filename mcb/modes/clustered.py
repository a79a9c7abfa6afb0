"""Modes that a clustering strategy finds in representations of tasks, found anew as training goes."""

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mcb.modes.clustering import NOISE, Clustering, find_clusters, standardised
from mcb.modes.definition import Refresh
from mcb.modes.gate import ClusterGate, Clusters, fit_clusters
from mcb.modes.in_use import stand_in
from mcb.modes.matching import Matching, match
from mcb.modes.quality import silhouette, stability

Assignment = Literal["soft", "hard"]


class Clustered(nn.Module):
    r"""`K` slots for codes of clusters, and a gate that reads a task's representation $e$ of length `R`.

    Soft assignment: $\log g_k = \log\pi_k + \frac{\tau}{R} \sum_r \log \mathcal N(e_r; m_{kr}, s_{kr}^2)$, normalised
    over the slots in use, with learned weights, and centres and scales of the clusters that the last refresh found.
    Bayes' rule multiplies this with the evidence, which reads the same support points as the representation: `trust`
    $\tau$ says how many observations the representation is to count as beside it, not `R`. Hard assignment: the gate
    is 1 for the cluster that the task most likely belongs to, by the whole density and the clusters' sizes.

    The codes are meta-parameters plus an `origin`, by which a slot starts at another slot's code without a jump of the
    meta-parameters. Before the first refresh all slots are in use and alike to the gate.

    Raises `ValueError` for fewer than one mode, fewer slots than the strategy makes clusters, an unknown assignment, or
    a negative trust.
    """

    has_shared_codes = True
    needs_embedding = True
    needs_mode = False
    surveys: Literal["representations", "responsibilities"] = "representations"

    in_use: Float[Tensor, "K"]
    log_weight: Float[Tensor, "K"]
    centre: Float[Tensor, "K R"]
    log_scale: Float[Tensor, "K R"]
    origin: Float[Tensor, "K code"]
    num_refreshes: Float[Tensor, "1"]

    def __init__(
        self,
        num_modes: int,
        code_size: int,
        representation_size: int,
        strategy: Clustering,
        assignment: Assignment = "soft",
        trust: float = 0.1,
    ) -> None:
        super().__init__()
        if num_modes < 1:
            raise ValueError(f"num_modes={num_modes} must be at least 1")
        if (strategy.num_clusters or 1) > num_modes:
            raise ValueError(f"num_clusters={strategy.num_clusters} must lie in 1..num_modes={num_modes}")
        if assignment not in ("soft", "hard"):
            raise ValueError(f"assignment={assignment!r} must be one of soft, hard")
        if not trust >= 0:
            raise ValueError(f"trust={trust} must be at least 0")
        self.num_modes = num_modes
        self.strategy, self.assignment, self.trust = strategy, assignment, trust
        self.table = nn.Parameter(torch.randn(num_modes, code_size))
        self.log_weights = nn.Parameter(torch.zeros(num_modes)) if assignment == "soft" else None
        self.register_buffer("in_use", torch.ones(num_modes))
        self.register_buffer("log_weight", torch.full((num_modes,), -math.log(num_modes)))
        self.register_buffer("centre", torch.zeros(num_modes, representation_size))
        self.register_buffer("log_scale", torch.zeros(num_modes, representation_size))
        self.register_buffer("origin", torch.zeros(num_modes, code_size))
        self.register_buffer("num_refreshes", torch.zeros(1))

    def codes(self, embedding: Float[Tensor, "E"] | None) -> Float[Tensor, "K code"]:
        """All codes; that of the first slot in use stands for each that is not (see `mcb.modes.in_use`)."""
        return stand_in(self.table + self.origin, self.in_use)

    def mean_code(self) -> Float[Tensor, "code"]:
        """Of the slots in use."""
        return self.in_use @ self.codes(None) / self.in_use.sum()

    def log_gate(self, embedding: Float[Tensor, "E"] | None, mode: Int[Tensor, ""]) -> Float[Tensor, "K"]:
        """Normalised log gate, minus infinity for slots not in use."""
        assert embedding is not None  # `needs_embedding` says so
        log_density = self._gate.log_density(embedding)
        if self.log_weights is not None:
            scores = self.log_weights + self.trust / embedding.shape[0] * log_density
            return torch.where(self.in_use > 0, scores, -torch.inf).log_softmax(-1)
        slots = torch.arange(self.num_modes, device=log_density.device)
        return torch.where(slots == self._gate.nearest(embedding), 0.0, -torch.inf).to(log_density)

    def state(self) -> tuple[Tensor, ...]:
        """The gate `(K,)`, `(K,)`, `(K, R)`, `(K, R)`, the origins `(K, code)` and the number of refreshes `(1,)`."""
        return *self._gate, self.origin, self.num_refreshes

    def refresh(self, survey: Float[Tensor, "N R"], seed: int) -> Refresh:
        """Clusters the surveyed representations and matches the clusters to the slots (see `mcb.modes.matching`).

        The largest clusters are kept where there are more than slots. Noise takes no part in the making of the gate.
        The first refresh gives the clusters the slots in order, with the codes that these have.

        Raises:
            ValueError: a representation is not finite, or there are fewer tasks than clusters.
        """
        points = survey.detach().cpu().double().numpy()
        found = find_clusters(self.strategy, points, seed)
        found[found >= self.num_modes] = NOISE
        if (found == NOISE).all():
            found[:] = 0
        clusters = fit_clusters(points, found)
        before = None if self.num_refreshes == 0 else self._gate.nearest(survey.to(self.centre)).cpu()
        matching = self._match(points, found, clusters, before)
        gate = self._renewed_gate(clusters, matching)
        state = (*gate, self._renewed_origin(matching), self.num_refreshes + 1)
        labels = gate.nearest(survey.to(self.centre)).cpu()
        metrics = {
            "num_modes": float(gate.in_use.sum()),
            "silhouette": silhouette(standardised(points), labels.numpy()),
        }
        if before is not None:
            metrics["stability"] = stability(before, labels)
        return Refresh(state, labels, metrics)

    @property
    def _gate(self) -> ClusterGate:
        return ClusterGate(self.in_use, self.log_weight, self.centre, self.log_scale)

    def _match(self, points: np.ndarray, found: np.ndarray, clusters: Clusters, before: Tensor | None) -> Matching:
        num_clusters = len(clusters.weight)
        if before is None:
            return Matching(np.arange(num_clusters), np.arange(num_clusters))
        clustered = found != NOISE
        overlap = np.zeros((num_clusters, self.num_modes), dtype=np.int64)
        np.add.at(overlap, (found[clustered], before.numpy()[clustered]), 1)
        spread = np.where(points.std(0) > 0, points.std(0), np.inf)  # a column of equal values tells nothing apart
        old = self.centre.cpu().double().numpy()
        distance = np.linalg.norm((clusters.centre[:, None] - old) / spread, axis=-1)
        return match(overlap, distance, self.in_use.cpu().numpy() > 0)

    def _renewed_gate(self, clusters: Clusters, matching: Matching) -> ClusterGate:
        gate = ClusterGate(*(torch.zeros_like(buffer) for buffer in self._gate))
        values = (np.ones(len(clusters.weight)), np.log(clusters.weight), clusters.centre, np.log(clusters.scale))
        for buffer, value in zip(gate, values, strict=True):
            buffer[matching.slot] = torch.from_numpy(value).to(buffer)
        return gate

    def _renewed_origin(self, matching: Matching) -> Float[Tensor, "K code"]:
        """A slot that does not go on as it was starts at its parent's code."""
        new = matching.slot != matching.parent
        origin = self.origin.clone()
        slots, parents = matching.slot[new], matching.parent[new]
        origin[slots] = self.codes(None).detach()[parents] - self.table.detach()[slots]
        return origin
