"""Mode-Conditional Bayesian MAML: few-shot learners for task distributions with many modes, in pure PyTorch."""

from mcb.encoders.deep_set import DeepSet
from mcb.hypernetwork import PriorHypernetwork
from mcb.inference.conjugate import Conjugate
from mcb.inference.gradient import GradientDescent
from mcb.inference.svgd import SVGD
from mcb.learner import ModeConditionalBayesianMAML
from mcb.likelihoods import Categorical, Gaussian
from mcb.modes.adaptive_codebook import AdaptiveCodebook
from mcb.modes.clustered import Clustered
from mcb.modes.codebook import Codebook
from mcb.modes.embedding import Embedding
from mcb.modes.oracle import Oracle
from mcb.modes.single import Single
from mcb.networks.functional import BaseNetwork
from mcb.networks.mlp import MLP
from mcb.predictor import Predictor
from mcb.types import Support, Task

__all__ = [
    "MLP",
    "SVGD",
    "AdaptiveCodebook",
    "BaseNetwork",
    "Categorical",
    "Clustered",
    "Codebook",
    "Conjugate",
    "DeepSet",
    "Embedding",
    "Gaussian",
    "GradientDescent",
    "ModeConditionalBayesianMAML",
    "Oracle",
    "Predictor",
    "PriorHypernetwork",
    "Single",
    "Support",
    "Task",
]
