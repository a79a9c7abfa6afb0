"""Modes that a clustering strategy finds in representations of tasks, found anew as training goes."""

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mcb.modes.clustering import NOISE, Clustering, find_clusters, standardised
from mcb.modes.definition import Refresh
from mcb.modes.matching import Matching, match
from mcb.modes.quality import silhouette, stability

Assignment = Literal["soft", "hard"]

_PSEUDO_COUNT = 10.0  # tasks' worth of the pooled variance in that of each cluster
_SMALLEST_SCALE = 1e-3  # of a cluster, in standard deviations of all tasks


class Clustered(nn.Module):
    r"""`K` slots for codes of clusters, and a gate that reads a task's representation $e$ of length `R`.

    Soft assignment: $g_k \propto w_k \prod_r \mathcal N(e_r; m_{kr}, s_{kr}^2)$ over the slots in use, $w$, $m$ and $s$
    those of the clusters that the last refresh found; hard: 1 for the largest of these. Bayes' rule then multiplies the
    gate with the evidence, so under hard assignment it is the gate that decides.

    The codes are meta-parameters plus an `origin`, by which a slot starts at another slot's code without a jump of the
    meta-parameters. Before the first refresh all slots are in use and alike to a soft gate.

    Raises `ValueError` for fewer than one mode, fewer slots than the strategy makes clusters, or an unknown assignment.
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
    ) -> None:
        super().__init__()
        if num_modes < 1:
            raise ValueError(f"num_modes={num_modes} must be at least 1")
        if (strategy.num_clusters or 1) > num_modes:
            raise ValueError(f"num_clusters={strategy.num_clusters} must lie in 1..num_modes={num_modes}")
        if assignment not in ("soft", "hard"):
            raise ValueError(f"assignment={assignment!r} must be soft or hard")
        self.num_modes = num_modes
        self.strategy, self.assignment = strategy, assignment
        self.table = nn.Parameter(torch.randn(num_modes, code_size))
        self.register_buffer("in_use", torch.ones(num_modes))
        self.register_buffer("log_weight", torch.full((num_modes,), -math.log(num_modes)))
        self.register_buffer("centre", torch.zeros(num_modes, representation_size))
        self.register_buffer("log_scale", torch.zeros(num_modes, representation_size))
        self.register_buffer("origin", torch.zeros(num_modes, code_size))
        self.register_buffer("num_refreshes", torch.zeros(1))

    def codes(self, embedding: Float[Tensor, "E"] | None) -> Float[Tensor, "K code"]:
        """All codes, those of slots not in use as well."""
        return self.table + self.origin

    def mean_code(self) -> Float[Tensor, "code"]:
        """Of the slots in use."""
        return self.in_use @ self.codes(None) / self.in_use.sum()

    def log_gate(self, embedding: Float[Tensor, "E"] | None, mode: Int[Tensor, ""]) -> Float[Tensor, "K"]:
        """Normalised log gate, minus infinity for slots not in use."""
        assert embedding is not None  # `needs_embedding` says so
        scores = self._scores(embedding)
        if self.assignment == "soft":
            return scores.log_softmax(-1)
        slots = torch.arange(self.num_modes, device=scores.device)
        return torch.where(slots == scores.argmax(-1), 0.0, -torch.inf).to(scores)

    def state(self) -> tuple[Tensor, ...]:
        """The gate, the origins and the number of refreshes."""
        return self.in_use, self.log_weight, self.centre, self.log_scale, self.origin, self.num_refreshes

    def refresh(self, survey: Float[Tensor, "N R"], seed: int) -> Refresh:
        """Clusters the surveyed representations and matches the clusters to the slots (see `mcb.modes.matching`).

        The largest clusters are kept where there are more than slots; noise belongs to no cluster, and to the nearest
        one in the gate. The first refresh gives the clusters the slots in order, with the codes that they have.

        Raises:
            ValueError: a representation is not finite, or there are fewer tasks than clusters.
        """
        points = survey.detach().cpu().double().numpy()
        found = find_clusters(self.strategy, points, seed)
        found[found >= self.num_modes] = NOISE
        if (found == NOISE).all():
            found[:] = 0
        before = None if self.num_refreshes == 0 else self._labels(survey)
        state = self._renewed(points, found, before)
        renewed = Clustered(*self.table.shape, survey.shape[1], self.strategy, self.assignment).to(self.table)
        for buffer, value in zip(renewed.state(), state, strict=True):
            buffer.copy_(value)
        labels = renewed._labels(survey)
        metrics = {
            "num_modes": float(state[0].sum()),
            "silhouette": silhouette(standardised(points), labels.numpy()),
        }
        if before is not None:
            metrics["stability"] = stability(before, labels)
        return Refresh(state, labels, metrics)

    def _scores(self, representation: Float[Tensor, "*n R"]) -> Float[Tensor, "*n K"]:
        """Log weight plus log density, without what is common to all slots."""
        deviation = (representation[..., None, :] - self.centre) * (-self.log_scale).exp()
        scores = self.log_weight - (0.5 * deviation.square() + self.log_scale).sum(-1)
        return torch.where(self.in_use > 0, scores, -torch.inf)

    def _labels(self, survey: Float[Tensor, "N R"]) -> Int[Tensor, "N"]:
        return self._scores(survey.detach().to(self.table)).argmax(-1).cpu()

    def _renewed(self, points: np.ndarray, found: np.ndarray, before: Tensor | None) -> tuple[Tensor, ...]:
        """The state whose gate is that of the clusters `found`."""
        weight, centre, scale = fit_gate(points, found)
        matching = self._match(points, found, centre, before)
        slots = torch.from_numpy(matching.slot)
        in_use, log_weight, centres, log_scales, origin, num_refreshes = (torch.zeros_like(b) for b in self.state())
        in_use[slots] = 1
        log_weight[slots] = torch.from_numpy(np.log(weight)).to(log_weight)
        centres[slots] = torch.from_numpy(centre).to(centres)
        log_scales[slots] = torch.from_numpy(np.log(scale)).to(log_scales)
        parents = torch.from_numpy(matching.parent)
        codes = self.codes(None).detach()
        goes_on = (slots == parents)[:, None]
        origin.copy_(self.origin)
        origin[slots] = torch.where(goes_on, self.origin[slots], codes[parents] - self.table.detach()[slots])
        return in_use, log_weight, centres, log_scales, origin, num_refreshes.copy_(self.num_refreshes + 1)

    def _match(self, points: np.ndarray, found: np.ndarray, centre: np.ndarray, before: Tensor | None) -> Matching:
        if before is None:
            return Matching(np.arange(len(centre)), np.arange(len(centre)))
        clustered = found != NOISE
        overlap = np.zeros((len(centre), self.num_modes), dtype=np.int64)
        np.add.at(overlap, (found[clustered], before.numpy()[clustered]), 1)
        spread = np.maximum(points.std(0), 1e-300)
        old = self.centre.cpu().double().numpy()
        distance = np.linalg.norm((centre[:, None] - old) / spread, axis=-1)
        return match(overlap, distance, self.in_use.cpu().numpy() > 0)


def fit_gate(points: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight `(C,)`, centre `(C, R)` and scale `(C, R)` of every cluster `0..C - 1`; points of label -1 are left out.

    A cluster's variance is that of its points with ten more of the pooled variance within clusters, so that a cluster
    of a few tasks has a width too.
    """
    num_clusters = labels.max() + 1
    member = labels[:, None] == np.arange(num_clusters)
    count = member.sum(0)
    centre = member.T @ points / count[:, None]
    square = np.stack([((points[one] - centre[c]) ** 2).sum(0) for c, one in enumerate(member.T)])
    pooled = square.sum(0) / count.sum()
    variance = (square + _PSEUDO_COUNT * pooled) / (count[:, None] + _PSEUDO_COUNT)
    smallest = _SMALLEST_SCALE * points.std(0) + 1e-6 * (1 + np.abs(points).max(0))
    return count / count.sum(), centre, np.maximum(np.sqrt(variance), smallest)
