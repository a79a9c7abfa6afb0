"""From settings to objects: the one place where the two meet."""

from pathlib import Path
from platform import node

import torch

from cluster.gradient import MetaGradient, initial_parameters, parameter_shapes
from cluster.plan import TrainingPlan
from cluster.refresh import RefreshPlan
from cluster.survey import initial_state
from jobs.building.modes import build_modes
from jobs.building.refresher import Refresher
from jobs.building.representation import build_representation, embedding_size
from jobs.building.runtime import aggregation_plan, group_plan, optimizer_plan
from jobs.building.task_form import form_tree
from jobs.errors import UsageError
from jobs.settings import modes as m
from jobs.settings import runtime as r
from jobs.settings import tree as s
from mcb.encoders.deep_set import DeepSet
from mcb.hypernetwork import PriorHypernetwork
from mcb.inference.conjugate import Conjugate
from mcb.inference.gradient import GradientDescent
from mcb.inference.problem import Inference
from mcb.inference.svgd import SVGD
from mcb.learner import ModeConditionalBayesianMAML
from mcb.likelihoods import Gaussian
from mcb.modes.definition import RefreshedModes
from mcb.networks.functional import BaseNetwork
from mcb.networks.mlp import MLP
from mcb.objectives import EvidenceRegularized
from mcb.randomness import fold_key
from mcb.sharing import UNSHARED, Sharing
from mcb.tasks.curves import CurveTasks
from mcb.tasks.long_form import Split
from mcb.tasks.regression import RegressionFamilies
from mcb.types import HasForm

Source = RegressionFamilies | CurveTasks


def build_source(settings: s.Settings, split: Split = "train") -> Source:
    """The tasks; `split` matters only where data are finite. Raises `UsageError` without a file of curves."""
    match settings.tasks:
        case s.RegressionTasks() as tasks:
            return RegressionFamilies(tasks.families, tasks.num_support, tasks.num_query, tasks.noise_scale)
        case s.CurveTasks(path=None):
            raise UsageError(f"recipe {settings.recipe!r} reads measured curves: give --data FILE.parquet")
        case s.CurveTasks() as tasks:
            return CurveTasks.from_parquet(str(tasks.path), split, tasks.num_support, tasks.num_query)


def build_learner(settings: s.Settings, source: HasForm) -> ModeConditionalBayesianMAML:
    """The learner at its initial parameters, a pure function of the settings: the global generator is left as it was.

    Raises ValueError for parts that do not fit each other.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(fold_key(settings.seed, "initial"))
        encoder = _encoder(settings.encoder, source)
        likelihood = Gaussian(settings.likelihood.init_scale, settings.likelihood.min_scale)
        shape = settings.network
        mlp = MLP(source.x_size, source.y_size, shape.hidden, shape.activation, shape.num_rectified, shape.bottleneck)
        network = BaseNetwork(mlp, settings.network.adapted, settings.network.conditional)
        size = embedding_size(settings, source, network, encoder)
        modes, code_size = build_modes(settings.modes, len(source.mode_names), size)
        hypernetwork = PriorHypernetwork(
            code_size,
            network,
            num_offsets=likelihood.num_offsets,
            hidden=settings.hypernetwork.hidden,
            init_scale=settings.hypernetwork.init_scale,
            spread=settings.hypernetwork.spread,
        )
        inference = _inference(settings.inference)
        parts = (network, hypernetwork, likelihood, modes, inference)
        return ModeConditionalBayesianMAML(
            build_representation(settings, source, encoder, parts),
            hypernetwork,
            network,
            modes=modes,
            inference=inference,
            likelihood=likelihood,
        )


class GradientBuilder:
    """Makes the shard computation inside a worker; pickles as the settings alone."""

    def __init__(self, settings: s.Settings) -> None:
        self.settings = settings

    def __call__(self, sharing: Sharing = UNSHARED) -> MetaGradient:
        """The meta-gradient over the training tasks, or one rank's part of it; on the GPU where workers have one."""
        source = build_source(self.settings)
        learner = build_learner(self.settings, source).to(_device(self.settings.cluster))
        learner.share_out(sharing)
        objective = EvidenceRegularized(self.settings.train.evidence_weight)
        return MetaGradient(learner, source, self.settings.seed, objective)


class RefreshBuilder:
    """Makes the refresh of a run's modes where it is computed; pickles as the settings alone."""

    def __init__(self, settings: s.Settings) -> None:
        self.settings = settings

    def __call__(self) -> Refresher:
        """The refresh, on the CPU."""
        source = build_source(self.settings)
        return Refresher(build_learner(self.settings, source), source, self.settings.seed)


def _device(cluster: r.Cluster) -> torch.device:
    """What a worker computes on; raises `UsageError` where it was to have a GPU and has none."""
    if not cluster.gpus_per_worker:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(
            f"gpus_per_worker={cluster.gpus_per_worker:g}, but torch {torch.__version__} finds no GPU on {node()}: "
            "install a CUDA build of torch there, or give 0"
        )
    return torch.device("cuda")


def build_plan(settings: s.Settings, checkpoint_dir: str | Path, settings_yaml: str, resume: bool) -> TrainingPlan:
    """The run as the cluster sees it; what does not fit together is refused here, before anything starts."""
    source = build_source(settings)
    learner = build_learner(settings, source)
    train, cluster = settings.train, settings.cluster
    build_gradient = GradientBuilder(settings)
    return TrainingPlan(
        build_gradient=build_gradient,
        parameters=initial_parameters(learner),
        parameter_shapes=parameter_shapes(learner),
        num_steps=train.num_steps,
        meta_batch=train.meta_batch,
        checkpoint_dir=checkpoint_dir,
        num_shards=train.num_shards,
        strategy=cluster.strategy,
        num_workers=cluster.num_workers,
        threads_per_worker=cluster.threads_per_worker,
        gpus_per_worker=cluster.gpus_per_worker,
        group=group_plan(cluster, learner, build_gradient),
        min_workers=cluster.min_workers,
        start_timeout_s=cluster.start_timeout_s,
        regrow_timeout_s=cluster.regrow_timeout_s,
        optimizer=optimizer_plan(settings.optimizer),
        aggregation=aggregation_plan(cluster),
        checkpoint_every=train.checkpoint_every,
        checkpoint_keep=train.checkpoint_keep,
        settings_yaml=settings_yaml,
        resume=resume,
        refresh=_refresh_plan(settings, learner),
        task_form=form_tree(source),
    )


def _refresh_plan(settings: s.Settings, learner: ModeConditionalBayesianMAML) -> RefreshPlan | None:
    """When the modes are refreshed; None where they never are."""
    modes = settings.modes
    if not (isinstance(modes, m.Refreshed) and isinstance(learner.modes, RefreshedModes)):
        return None
    return RefreshPlan(
        every=modes.refresh_every,
        lag=modes.refresh_lag,
        num_tasks=modes.num_reservoir,
        state=initial_state(learner),
        build=RefreshBuilder(settings),
    )


def _encoder(encoder: s.Encoder, source: HasForm) -> DeepSet | None:
    match encoder:
        case s.NoEncoder():
            return None
        case s.DeepSetEncoder():
            return DeepSet(source.x_size, source.y_size, encoder.embedding_size, encoder.hidden)


def _inference(inference: s.Inference) -> Inference:
    match inference:
        case s.ConjugateInference():
            return Conjugate(torch.float32 if inference.gram_dtype == "float32" else torch.float64)
        case s.GradientInference():
            return GradientDescent(
                inference.num_steps,
                inference.step_size,
                inference.num_particles,
                inference.second_order,
                inference.prior_noise,
                inference.coordinates,
            )
        case s.SVGDInference():
            return SVGD(inference.num_steps, inference.step_size, inference.num_particles)
