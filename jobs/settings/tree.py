"""The settings of a run: a frozen tree, checked where it enters, with only the fields that each choice has.

A union is told apart by its field `kind`. `mcb`, the library, never sees this module: `jobs.building.objects` unpacks
it.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator
from tyro.conf import Suppress

from cluster.storage import absolute
from jobs.settings.modes import CodebookModes, Modes
from jobs.settings.runtime import Cluster, Optimizer
from jobs.settings.section import HowToChoose, Section, count, positive

TasksKind = Field(description=f"regression or curves{HowToChoose}")
InferenceKind = Field(description=f"conjugate, gradient or svgd{HowToChoose}")
EncoderKind = Field(description=f"none or deep-set{HowToChoose}")


NumPoints = Annotated[int, count(1, 10_000, "points")]
Size = Annotated[int, count(1, 65_536, "units")]
Sizes = Annotated[tuple[Size, ...], Field(min_length=1, description="units of each hidden layer, 1..65536")]
StepSize = Annotated[float, positive(1e3, "step of the inner loop")]
NumInnerSteps = Annotated[int, count(1, 10_000, "steps of the inner loop")]
NumParticles = Annotated[int, count(1, 10_000, "particles")]
FamilyName = Literal["sinusoid", "linear", "quadratic", "tanh", "absolute"]


class RegressionTasks(Section):
    """Synthetic one-dimensional curves; each family is a mode."""

    kind: Annotated[Literal["regression"], TasksKind] = "regression"
    families: Annotated[tuple[FamilyName, ...], Field(min_length=1, description="families, each once")] = (
        "sinusoid",
        "linear",
        "quadratic",
        "tanh",
        "absolute",
    )
    num_support: NumPoints = 5
    num_query: NumPoints = 5
    noise_scale: Annotated[float, Field(ge=0, le=1e3, description="of support and query, 0..1000")] = 0.3


class CurveTasks(Section):
    """Measured curves in a Parquet file of columns family, task, x1, optionally x2, ..., and y."""

    kind: Annotated[Literal["curves"], TasksKind] = "curves"
    path: Annotated[str | None, Field(description="the Parquet file; --data FILE is short for it")] = None
    num_support: NumPoints = 10
    num_query: NumPoints = 50


class ConjugateInference(Section):
    """The exact Gaussian posterior of a linear head."""

    kind: Annotated[Literal["conjugate"], InferenceKind] = "conjugate"
    gram_dtype: Annotated[
        Literal["float64", "float32"], Field(description="what Gram matrices are formed in; float32 is faster")
    ] = "float64"


class GradientInference(Section):
    """Gradient ascent of the log posterior from prior samples."""

    kind: Annotated[Literal["gradient"], InferenceKind] = "gradient"
    num_steps: NumInnerSteps = 5
    step_size: StepSize = 0.01
    num_particles: NumParticles = 10
    second_order: Annotated[bool, Field(description="differentiate through the inner gradients")] = True
    prior_noise: Annotated[bool, Field(description="start at prior samples, not at the prior mean")] = True
    coordinates: Annotated[Literal["whitened", "raw"], Field(description="what the steps are taken in")] = "whitened"


class SVGDInference(Section):
    """Stein variational gradient descent over particles, in whitened coordinates."""

    kind: Annotated[Literal["svgd"], InferenceKind] = "svgd"
    num_steps: NumInnerSteps = 5
    step_size: StepSize = 0.1
    num_particles: NumParticles = 10


class NoEncoder(Section):
    """No task encoder, for modes that read none."""

    kind: Annotated[Literal["none"], EncoderKind] = "none"


class DeepSetEncoder(Section):
    """A deep set over the support points."""

    kind: Annotated[Literal["deep-set"], EncoderKind] = "deep-set"
    embedding_size: Annotated[int, count(1, 65_536, "length of the embedding")] = 32
    hidden: Size = 64


class Network(Section):
    """The base network: a multilayer perceptron with a linear head."""

    hidden: Sizes = (40, 40, 16)
    activation: Annotated[Literal["tanh", "relu", "silu"], Field(description="of the hidden layers")] = "tanh"
    num_rectified: Annotated[
        int,
        Field(ge=0, le=65_536, description="features that are ReLU whatever the activation, 0..65536"),
    ] = 0
    bottleneck: Annotated[
        int,
        Field(
            ge=0,
            le=65_536,
            description="linear combinations of the features that the head sees, 1..65536; 0: the features",
        ),
    ] = 0
    adapted: Annotated[str, Field(description="parameters that a task adapts: all, head, or a regular expression")] = (
        "head"
    )
    conditional: Annotated[str, Field(description="parameters generated per mode: none, rest, or an expression")] = (
        "rest"
    )


class Hypernetwork(Section):
    """From a mode's code to the prior."""

    hidden: Annotated[tuple[Size, ...], Field(description="units of each hidden layer, 1..65536; none is linear")] = (
        64,
    )
    init_scale: Annotated[float, positive(1e3, "initial standard deviation of the prior")] = 1.0
    spread: Annotated[float, Field(ge=0, le=1e3, description="how far apart the modes start, 0..1000")] = 1.0


class Likelihood(Section):
    """Gaussian noise with a learned scale."""

    init_scale: Annotated[float, positive(1e3, "initial noise scale")] = 1.0
    min_scale: Annotated[float, positive(1e3, "lower bound of the noise scale, below init_scale")] = 1e-3


class Train(Section):
    """The budget, in meta-steps, and how a meta-step is cut up."""

    num_steps: Annotated[int, count(1, 10**9, "meta-steps")] = 2000
    meta_batch: Annotated[int, count(1, 10**6, "tasks of a meta-step")] = 125
    num_shards: Annotated[int, count(1, 4096, "pieces of a meta-step, part of the result's last bits")] = 2
    evidence_weight: Annotated[
        float, Field(ge=0, le=1e3, description="weight of the log evidence in the meta-objective, 0..1000")
    ] = 0.0
    checkpoint_every: Annotated[int, count(1, 10**9, "meta-steps between checkpoints")] = 200
    checkpoint_keep: Annotated[int, count(1, 10**6, "newest checkpoints kept")] = 3
    checkpoint_dir: Annotated[
        str | None, Field(description="folder or URL (s3://...) of the checkpoints; None: in the run's folder")
    ] = None

    @field_validator("checkpoint_dir")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        return None if value is None else absolute(value)


class Evaluation(Section):
    """How much is evaluated after training; test tasks are the same for every run."""

    num_tasks: Annotated[int, count(2, 10**8, "test tasks (measured curves: all of them, so unused)")] = 20_000
    num_mapping_tasks: Annotated[int, count(1, 10**8, "separate tasks that map codes to modes")] = 5_000
    num_bayes_tasks: Annotated[int, count(0, 10**6, "tasks of the Bayes limit where none is shipped; 0: no limit")] = (
        200
    )
    num_rounds: Annotated[int, count(1, 10**4, "draws of support points for each measured test curve")] = 2
    batch_size: Annotated[int, count(1, 10**6, "tasks at once")] = 500


class Tracking(Section):
    """What the tracked run holds beside numbers, figures and the checkpoint."""

    log_model: Annotated[
        bool, Field(description="log the trained learner as an MLflow model, which can be registered and served")
    ] = True


Tasks = Annotated[RegressionTasks | CurveTasks, Field(discriminator="kind")]
Inference = Annotated[ConjugateInference | GradientInference | SVGDInference, Field(discriminator="kind")]
Encoder = Annotated[NoEncoder | DeepSetEncoder, Field(discriminator="kind")]


class Settings(Section):
    """A whole run."""

    recipe: Suppress[Annotated[str, Field(description="the recipe that these settings came from")]] = "custom"
    seed: Annotated[int, count(0, 2**63 - 1, "seed of everything random in training")] = 0
    tasks: Tasks = RegressionTasks()
    modes: Modes = CodebookModes()
    inference: Inference = ConjugateInference()
    encoder: Encoder = NoEncoder()
    network: Network = Network()
    hypernetwork: Hypernetwork = Hypernetwork()
    likelihood: Likelihood = Likelihood()
    train: Train = Train()
    optimizer: Optimizer = Optimizer()
    cluster: Cluster = Cluster()
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()
