"""From settings to objects: the one place where the two meet."""

from pathlib import Path

import torch

from cluster.aggregation import AggregationPlan
from cluster.gradient import MetaGradient, initial_parameters, parameter_shapes
from cluster.optimizer import require_optimizer
from cluster.plan import OptimizerPlan, TrainingPlan
from cluster.policies import SYNCHRONOUS, Asynchronous, Stale
from jobs import runtime_settings as r
from jobs import settings as s
from jobs.errors import UsageError
from mcb.encoders.deep_set import DeepSet
from mcb.hypernetwork import PriorHypernetwork
from mcb.inference.conjugate import Conjugate
from mcb.inference.gradient import GradientDescent
from mcb.inference.problem import Inference
from mcb.inference.svgd import SVGD
from mcb.learner import ModeConditionalBayesianMAML
from mcb.likelihoods import Gaussian
from mcb.modes.codebook import Codebook
from mcb.modes.definition import ModeDefinition
from mcb.modes.embedding import Embedding
from mcb.modes.oracle import Oracle
from mcb.modes.single import Single
from mcb.networks.functional import BaseNetwork
from mcb.networks.mlp import MLP
from mcb.objectives import EvidenceRegularized
from mcb.randomness import fold_key
from mcb.tasks.curves import CurveTasks
from mcb.tasks.long_form import Split
from mcb.tasks.regression import RegressionFamilies

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


def build_learner(settings: s.Settings, source: Source) -> ModeConditionalBayesianMAML:
    """The learner at its initial parameters, a pure function of the settings: the global generator is left as it was.

    Raises ValueError for parts that do not fit each other.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(fold_key(settings.seed, "initial"))
        encoder = _encoder(settings.encoder, source)
        likelihood = Gaussian(settings.likelihood.init_scale, settings.likelihood.min_scale)
        mlp = MLP(source.x_size, source.y_size, settings.network.hidden, settings.network.activation)
        network = BaseNetwork(mlp, settings.network.adapted, settings.network.conditional)
        embedding_size = None if encoder is None else encoder.embedding_size
        modes, code_size = _modes(settings.modes, len(source.mode_names), embedding_size)
        hypernetwork = PriorHypernetwork(
            code_size,
            network,
            num_offsets=likelihood.num_offsets,
            hidden=settings.hypernetwork.hidden,
            init_scale=settings.hypernetwork.init_scale,
            spread=settings.hypernetwork.spread,
        )
        return ModeConditionalBayesianMAML(
            encoder,
            hypernetwork,
            network,
            modes=modes,
            inference=_inference(settings.inference),
            likelihood=likelihood,
        )


class GradientBuilder:
    """Makes the shard computation inside a worker; pickles as the settings alone."""

    def __init__(self, settings: s.Settings) -> None:
        self.settings = settings

    def __call__(self) -> MetaGradient:
        """The meta-gradient over the training tasks."""
        source = build_source(self.settings)
        objective = EvidenceRegularized(self.settings.train.evidence_weight)
        return MetaGradient(build_learner(self.settings, source), source, self.settings.seed, objective)


def build_plan(settings: s.Settings, checkpoint_dir: str | Path, settings_yaml: str, resume: bool) -> TrainingPlan:
    """The run as the cluster sees it; what does not fit together is refused here, before anything starts."""
    learner = build_learner(settings, build_source(settings))
    train, optimizer = settings.train, settings.optimizer
    plan = OptimizerPlan(
        name=optimizer.name,
        learning_rate=optimizer.learning_rate,
        schedule=optimizer.schedule,
        warmup=optimizer.warmup,
        clip_norm=optimizer.clip_norm,
        max_refused_steps=optimizer.max_refused_steps,
        weight_decay=optimizer.weight_decay,
        momentum=optimizer.momentum,
        betas=_betas(optimizer.betas),
        epsilon=optimizer.epsilon,
        average_decay=optimizer.average_decay,
    )
    require_optimizer(plan, settings.cluster.num_slices)
    return TrainingPlan(
        build_gradient=GradientBuilder(settings),
        parameters=initial_parameters(learner),
        parameter_shapes=parameter_shapes(learner),
        num_steps=train.num_steps,
        meta_batch=train.meta_batch,
        checkpoint_dir=checkpoint_dir,
        num_shards=train.num_shards,
        strategy=settings.cluster.strategy,
        num_workers=settings.cluster.num_workers,
        threads_per_worker=settings.cluster.threads_per_worker,
        min_workers=settings.cluster.min_workers,
        start_timeout_s=settings.cluster.start_timeout_s,
        regrow_timeout_s=settings.cluster.regrow_timeout_s,
        optimizer=plan,
        aggregation=_aggregation(settings.cluster),
        checkpoint_every=train.checkpoint_every,
        checkpoint_keep=train.checkpoint_keep,
        settings_yaml=settings_yaml,
        resume=resume,
    )


def _betas(betas: tuple[float, ...]) -> tuple[float, float] | None:
    match betas:
        case ():
            return None
        case (first, second):
            return first, second
    raise UsageError(f"optimizer.betas={betas} must be two numbers, or none for torch's own")


def _aggregation(cluster: r.Cluster) -> AggregationPlan:
    """The server's policy and what it travels by."""
    match cluster.policy:
        case r.SyncPolicy():
            policy = SYNCHRONOUS
        case r.StalePolicy(bound=bound):
            policy = Stale(bound)
        case r.AsyncPolicy():
            policy = Asynchronous()
    return AggregationPlan(
        policy, cluster.num_slices, cluster.gradient_wire, cluster.parameter_wire, cluster.straggler_factor
    )


def _encoder(encoder: s.Encoder, source: Source) -> DeepSet | None:
    match encoder:
        case s.NoEncoder():
            return None
        case s.DeepSetEncoder():
            return DeepSet(source.x_size, source.y_size, encoder.embedding_size, encoder.hidden)


def _modes(modes: s.Modes, num_true_modes: int, embedding_size: int | None) -> tuple[ModeDefinition, int]:
    """The mode definition and the length of its codes; raises `UsageError` where an encoder is missing."""
    reads_embedding = isinstance(modes, s.EmbeddingModes) or (
        isinstance(modes, s.CodebookModes) and modes.gate != "weights"
    )
    if reads_embedding and embedding_size is None:
        raise UsageError(f"these modes ({modes.kind}) read the task encoder: give --encoder.kind deep-set")
    match modes:
        case s.SingleMode():
            return Single(modes.code_size), modes.code_size
        case s.OracleModes():
            return Oracle(num_true_modes, modes.code_size), modes.code_size
        case s.EmbeddingModes():
            return Embedding(), embedding_size or 0
        case s.CodebookModes():
            return Codebook(modes.num_modes, modes.code_size, modes.gate, embedding_size), modes.code_size


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
