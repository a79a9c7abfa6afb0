"""From settings to a mode definition: its codes, its gate, and for clustered modes the strategy."""

from jobs.errors import UsageError
from jobs.settings import modes as m
from mcb.modes.adaptive_codebook import AdaptiveCodebook
from mcb.modes.clustered import Clustered
from mcb.modes.clustering import (
    HDBSCAN,
    Agglomerative,
    Clustering,
    DirichletProcessMixture,
    GaussianMixture,
    KMeans,
    MiniBatchKMeans,
    Spectral,
)
from mcb.modes.codebook import Codebook
from mcb.modes.definition import ModeDefinition
from mcb.modes.dp_means import DPMeans
from mcb.modes.embedding import Embedding
from mcb.modes.oracle import Oracle
from mcb.modes.single import Single

_MOST_MODES = 32  # slots of a strategy that finds the number of clusters, unless the settings say another
_OWN = {"concentration": "dirichlet-process-mixture", "min_cluster_size": "hdbscan", "radius": "dp-means"}


def build_modes(modes: m.Modes, num_true_modes: int, embedding_size: int | None) -> tuple[ModeDefinition, int]:
    """The mode definition and the length of its codes; `embedding_size` is that of what the gate or the codes read.

    Raises `UsageError` where an encoder is missing, and for clusterings that cannot be made.
    """
    if _reads_encoder(modes) and embedding_size is None:
        raise UsageError(f"these modes ({modes.kind}) read the task encoder: give --encoder.kind deep-set")
    match modes:
        case m.SingleMode():
            return Single(modes.code_size), modes.code_size
        case m.OracleModes():
            return Oracle(num_true_modes, modes.code_size), modes.code_size
        case m.EmbeddingModes():
            return Embedding(), embedding_size or 0
        case m.ClusteredModes():
            strategy, num_modes = build_strategy(modes), modes.num_modes or _MOST_MODES
            size = embedding_size or 0
            clustered = Clustered(num_modes, modes.code_size, size, strategy, modes.assignment, modes.trust)
            return clustered, modes.code_size
        case m.CodebookModes(concentration=float(concentration)):
            if modes.gate != "weights":
                raise UsageError(f"modes.concentration={concentration:g} needs modes.gate=weights, not {modes.gate}")
            return AdaptiveCodebook(modes.num_modes, modes.code_size, concentration), modes.code_size
        case m.CodebookModes():
            return Codebook(modes.num_modes, modes.code_size, modes.gate, embedding_size), modes.code_size


def build_strategy(modes: m.ClusteredModes) -> Clustering:
    """The clustering strategy; raises `UsageError` for one that cannot work with the settings beside it."""
    for name, owner in _OWN.items():
        if getattr(modes, name) is not None and modes.strategy != owner:
            raise UsageError(f"modes.{name} is for modes.strategy={owner}, and modes.strategy is {modes.strategy} here")
    for name in ("num_modes", "min_cluster_size"):
        value = getattr(modes, name)
        if value is not None and modes.num_reservoir < value:
            raise UsageError(
                f"modes.num_reservoir={modes.num_reservoir} must be at least modes.{name}={value}: "
                "clusters are made of the reservoir's tasks"
            )
    most = modes.num_modes or _MOST_MODES
    match modes.strategy:
        case "k-means":
            return KMeans(_number(modes))
        case "mini-batch-k-means":
            return MiniBatchKMeans(_number(modes))
        case "gaussian-mixture":
            return GaussianMixture(_number(modes))
        case "agglomerative":
            return Agglomerative(_number(modes))
        case "spectral":
            return Spectral(_number(modes))
        case "dirichlet-process-mixture":
            return DirichletProcessMixture(most, modes.concentration)
        case "hdbscan":
            return _hdbscan(modes)
        case "dp-means":
            return DPMeans(modes.radius)


def _hdbscan(modes: m.ClusteredModes) -> HDBSCAN:
    strategy = HDBSCAN(modes.min_cluster_size)
    if modes.num_reservoir < (least := strategy.smallest_of(modes.num_reservoir)):
        raise UsageError(
            f"modes.num_reservoir={modes.num_reservoir} must be at least {least}, the tasks of hdbscan's smallest "
            "cluster: raise it, or give a smaller --modes.min-cluster-size"
        )
    return strategy


def _number(modes: m.ClusteredModes) -> int:
    if modes.num_modes is None:
        raise UsageError(f"modes.strategy={modes.strategy} needs the number of clusters: give --modes.num-modes")
    return modes.num_modes


def _reads_encoder(modes: m.Modes) -> bool:
    match modes:
        case m.EmbeddingModes():
            return True
        case m.CodebookModes():
            return modes.gate != "weights"
        case m.ClusteredModes():
            return modes.representation == "embedding"
    return False
