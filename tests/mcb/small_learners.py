"""Small learners of every kind and tasks of several sizes, in float64, for the tests of the learner."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mcb.encoders.deep_set import DeepSet
from mcb.hypernetwork import PriorHypernetwork
from mcb.inference.conjugate import Conjugate
from mcb.inference.gradient import GradientDescent
from mcb.inference.problem import Inference
from mcb.inference.svgd import SVGD
from mcb.learner import ModeConditionalBayesianMAML
from mcb.likelihoods import Categorical, Gaussian
from mcb.modes.adaptive_codebook import AdaptiveCodebook
from mcb.modes.clustered import Assignment, Clustered
from mcb.modes.clustering import KMeans
from mcb.modes.codebook import Codebook
from mcb.modes.definition import ModeDefinition, Refresh, RefreshedModes
from mcb.modes.embedding import Embedding
from mcb.modes.oracle import Oracle
from mcb.modes.single import Single
from mcb.networks.functional import BaseNetwork
from mcb.networks.mlp import MLP
from mcb.types import Task

NUM_TASKS, NUM_SUPPORT, NUM_QUERY, CODE = 3, 5, 4, 3
SUPPORT_MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 0, 0, 1, 0]]).bool()
QUERY_MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 1]]).bool()

MODES: dict[str, Callable[[], ModeDefinition]] = {
    "single": lambda: Single(CODE),
    "oracle": lambda: Oracle(2, CODE),
    "embedding": lambda: Embedding(),
    "codebook, weights": lambda: Codebook(3, CODE),
    "codebook, encoder": lambda: Codebook(2, CODE, gate="encoder", embedding_size=CODE),
    "codebook, both": lambda: Codebook(2, CODE, gate="both", embedding_size=CODE),
    "adaptive codebook": lambda: adaptive_codebook(),
    "clustered, soft": lambda: clustered("soft"),
    "clustered, hard": lambda: clustered("hard"),
}
INFERENCES: dict[str, Inference] = {
    "conjugate": Conjugate(),
    "gradient": GradientDescent(num_steps=2, step_size=0.05, num_particles=3),
    "first order": GradientDescent(num_steps=2, step_size=0.05, num_particles=2, second_order=False),
    "maml": GradientDescent(num_steps=2, step_size=0.02, prior_noise=False, coordinates="raw"),
    "svgd": SVGD(num_steps=2, step_size=0.1, num_particles=3),
}


def clustered(assignment: Assignment) -> Clustered:
    """Four slots, of which one is not in use, after two refreshes."""
    modes = Clustered(4, CODE, CODE, KMeans(3), assignment, trust=2.0).double()
    for seed in range(2):
        refresh(modes, draws(30, CODE, seed=seed))
    return modes


def adaptive_codebook() -> AdaptiveCodebook:
    """Four codes, of which one is not in use."""
    modes = AdaptiveCodebook(4, CODE).double()
    refresh(modes, torch.tensor([0.5, 0.0, 0.3, 0.2]).double().expand(20, 4))
    return modes


def refresh(modes: RefreshedModes, survey: Tensor) -> Refresh:
    """Gives the modes the state that a refresh finds."""
    found = modes.refresh(survey, seed=0)
    for buffer, value in zip(modes.state(), found.state, strict=True):
        buffer.copy_(value)
    return found


class Images(nn.Module):
    """A convolution, layer norm and a linear head."""

    def __init__(self, y_size: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 2, kernel_size=2)
        self.norm = nn.LayerNorm([2, 2, 2])
        self.head = nn.Linear(8, y_size)

    def features(self, x: Tensor) -> Tensor:
        return self.norm(self.convolution(x)).tanh().flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_learner(
    modes: str = "codebook, weights", inference: str = "conjugate", kind: str = "mlp"
) -> ModeConditionalBayesianMAML:
    """A small learner in which some parameters are adapted, some mode-conditional and some shared."""
    torch.manual_seed(0)
    y_size = 4 if kind == "classes" else 1
    if kind == "images":
        adapted = "head" if inference == "conjugate" else "head|norm"
        model = BaseNetwork(Images(y_size), adapted, "norm" if inference == "conjugate" else r"convolution\.bias")
    elif kind == "bottleneck":
        model = BaseNetwork(MLP(2, y_size, (4, 5), num_rectified=2, bottleneck=3), "head", r"layers\.1|combine")
    else:
        model = BaseNetwork(MLP(2, y_size, hidden=(4, 3)), "head", r"layers\.0")
    likelihood = Categorical(4) if kind == "classes" else Gaussian(0.7)
    return ModeConditionalBayesianMAML(
        DeepSet(9 if kind == "images" else 2, y_size, embedding_size=CODE, hidden=4),
        PriorHypernetwork(CODE, model, num_offsets=likelihood.num_offsets, hidden=(4,), init_scale=0.5),
        model,
        modes=MODES[modes](),
        inference=INFERENCES[inference],
        likelihood=likelihood,
    ).double()


def make_tasks(kind: str = "mlp") -> Task:
    """Tasks of five, three and one support points, with garbage where no point is."""
    x_shape = (1, 3, 3) if kind == "images" else (2,)
    support_x, query_x = draws(NUM_TASKS, NUM_SUPPORT, *x_shape), draws(NUM_TASKS, NUM_QUERY, *x_shape, seed=1)
    if kind == "classes":
        support_y, query_y = torch.arange(15).view(NUM_TASKS, -1) % 4, torch.arange(12).view(NUM_TASKS, -1) % 4
    else:
        support_y, query_y = draws(NUM_TASKS, NUM_SUPPORT, 1, seed=2), draws(NUM_TASKS, NUM_QUERY, 1, seed=3)
        support_y[~SUPPORT_MASK], query_y[~QUERY_MASK] = 100.0, -100.0
    support_x[~SUPPORT_MASK], query_x[~QUERY_MASK] = 10.0, -10.0
    return Task(support_x, support_y, SUPPORT_MASK, query_x, query_y, QUERY_MASK, torch.tensor([1, 0, 1]))


def meta_gradient(loss: Tensor, learner: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(learner.parameters()), allow_unused=True, materialize_grads=True))
