"""The settings of what counts as a mode."""

from typing import Annotated, Literal

from pydantic import Field

from jobs.settings.section import HowToChoose, Section, count

ModesKind = Field(description=f"codebook, clustered, embedding, single or oracle{HowToChoose}")
CodeSize = Annotated[int, count(1, 65_536, "length of a mode's code")]
Strategy = Literal[
    "k-means",
    "mini-batch-k-means",
    "gaussian-mixture",
    "dirichlet-process-mixture",
    "agglomerative",
    "spectral",
    "hdbscan",
    "dp-means",
]


class Refreshed(Section):
    """Modes that a survey of a fixed reservoir of tasks renews while training goes."""

    refresh_every: Annotated[int, count(1, 10**6, "meta-steps from one survey of the reservoir to the next")] = 100
    refresh_lag: Annotated[int, count(1, 10**6, "meta-steps from a survey to its effect, at most refresh_every")] = 20
    num_reservoir: Annotated[int, count(2, 10**6, "tasks of the reservoir, the same at every survey")] = 1000


class SingleMode(Section):
    """One learned code: an unconditional prior."""

    kind: Annotated[Literal["single"], ModesKind] = "single"
    code_size: CodeSize = 16


class OracleModes(Section):
    """The true mode's code: an upper bound."""

    kind: Annotated[Literal["oracle"], ModesKind] = "oracle"
    code_size: CodeSize = 16


class EmbeddingModes(Section):
    """The task's own embedding is its code; its length is the encoder's."""

    kind: Annotated[Literal["embedding"], ModesKind] = "embedding"


class CodebookModes(Refreshed):
    """Learned codes with a gate; responsibilities by Bayes' rule from the evidence.

    With a `concentration` the number of codes is learned: those that too few tasks use are pruned, crowded ones split.
    """

    kind: Annotated[Literal["codebook"], ModesKind] = "codebook"
    num_modes: Annotated[int, count(1, 4096, "codes, the most of them where their number is learned")] = 32
    code_size: CodeSize = 32
    gate: Annotated[Literal["weights", "encoder", "both"], Field(description="what weighs the codes")] = "weights"
    concentration: Annotated[
        float | None, Field(gt=0, le=1e6, description="of a Dirichlet prior on codes of learned number; None: all stay")
    ] = None


class ClusteredModes(Refreshed):
    """Codes of the clusters that a strategy finds in representations of a reservoir of tasks, again and again."""

    kind: Annotated[Literal["clustered"], ModesKind] = "clustered"
    strategy: Annotated[Strategy, Field(description="how clusters are found")] = "dirichlet-process-mixture"
    num_modes: Annotated[
        int | None,
        Field(ge=1, le=4096, description="clusters, 1..4096; the most (None: 32) where a strategy finds their number"),
    ] = None
    representation: Annotated[
        Literal["statistics", "embedding", "gradient", "adapted"],
        Field(
            description="what is clustered: support statistics, the encoder's embedding, the support gradient"
            " at the shared prior mean, or adapted parameters"
        ),
    ] = "statistics"
    assignment: Annotated[
        Literal["soft", "hard"], Field(description="a cluster's probability in the gate, or the likeliest alone")
    ] = "soft"
    trust: Annotated[
        float, Field(ge=0, le=1, description="weight of a soft gate's density beside the evidence, 0..1")
    ] = 0.1
    code_size: CodeSize = 32
    concentration: Annotated[
        float | None, Field(gt=0, le=1e6, description="of dirichlet-process-mixture alone; None: its own choice")
    ] = None
    min_cluster_size: Annotated[
        int | None, Field(ge=2, le=10**6, description="tasks, of hdbscan alone; None: its own choice")
    ] = None
    radius: Annotated[
        float | None, Field(gt=0, le=1e6, description="of a cluster, of dp-means alone; None: its own choice")
    ] = None


Modes = Annotated[
    CodebookModes | ClusteredModes | EmbeddingModes | SingleMode | OracleModes, Field(discriminator="kind")
]
