from itertools import permutations

import numpy as np
import pytest

from cluster.buffer import GradientBuffer
from cluster.errors import UserError
from cluster.shards import GradientKey
from cluster.wire import encode

KEYS = tuple(GradientKey(2, index, 2) for index in range(4))


def gradients() -> list[np.ndarray]:
    """Of such different sizes that a sum in another order rounds differently."""
    draws = np.random.default_rng(0).standard_normal((4, 50))
    return list((draws * np.array([1e4, 1.0, 1e-3, 1e4])[:, None]).astype(np.float32))


def test_the_sum_has_the_same_bits_in_every_order_of_arrival_and_however_it_is_pieced():
    first, second, third, fourth = gradients()
    expected = ((first + second) + third) + fourth
    assert (((fourth + third) + second) + first).tobytes() != expected.tobytes()
    for order in permutations(range(4)):
        at_once, piecewise = GradientBuffer(50), GradientBuffer(50)
        here: set[int] = set()
        for index in order:
            for buffer in (at_once, piecewise):
                buffer.push(KEYS[index], gradients()[index])
            here.add(index)
            piecewise.add([key for key in KEYS if here >= set(range(key.index + 1))])
        at_once.add(KEYS)
        assert at_once.gradient.tobytes() == expected.tobytes() == piecewise.gradient.tobytes()
        assert at_once.waiting == piecewise.waiting == ()


def test_a_gradient_pushed_twice_counts_once_and_the_first_counts():
    buffer = GradientBuffer(50)
    buffer.push(KEYS[0], gradients()[0])
    buffer.push(KEYS[0], gradients()[1])
    buffer.add(KEYS[:1])
    assert buffer.gradient.tobytes() == gradients()[0].tobytes()


def test_the_next_sum_starts_anew_and_discarded_gradients_are_gone():
    buffer = GradientBuffer(50)
    for key, gradient in zip(KEYS, gradients(), strict=True):
        buffer.push(key, gradient)
    buffer.add(KEYS[:2])
    buffer.reset()
    buffer.discard([KEYS[2], KEYS[0]])
    buffer.add(KEYS[3:])
    assert buffer.gradient.tobytes() == gradients()[3].tobytes() and buffer.waiting == ()


def test_the_sum_of_bfloat16_gradients_is_float32():
    buffer = GradientBuffer(2)
    for key, value in zip(KEYS, (256.0, 1.0, 1.0, 1.0), strict=True):
        buffer.push(key, encode(np.full(2, value, np.float32), "bfloat16"))
    buffer.add(KEYS)
    assert buffer.gradient.tolist() == [259.0, 259.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_gradient_that_is_not_finite_is_named(bad: float):
    buffer = GradientBuffer(50)
    for key, gradient in zip(KEYS, gradients(), strict=True):
        if key.index in (1, 2):
            gradient[7] = bad
        buffer.push(key, gradient)
    buffer.add(KEYS)
    assert buffer.not_finite == 1


def test_a_gradient_of_another_length_is_refused():
    with pytest.raises(UserError, match="does not fit"):
        GradientBuffer(50).push(KEYS[0], np.zeros(49, np.float32))
