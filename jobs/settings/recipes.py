"""The named runs: each a function that returns settings, and the one place where its numbers stand."""

from collections.abc import Callable

from jobs.errors import UsageError, nearest
from jobs.settings.modes import ClusteredModes, CodebookModes, EmbeddingModes, SingleMode
from jobs.settings.tree import (
    ConjugateInference,
    CurveTasks,
    DeepSetEncoder,
    Evaluation,
    GradientInference,
    Hypernetwork,
    Likelihood,
    Network,
    Optimizer,
    RegressionTasks,
    Settings,
    SVGDInference,
    Train,
)


def five_modes() -> Settings:
    """The flagship: a codebook, responsibilities from the evidence, an exact conjugate head; five families of curves.

    Two layers of features are shared by all modes and a third is generated for each, so a mode costs little and there
    can be many. Some of its features are rectified: smooth ones learn the place of a kink slowly. The head sees ten
    combinations of them, so that a kink comes with a change of slope. SOAP needs half the tasks that Adam does.
    """
    return Settings(
        recipe="five-modes",
        modes=CodebookModes(num_modes=96, code_size=64),
        inference=ConjugateInference(gram_dtype="float32"),
        network=Network(
            hidden=(64, 64, 18), num_rectified=6, bottleneck=10, adapted="head", conditional=r"^(layers\.2|combine)\."
        ),
        hypernetwork=Hypernetwork(hidden=(128,), spread=0.5),
        likelihood=Likelihood(init_scale=0.5, min_scale=0.05),
        train=Train(num_steps=2000, meta_batch=510, evidence_weight=2.0),
        optimizer=Optimizer(name="soap", learning_rate=3e-3, betas=(0.9, 0.99), warmup=50),
    )


def three_modes() -> Settings:
    """The flagship learner on sinusoids, lines and parabolas."""
    return five_modes().model_copy(
        update={
            "recipe": "three-modes",
            "tasks": RegressionTasks(families=("sinusoid", "linear", "quadratic")),
            "modes": CodebookModes(num_modes=64, code_size=64),
            "train": Train(num_steps=1400, meta_batch=252, evidence_weight=2.0),
        }
    )


def two_modes() -> Settings:
    """The flagship learner on sinusoids and lines."""
    return five_modes().model_copy(
        update={
            "recipe": "two-modes",
            "tasks": RegressionTasks(families=("sinusoid", "linear")),
            "modes": CodebookModes(num_modes=32, code_size=64),
            "train": Train(num_steps=1700, meta_batch=252, evidence_weight=2.0),
        }
    )


def five_modes_clustered() -> Settings:
    """The flagship learner whose modes are clusters of what tasks look like, found again every hundred meta-steps."""
    return _clustered(five_modes(), num_modes=96)


def three_modes_clustered() -> Settings:
    """The same on sinusoids, lines and parabolas."""
    return _clustered(three_modes(), num_modes=64)


def _clustered(base: Settings, num_modes: int) -> Settings:
    modes = ClusteredModes(strategy="k-means", num_modes=num_modes, code_size=64, num_reservoir=2000)
    return base.model_copy(update={"recipe": f"{base.recipe}-clustered", "modes": modes})


def five_modes_svgd() -> Settings:
    """A continuous mode from the task encoder, and whitened SVGD over all parameters of a small network."""
    return Settings(
        recipe="five-modes-svgd",
        modes=EmbeddingModes(),
        encoder=DeepSetEncoder(embedding_size=32, hidden=64),
        inference=SVGDInference(num_steps=5, step_size=0.01, num_particles=10),
        network=Network(hidden=(20, 20), adapted="all", conditional="none"),
        hypernetwork=Hypernetwork(hidden=(64,), init_scale=0.1),
        likelihood=Likelihood(init_scale=1.0, min_scale=0.2),
        train=Train(num_steps=600, meta_batch=50),
        optimizer=Optimizer(learning_rate=1e-3, warmup=50),
    )


def five_modes_maml() -> Settings:
    """MAML: a single mode, one particle from the learned initialisation, plain gradient steps."""
    return Settings(
        recipe="five-modes-maml",
        modes=SingleMode(code_size=1),
        inference=GradientInference(
            num_steps=5, step_size=0.001, num_particles=1, prior_noise=False, coordinates="raw"
        ),
        network=Network(hidden=(100, 100, 100), activation="relu", adapted="all", conditional="none"),
        hypernetwork=Hypernetwork(hidden=()),
        train=Train(num_steps=800, meta_batch=125),
        optimizer=Optimizer(learning_rate=1e-3),
    )


def curves() -> Settings:
    """The flagship learner on measured curves in long form; needs --data FILE.parquet."""
    return Settings(
        recipe="curves",
        tasks=CurveTasks(num_support=10, num_query=50),
        modes=CodebookModes(num_modes=32, code_size=32),
        inference=ConjugateInference(),
        network=Network(hidden=(48, 48, 16), adapted="head", conditional=r"^layers\.2\."),
        hypernetwork=Hypernetwork(spread=0.5),
        likelihood=Likelihood(init_scale=0.5),
        train=Train(num_steps=900, meta_batch=128, evidence_weight=1.0),
        optimizer=Optimizer(learning_rate=3e-3, warmup=50),
        evaluation=Evaluation(num_mapping_tasks=2000),
    )


RECIPES: dict[str, Callable[[], Settings]] = {
    "five-modes": five_modes,
    "two-modes": two_modes,
    "three-modes": three_modes,
    "five-modes-clustered": five_modes_clustered,
    "three-modes-clustered": three_modes_clustered,
    "five-modes-svgd": five_modes_svgd,
    "five-modes-maml": five_modes_maml,
    "curves": curves,
}


def recipe(name: str) -> Settings:
    """The settings of a recipe; raises `UsageError` with the nearest name."""
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}{nearest(name, RECIPES)}")
    return RECIPES[name]()
