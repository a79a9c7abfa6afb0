"""From settings to what a mode definition reads of a task: the encoder, or a representation to be clustered."""

from torch import nn

from jobs.settings import modes as m
from jobs.settings import tree as s
from mcb.encoders.deep_set import DeepSet
from mcb.inference.gradient import GradientDescent
from mcb.inference.problem import Inference
from mcb.likelihoods import Gaussian
from mcb.modes.clustered import Clustered
from mcb.modes.definition import ModeDefinition
from mcb.modes.representations import SupportStatistics
from mcb.modes.shared_prior import AdaptedParameters, Hypernetwork, SupportGradient, shared_prior_size
from mcb.networks.functional import BaseNetwork
from mcb.types import HasForm


def embedding_size(settings: s.Settings, source: HasForm, network: BaseNetwork, encoder: DeepSet | None) -> int | None:
    """Length of what codes or gate read of a task; None where there is no encoder to read."""
    match _representation(settings.modes):
        case "statistics":
            return SupportStatistics(source.x_size, source.y_size).embedding_size
        case "gradient" | "adapted":
            return shared_prior_size(network)
    return None if encoder is None else encoder.embedding_size


def build_representation(
    settings: s.Settings,
    source: HasForm,
    encoder: DeepSet | None,
    parts: tuple[BaseNetwork, Hypernetwork, Gaussian, ModeDefinition, Inference],
) -> nn.Module | None:
    """What turns a support set into that; `parts` are the learner's own, which some representations look through."""
    network, hypernetwork, likelihood, modes, inference = parts
    representation = _representation(settings.modes)
    if representation is None or representation == "embedding":
        return encoder
    if representation == "statistics":
        return SupportStatistics(source.x_size, source.y_size)
    assert isinstance(modes, Clustered)  # no others have a representation
    if representation == "gradient":
        return SupportGradient(network, hypernetwork, likelihood, modes)
    quiet = _from_the_prior_mean(settings.inference, inference)
    return AdaptedParameters(network, hypernetwork, likelihood, modes, quiet)


def _representation(modes: m.Modes) -> str | None:
    return modes.representation if isinstance(modes, m.ClusteredModes) else None


def _from_the_prior_mean(settings: s.Inference, inference: Inference) -> Inference:
    """The run's inference without noise: particle methods give way to gradient steps from the prior's mean."""
    match settings:
        case s.ConjugateInference():
            return inference
        case s.GradientInference():
            return GradientDescent(
                settings.num_steps, settings.step_size, 1, prior_noise=False, coordinates=settings.coordinates
            )
        case s.SVGDInference():
            return GradientDescent(settings.num_steps, settings.step_size, 1, prior_noise=False)
