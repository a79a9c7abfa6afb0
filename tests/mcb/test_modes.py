"""Mode definitions: their codes and their gates."""

import math
from typing import cast

import pytest
import torch
from jaxtyping import config
from small_learners import adaptive_codebook, clustered
from torch import Tensor

from mcb.modes.clustered import Clustered
from mcb.modes.codebook import Codebook, Gate
from mcb.modes.definition import ModeDefinition
from mcb.modes.embedding import Embedding
from mcb.modes.oracle import Oracle
from mcb.modes.single import Single

UNKNOWN = torch.tensor(-1)


def embedding(seed: int = 0) -> Tensor:
    return torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def codebook(gate: Gate) -> Codebook:
    """Four codes whose learned weights are far from even."""
    modes = Codebook(4, code_size=3, gate=gate, embedding_size=None if gate == "weights" else 6).double()
    if modes.log_weights is not None:
        torch.nn.init.normal_(modes.log_weights)
    return modes


ALL: list[ModeDefinition] = [
    Single(3).double(),
    Oracle(4, 3).double(),
    Embedding(),
    codebook("weights"),
    codebook("encoder"),
    codebook("both"),
    adaptive_codebook(),
    clustered("soft"),
    clustered("hard"),
]


@pytest.mark.parametrize("modes", ALL, ids=lambda modes: type(modes).__name__ + getattr(modes, "gate", ""))
def test_gate_is_a_distribution_over_as_many_modes_as_there_are_codes(modes):
    given = embedding()[: 3 if isinstance(modes, Clustered) else 6] if modes.needs_embedding else None
    log_gate = modes.log_gate(given, torch.tensor(2))
    assert log_gate.shape == (modes.num_modes,) == modes.codes(given).shape[:1]
    torch.testing.assert_close(log_gate.logsumexp(0), torch.zeros((), dtype=torch.float64))
    assert modes.has_shared_codes == (not isinstance(modes, Embedding))


def test_single_has_one_code_for_every_task():
    modes = Single(3)
    assert modes.codes(None).shape == (1, 3) and modes.codes(None) is modes.code
    assert [name for name, _ in modes.named_parameters()] == ["code"]


def test_oracle_opens_the_gate_of_the_true_mode_alone():
    modes = Oracle(3, code_size=2)
    for true in range(3):
        expected = [0.0 if mode == true else -math.inf for mode in range(3)]
        assert modes.log_gate(None, torch.tensor(true)).tolist() == expected
    assert modes.needs_mode and modes.codes(None) is modes.table


def test_embedding_is_its_own_code():
    given = embedding().requires_grad_()
    assert torch.equal(Embedding().codes(given), given[None])
    Embedding().codes(given).square().sum().backward()
    assert given.grad is not None and given.grad.all()
    assert not list(Embedding().parameters())


def test_codebook_gates_are_learned_weights_the_encoders_softmax_or_their_product():
    modes = codebook("both")
    assert modes.log_weights is not None and modes.from_embedding is not None
    weights = modes.log_weights.softmax(0)
    seen = modes.from_embedding(embedding()).softmax(0)
    torch.testing.assert_close(modes.log_gate(embedding(), UNKNOWN).exp(), weights * seen / (weights * seen).sum())

    alone = codebook("weights")
    assert alone.log_weights is not None and alone.from_embedding is None and not alone.needs_embedding
    torch.testing.assert_close(alone.log_gate(None, UNKNOWN).exp(), alone.log_weights.softmax(0))

    encoder = codebook("encoder")
    assert encoder.log_weights is None and encoder.from_embedding is not None and encoder.needs_embedding
    torch.testing.assert_close(
        encoder.log_gate(embedding(), UNKNOWN).exp(), encoder.from_embedding(embedding()).softmax(0)
    )


def test_codebook_starts_with_even_weights_and_codes_apart():
    modes = Codebook(8, code_size=5)
    torch.testing.assert_close(modes.log_gate(None, UNKNOWN).exp(), torch.full((8,), 1 / 8))
    assert torch.pdist(modes.codes(None)).min() > 0.1


@pytest.mark.parametrize("modes", [codebook("weights"), codebook("encoder"), codebook("both"), Single(3), Embedding()])
def test_none_but_the_oracle_reads_the_true_mode(modes):
    given = embedding() if modes.needs_embedding else None
    assert torch.equal(modes.log_gate(given, UNKNOWN), modes.log_gate(given, torch.tensor(3))) and not modes.needs_mode


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Oracle(0, code_size=2), r"num_modes=0 must be at least 1"),
        (lambda: Codebook(-2, code_size=2), r"num_modes=-2 must be at least 1"),
        (
            lambda: Codebook(2, code_size=2, gate="encoder"),
            r"gate='encoder' reads the task encoder: give its embedding_size",
        ),
        (lambda: Codebook(2, code_size=2, gate="both"), r"gate='both' reads the task encoder: give its embedding_size"),
        (
            lambda: Codebook(2, code_size=2, gate=cast("Gate", "wheight")),
            r"gate='wheight' must be one of weights, encoder, both",
        ),
    ],
)
def test_bad_input_is_refused_with_the_remedy(build, message):
    config.update("jaxtyping_disable", True)  # as users run it: without the annotations' checks
    try:
        with pytest.raises(ValueError, match=message):
            build()
    finally:
        config.update("jaxtyping_disable", False)
