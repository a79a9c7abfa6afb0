"""`linear_head` compiled: a few dozen problems at a time, one in each lane of the vector unit.

A tile of `LANES` problems is copied so that the lane `k` is the innermost axis, computed in the nearer caches and
copied back: everything is read and written once. Sums run in a fixed order, so a machine always gives the same bits.
"""

import math

import numpy as np
from numba import njit

from mcb.inference.lanes import LANES, add_product, compiled, invert, set_lanes

_LOG_2PI = math.log(2 * math.pi)


@njit(inline="always")
def _load(source, first, tile):
    """Problems `first..` of `(B, N)` as the lanes of a tile; behind the end the last problem is repeated."""
    last = source.shape[0] - 1
    for k in range(LANES):
        for i in range(tile.shape[0]):
            tile[i, k] = source[min(first + k, last), i]


@njit(inline="always")
def _load_rows(source, first, tile):
    """The same for `(B, N, M)`."""
    last = source.shape[0] - 1
    for k in range(LANES):
        for i in range(tile.shape[0]):
            for j in range(tile.shape[1]):
                tile[i, j, k] = source[min(first + k, last), i, j]


@njit(inline="always")
def _store(tile, first, target):
    for k in range(min(LANES, target.shape[0] - first)):
        for i in range(tile.shape[0]):
            target[first + k, i] = tile[i, k]


@njit(inline="always")
def _store_rows(tile, first, target):
    for k in range(min(LANES, target.shape[0] - first)):
        for i in range(tile.shape[0]):
            for j in range(tile.shape[1]):
                target[first + k, i, j] = tile[i, j, k]


@njit(inline="always")
def _covariance(total, design, other, bias_variance):
    """Prior covariance of the outputs at two designs `(H, LANES)`."""
    set_lanes(total, bias_variance)
    for h in range(design.shape[0]):
        add_product(total, design[h], other[h])


@compiled
def forward(
    rounding, mean, scale, bias_mean, bias_variance, features, y, noise_variance, mask,
    log_evidence, prediction, variance, precision, weights,
):  # fmt: skip
    """Writes the last five, `(B, 1)`, `(B, Q)` twice, `(B, S, S)` and `(B, S)`; single numbers come as `(B, 1)`."""
    count, N, H = features.shape
    S, Q, dtype = y.shape[1], prediction.shape[1], features.dtype
    design, total = np.empty((N, H, LANES), dtype), np.empty(LANES, dtype)
    (m, s), (b, v) = np.empty((2, H, LANES), dtype), np.empty((2, 1, LANES), dtype)
    a, (target, present, residual, w, cross, column, row) = np.empty((S, S, LANES)), np.empty((7, S, LANES))
    (mu, var), (noise, loss), (trace, pivot) = np.empty((2, Q, LANES)), np.empty((2, 1, LANES)), np.empty((2, LANES))
    for first in range(0, count, LANES):
        _load_rows(features, first, design)
        _load(mean, first, m)
        _load(scale, first, s)
        _load(bias_mean, first, b)
        _load(bias_variance, first, v)
        _load(y, first, target)
        _load(mask, first, present)
        _load(noise_variance, first, noise)
        for n in range(N):  # prior predictions; features become designs
            set_lanes(total, b[0])
            for h in range(H):
                for k in range(LANES):
                    total[k] += design[n, h, k] * m[h, k]
                    design[n, h, k] *= s[h, k]
            if n < S:
                for k in range(LANES):
                    residual[n, k] = (target[n, k] - total[k]) * present[n, k]
            else:
                set_lanes(mu[n - S], total)
        trace[:] = 0.0
        for i in range(S):
            for j in range(i + 1):
                _covariance(total, design[i], design[j], v[0])
                for k in range(LANES):
                    a[i, j, k] = total[k] * present[i, k] * present[j, k]
                    a[j, i, k] = a[i, j, k]
            for k in range(LANES):
                trace[k] += a[i, i, k]
        for i in range(S):
            for k in range(LANES):
                a[i, i, k] += present[i, k] * (noise[0, k] + rounding * trace[k]) + (1.0 - present[i, k])
        loss[:] = 0.0
        invert(a, loss[0], column, row, pivot)
        w[:] = 0.0
        for i in range(S):
            for j in range(S):
                for k in range(LANES):
                    a[i, j, k] *= present[i, k] * present[j, k]
                    w[i, k] += a[i, j, k] * residual[j, k]
            for k in range(LANES):
                loss[0, k] += residual[i, k] * w[i, k] + present[i, k] * _LOG_2PI
        for k in range(LANES):
            loss[0, k] *= -0.5
        for q in range(Q):
            _covariance(total, design[S + q], design[S + q], v[0])
            set_lanes(var[q], total)
            for i in range(S):
                _covariance(total, design[i], design[S + q], v[0])
                set_lanes(cross[i], total)
                add_product(mu[q], cross[i], w[i])
            for i in range(S):
                pivot[:] = 0.0
                for j in range(S):
                    add_product(pivot, a[i, j], cross[j])
                for k in range(LANES):
                    var[q, k] -= pivot[k] * cross[i, k]
        _store(loss, first, log_evidence)
        _store(mu, first, prediction)
        _store(var, first, variance)
        _store_rows(a, first, precision)
        _store(w, first, weights)


@compiled
def backward(
    mean, scale, bias_variance, features, precision, weights, to_evidence, to_prediction, to_variance,
    to_mean, to_scale, to_bias_mean, to_bias_variance, to_features, to_y, to_noise_variance,
):  # fmt: skip
    """Writes the last seven, given the gradients of evidence, prediction and variance."""
    count, N, H = features.shape
    S, Q, dtype = weights.shape[1], to_prediction.shape[1], features.dtype
    phi, design, of_design = np.empty((3, N, H, LANES), dtype)
    m, s, of_mean, of_scale = np.empty((4, H, LANES), dtype)
    v, total = np.empty((1, LANES), dtype), np.empty(LANES, dtype)
    of_gram, of_cross = np.empty((S, S, LANES), dtype), np.empty((S, LANES), dtype)
    (a, gram), (w, cross, gain, by_weights, residual) = np.empty((2, S, S, LANES)), np.empty((5, S, LANES))
    (of_mu, of_var), (evidence, of_bias, of_v, of_noise) = np.empty((2, Q, LANES)), np.empty((4, 1, LANES))
    for first in range(0, count, LANES):
        _load_rows(features, first, phi)
        _load(mean, first, m)
        _load(scale, first, s)
        _load(bias_variance, first, v)
        _load_rows(precision, first, a)
        _load(weights, first, w)
        _load(to_evidence, first, evidence)
        _load(to_prediction, first, of_mu)
        _load(to_variance, first, of_var)
        of_bias[:], of_v[:], of_noise[:] = 0.0, 0.0, 0.0
        of_mean[:], of_scale[:], of_design[:] = 0.0, 0.0, 0.0
        by_weights[:], gram[:] = 0.0, 0.0
        for n in range(N):
            for h in range(H):
                for k in range(LANES):
                    design[n, h, k] = phi[n, h, k] * s[h, k]
        for q in range(Q):  # through the covariances of support and query
            for i in range(S):
                _covariance(total, design[i], design[S + q], v[0])
                set_lanes(cross[i], total)
            gain[:] = 0.0
            for i in range(S):
                for j in range(S):
                    add_product(gain[i], a[i, j], cross[j])
            for i in range(S):
                for k in range(LANES):
                    by_weights[i, k] += gain[i, k] * of_mu[q, k]
                    to_cross = w[i, k] * of_mu[q, k] - 2.0 * gain[i, k] * of_var[q, k]
                    of_cross[i, k] = to_cross
                    of_v[0, k] += to_cross
                for j in range(i + 1):
                    for k in range(LANES):
                        gram[i, j, k] += gain[i, k] * gain[j, k] * of_var[q, k]
            for k in range(LANES):
                of_bias[0, k] += of_mu[q, k]
                of_v[0, k] += of_var[q, k]
                total[k] = 2.0 * of_var[q, k]
            for h in range(H):
                add_product(of_design[S + q, h], total, design[S + q, h])
            for i in range(S):
                for h in range(H):
                    for k in range(LANES):
                        of_design[S + q, h, k] += of_cross[i, k] * design[i, h, k]
                        of_design[i, h, k] += of_cross[i, k] * design[S + q, h, k]
        for i in range(S):  # through the Gram matrix and the residuals
            for j in range(i + 1):
                for k in range(LANES):
                    mixed = by_weights[i, k] * w[j, k] + by_weights[j, k] * w[i, k]
                    gram[i, j, k] += 0.5 * (evidence[0, k] * (w[i, k] * w[j, k] - a[i, j, k]) - mixed)
                    of_gram[i, j, k] = 2.0 * gram[i, j, k]
                    of_gram[j, i, k] = of_gram[i, j, k]
                    of_v[0, k] += gram[i, j, k] + (gram[i, j, k] if j < i else 0.0)
            for k in range(LANES):
                of_noise[0, k] += gram[i, i, k]
                residual[i, k] = by_weights[i, k] - evidence[0, k] * w[i, k]
                of_bias[0, k] -= residual[i, k]
        for i in range(S):
            for j in range(S):
                for h in range(H):
                    add_product(of_design[i, h], of_gram[i, j], design[j, h])
        for n in range(N):  # from designs and prior predictions to features and prior
            for k in range(LANES):
                total[k] = of_mu[n - S, k] if n >= S else -residual[n, k]
            for h in range(H):
                add_product(of_scale[h], of_design[n, h], phi[n, h])
                add_product(of_mean[h], total, phi[n, h])
                for k in range(LANES):
                    of_design[n, h, k] = of_design[n, h, k] * s[h, k] + total[k] * m[h, k]
        _store_rows(of_design, first, to_features)
        _store(of_mean, first, to_mean)
        _store(of_scale, first, to_scale)
        _store(residual, first, to_y)
        _store(of_bias, first, to_bias_mean)
        _store(of_v, first, to_bias_variance)
        _store(of_noise, first, to_noise_variance)
