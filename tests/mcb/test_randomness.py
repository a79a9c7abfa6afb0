"""The counter-based streams against SplitMix64 in Python integers, and their statistics (error rates under 1e-6)."""

import math

import pytest
import torch

from mcb.randomness import fold_in, fold_key, normals, uniforms

WORD = 2**64
GOLDEN = 0x9E3779B97F4A7C15


def splitmix(z: int) -> int:
    z %= WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def words(key: int, index: int, num: int) -> list[int]:
    state = splitmix(index * GOLDEN + key)
    return [splitmix(state + counter * GOLDEN) for counter in range(1, num + 1)]


def test_the_oracle_is_splitmix64():
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]  # the generator seeded with 0
    assert [splitmix(counter * GOLDEN) for counter in (1, 2, 3)] == published


@pytest.mark.parametrize("key", [0, 1, 2**63 - 1, fold_key(0, "test")])
@pytest.mark.parametrize("index", [0, 1, 12345, 2**40])
def test_uniforms_are_the_top_52_bits_of_splitmix64(key: int, index: int):
    expected = [((word >> 12) + 0.5) / 2**52 for word in words(key, index, 4)]
    assert uniforms(key, torch.tensor([index]), 4).tolist() == [expected]


@pytest.mark.parametrize("num", [1, 4, 5])
def test_normals_are_box_and_mullers_of_both_halves_of_a_word(num: int):
    key, index = fold_key(0, "noise"), 7
    halves = [(((word >> 32) + 0.5) / 2**32, (word % 2**32) / 2**32) for word in words(key, index, (num + 1) // 2)]
    cosines = [math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v) for u, v in halves]
    sines = [math.sqrt(-2 * math.log(u)) * math.sin(2 * math.pi * v) for u, v in halves]
    expected = torch.tensor((cosines + sines)[:num])
    torch.testing.assert_close(normals(key, torch.tensor([index]), num)[0], expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("draw", [uniforms, normals])
def test_a_row_depends_on_its_key_and_index_alone(draw):
    together = draw(3, torch.arange(100), 6)
    some = torch.tensor([99, 4, 4, 50])
    assert torch.equal(draw(3, some, 6), together[some])
    assert not torch.equal(draw(4, some, 6), together[some])


def test_more_uniforms_extend_a_row():
    assert torch.equal(uniforms(3, torch.arange(9), 8)[:, :5], uniforms(3, torch.arange(9), 5))


@pytest.mark.parametrize(
    ("draw", "cdf"), [(uniforms, lambda u: u), (normals, lambda z: torch.special.ndtr(z.double()))]
)
def test_draws_follow_their_distribution(draw, cdf):
    draws = cdf(draw(fold_key(1, "x"), torch.arange(20_000), 5)).flatten().sort().values
    ranks = (torch.arange(len(draws)).double() + 0.5) / len(draws)
    kolmogorov_smirnov = (draws - ranks).abs().max() * len(draws) ** 0.5
    assert kolmogorov_smirnov < 2.7  # 2 exp(-2 * 2.7**2) = 1e-6


@pytest.mark.parametrize("draw", [uniforms, normals])
def test_columns_neighbouring_indices_and_neighbouring_keys_are_uncorrelated(draw):
    rows = draw(8, torch.arange(20_000), 4).double()
    columns = torch.cat([rows[:-1], rows[1:], draw(9, torch.arange(19_999), 4).double()], dim=1)
    correlation = torch.corrcoef(columns.T) - torch.eye(12)
    assert correlation.abs().max() < 5.5 / 19_999**0.5  # 66 pairs, 5.5 standard deviations: 2.5e-6


def test_keys_differ_by_seed_path_type_and_depth():
    paths = [(0,), (1,), (0, "train"), (0, "test"), (0, 1), (0, "1"), (0, 1, 2), (0, 12), (1, "train")]
    keys = {fold_key(*path) for path in paths}
    assert len(keys) == len(paths)
    assert all(0 <= key < 2**63 for key in keys)


def test_keys_are_the_same_in_every_process():
    assert fold_key(0, "test") == 1016066891826049081


def test_fold_in_gives_the_stream_of_its_path():
    draws = [torch.rand(3, generator=fold_in(0, path)) for path in ("a", "a", "b")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
