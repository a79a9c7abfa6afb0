"""A codebook that learns how many codes it needs: unused codes are pruned, crowded ones split."""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mcb.modes.definition import Refresh
from mcb.modes.in_use import stand_in
from mcb.modes.quality import stability
from mcb.randomness import fold_key, normals

_NUDGE = 0.1  # of the codes' standard deviation: how far a split moves the new code from the old one
_SMALLEST_NUDGE = 1e-3  # codes start with a standard deviation of 1: equal ones have equal gradients and never part


class AdaptiveCodebook(nn.Module):
    r"""At most `K` learned codes, weighed by how many tasks use them under a Dirichlet prior.

    With `concentration` $\alpha$, the prior of the weights is $\mathrm{Dir}(\alpha/K, \dots, \alpha/K)$. A survey of
    responsibilities gives usages $n_k = \sum_i r_{ik}$, the posterior $\mathrm{Dir}(\alpha_k)$ with
    $\alpha_k = \alpha/K + n_k$, and the gate of variational inference, $\log g_k \propto \mathbb E \log \pi_k =
    \psi(\alpha_k) - \psi(\sum_j \alpha_j)$ (Bishop 2006, equation 10.66), which takes weight from codes of little usage
    and so starves those whose tasks others can explain. A code whose expected weight falls below `prune_below` even
    shares $1/K$ is pruned; into free slots the codes above `split_above` even shares are split, the most used first:
    the new code starts a small step away from the old one, and each has half the weight.

    Even shares are those of all $K$ slots, in use or not: no usage exceeds $K$ of them, so a `split_above` of $K$ or
    more splits nothing, and where fewer than $K$ / `split_above` codes are in use, the most used one is always split.

    Raises `ValueError` for fewer than one mode, a concentration that is not above 0, or thresholds out of order.
    """

    has_shared_codes = True
    needs_embedding = False
    needs_mode = False
    surveys: Literal["representations", "responsibilities"] = "responsibilities"

    in_use: Float[Tensor, "K"]
    log_weight: Float[Tensor, "K"]
    origin: Float[Tensor, "K code"]

    def __init__(
        self,
        num_modes: int,
        code_size: int,
        concentration: float = 1.0,
        prune_below: float = 0.1,
        split_above: float = 4.0,
    ) -> None:
        super().__init__()
        if num_modes < 1:
            raise ValueError(f"num_modes={num_modes} must be at least 1")
        if not concentration > 0:
            raise ValueError(f"concentration={concentration} must be above 0")
        if not 0 <= prune_below < 1 < split_above:
            raise ValueError(f"prune_below={prune_below} must lie in 0..1, and split_above={split_above} above 1")
        self.num_modes = num_modes
        self.concentration, self.prune_below, self.split_above = concentration, prune_below, split_above
        self.table = nn.Parameter(torch.randn(num_modes, code_size))
        self.register_buffer("in_use", torch.ones(num_modes))
        self.register_buffer("log_weight", torch.full((num_modes,), -math.log(num_modes)))
        self.register_buffer("origin", torch.zeros(num_modes, code_size))

    def codes(self, embedding: Float[Tensor, "E"] | None) -> Float[Tensor, "K code"]:
        """All codes; the first one in use stands for each that is not (see `mcb.modes.in_use`)."""
        return stand_in(self.table + self.origin, self.in_use)

    def log_gate(self, embedding: Float[Tensor, "E"] | None, mode: Int[Tensor, ""]) -> Float[Tensor, "K"]:
        """Normalised log gate, minus infinity for codes not in use."""
        return torch.where(self.in_use > 0, self.log_weight, -torch.inf).log_softmax(-1)

    def state(self) -> tuple[Tensor, ...]:
        """The codes in use `(K,)`, their expected log weights `(K,)`, and the origins `(K, code)`."""
        return self.in_use, self.log_weight, self.origin

    def refresh(self, survey: Float[Tensor, "N K"], seed: int) -> Refresh:
        """Weights, prunes and splits from responsibilities; a task's label is the most responsible code that stays.

        Raises:
            ValueError: a responsibility is not finite.
        """
        if not survey.isfinite().all():
            raise ValueError("a surveyed responsibility is not finite: lower the learning rate")
        usage = survey.detach().cpu().double().sum(0)
        weight = usage + self.concentration / self.num_modes
        share = self.num_modes * weight / weight.sum()
        kept = (self.in_use.cpu() > 0) & (share >= self.prune_below)
        parents, slots = self._splits(share, kept)
        weight[slots] = weight[parents] = weight[parents] / 2
        in_use = kept.clone()
        in_use[slots] = True
        log_weight = torch.where(in_use, weight.digamma() - weight[in_use].sum().digamma(), 0.0)
        labels = survey.detach().cpu().masked_fill(~kept, -1).argmax(1)
        metrics = {"num_modes": float(in_use.sum()), "stability": stability(survey.detach().cpu().argmax(1), labels)}
        state = (in_use.to(self.in_use), log_weight.to(self.log_weight), self._renewed_origin(parents, slots, seed))
        return Refresh(state, labels, metrics)

    def _splits(self, share: Float[Tensor, "K"], kept: Bool[Tensor, "K"]) -> tuple[Tensor, Tensor]:
        """Codes to split, and the free slots that take their second halves."""
        crowded = (kept & (share > self.split_above)).nonzero()[:, 0]
        crowded = crowded[share[crowded].argsort(descending=True, stable=True)]
        free = (~kept).nonzero()[:, 0]
        num_splits = min(len(crowded), len(free))
        return crowded[:num_splits], free[:num_splits]

    def _renewed_origin(self, parents: Int[Tensor, "C"], slots: Int[Tensor, "C"], seed: int) -> Float[Tensor, "K code"]:
        codes, origin = self.codes(None).detach(), self.origin.clone()
        parents, slots = parents.to(origin.device), slots.to(origin.device)
        nudge = normals(fold_key(seed, "split"), slots, origin.shape[1]).to(origin)
        scale = (_NUDGE * codes[self.in_use > 0].std(correction=0)).clamp(min=_SMALLEST_NUDGE)
        origin[slots] = codes[parents] + scale * nudge - self.table.detach()[slots]
        return origin
