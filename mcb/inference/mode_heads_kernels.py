"""`mode_heads` compiled: a tile of `LANES` tasks under one mode, whose prior all of them share.

Everything over tasks is laid out in tiles, `(..., B, LANES)`: a mode's features `(H, N, B, LANES)` are the rows of one
matrix product, and nothing has to be moved on the way in or out. Single numbers of a mode are scalars. Sums run in a
fixed order, so a machine always gives the same bits.
"""

import math

import numpy as np
from numba import njit

from mcb.inference.lanes import LANES, add_product, compiled, invert, set_lanes

_LOG_2PI = math.log(2 * math.pi)


@compiled
def forward(
    rounding, mean, scale, bias_mean, bias_variance, noise_variance, features, y, present,
    log_evidence, prediction, variance, precision, weights,
):  # fmt: skip
    """Writes the last five, led by `M` modes: `(B, L)`, `(Q, B, L)` twice, `(S, S, B, L)`, `(S, B, L)`."""
    M, H, N, B, _ = features.shape
    S, dtype = y.shape[0], features.dtype
    design, predicted = np.empty((N, H, LANES), dtype), np.empty((N, LANES), dtype)
    a, cross, (column, row) = np.empty((S, S, LANES)), np.empty((S, LANES)), np.empty((2, S, LANES))
    residual, w, (log_det, total) = np.empty((S, LANES)), np.empty((S, LANES)), np.empty((2, LANES))
    for m in range(M):
        for b in range(B):
            _designs(features[m], b, scale[m], design)
            _prior_predictions(features[m], b, mean[m], bias_mean[m], predicted)
            _gram(design, bias_variance[m], noise_variance[m], rounding, present, b, total, a)
            log_det[:] = 0.0
            invert(a, log_det, column, row, total)
            for i in range(S):
                for k in range(LANES):
                    residual[i, k] = (y[i, b, k] - predicted[i, k]) * present[i, b, k]
            for i in range(S):
                w[i] = 0.0
                for j in range(S):
                    for k in range(LANES):
                        a[i, j, k] *= present[i, b, k] * present[j, b, k]
                        precision[m, i, j, b, k] = a[i, j, k]
                        w[i, k] += a[i, j, k] * residual[j, k]
                for k in range(LANES):
                    weights[m, i, b, k] = w[i, k]
                    log_det[k] += residual[i, k] * w[i, k] + present[i, b, k] * _LOG_2PI
            for k in range(LANES):
                log_evidence[m, b, k] = -0.5 * log_det[k]
            for q in range(N - S):
                _query(design, S + q, bias_variance[m], a, w, cross, total, prediction[m, q, b], variance[m, q, b])
                for k in range(LANES):
                    prediction[m, q, b, k] += predicted[S + q, k]


@njit(inline="always")
def _designs(features, b, scale, design):
    """Features of the tile `b` times the prior's scale, points before features."""
    for n in range(design.shape[0]):
        for h in range(design.shape[1]):
            for k in range(LANES):
                design[n, h, k] = features[h, n, b, k] * scale[h]


@njit(inline="always")
def _prior_predictions(features, b, mean, bias_mean, predicted):
    for n in range(predicted.shape[0]):
        for k in range(LANES):
            predicted[n, k] = bias_mean
        for h in range(features.shape[0]):
            for k in range(LANES):
                predicted[n, k] += features[h, n, b, k] * mean[h]


@njit(inline="always")
def _covariance(design, other, bias_variance, total):
    """Prior covariance of the outputs at two designs `(H, LANES)`; three features at a time spare memory."""
    odd = design.shape[0] % 3
    for k in range(LANES):
        total[k] = bias_variance
    for h in range(odd):
        for k in range(LANES):
            total[k] += design[h, k] * other[h, k]
    for h in range(odd, design.shape[0], 3):
        for k in range(LANES):
            total[k] += (
                design[h, k] * other[h, k]
                + design[h + 1, k] * other[h + 1, k]
                + design[h + 2, k] * other[h + 2, k]
            )  # fmt: skip


@njit(inline="always")
def _gram(design, bias_variance, noise_variance, rounding, present, b, trace, a):
    """The Gram matrix of the support points with noise and rounding on its diagonal; 1 there for absent points."""
    S = a.shape[0]
    total = np.empty(LANES, design.dtype)
    trace[:] = 0.0
    for i in range(S):
        for j in range(i + 1):
            _covariance(design[i], design[j], bias_variance, total)
            for k in range(LANES):
                a[i, j, k] = total[k] * present[i, b, k] * present[j, b, k]
                a[j, i, k] = a[i, j, k]
        for k in range(LANES):
            trace[k] += a[i, i, k]
    for i in range(S):
        for k in range(LANES):
            a[i, i, k] += present[i, b, k] * (noise_variance + rounding * trace[k]) + (1.0 - present[i, b, k])


@njit(inline="always")
def _query(design, n, bias_variance, a, w, cross, total, prediction, variance):
    """What the support set says of the point `n`: the shift of its prediction, and its variance without noise."""
    S = a.shape[0]
    covariance = np.empty(LANES, design.dtype)
    _covariance(design[n], design[n], bias_variance, covariance)
    for k in range(LANES):
        variance[k] = covariance[k]
        prediction[k] = 0.0
    for i in range(S):
        _covariance(design[i], design[n], bias_variance, covariance)
        for k in range(LANES):
            cross[i, k] = covariance[k]
            prediction[k] += cross[i, k] * w[i, k]
    for i in range(S):
        total[:] = 0.0
        for j in range(S):
            add_product(total, a[i, j], cross[j])
        for k in range(LANES):
            variance[k] -= total[k] * cross[i, k]


@compiled
def backward(
    mean, scale, bias_variance, features, precision, weights, to_evidence, to_prediction, to_variance,
    to_mean, to_scale, to_bias_mean, to_bias_variance, to_noise_variance, to_features, to_y,
):  # fmt: skip
    """Writes the last seven, sums over tasks but for those of features and of y, which is added to.

    The gradient of the kernel matrix comes first: its symmetric part among support points `to_gram`, between support
    and query points `to_cross`, and at query points the variance's own.
    """
    M, H, N, B, _ = features.shape
    S, dtype = weights.shape[1], features.dtype
    design, of_design = np.empty((N, H, LANES), dtype), np.empty((H, LANES), dtype)
    to_gram, to_cross = np.empty((S, S, LANES), dtype), np.empty((N - S, S, LANES), dtype)
    of_prediction, (of_mean, of_scale) = np.empty((N, LANES), dtype), np.empty((2, H, LANES), dtype)
    (a, gram), (w, by_weights) = np.empty((2, S, S, LANES)), np.empty((2, S, LANES))
    (of_mu, of_var), (of_bias, of_v, of_noise) = np.empty((2, N - S, LANES)), np.empty((3, LANES))
    for m in range(M):
        of_mean[:], of_scale[:], of_bias[:], of_v[:], of_noise[:] = 0.0, 0.0, 0.0, 0.0, 0.0
        for b in range(B):
            for i in range(S):
                for j in range(S):
                    set_lanes(a[i, j], precision[m, i, j, b])
                set_lanes(w[i], weights[m, i, b])
            for q in range(N - S):
                set_lanes(of_mu[q], to_prediction[m, q, b])
                set_lanes(of_var[q], to_variance[m, q, b])
            _designs(features[m], b, scale[m], design)
            _through_queries(design, bias_variance[m], a, w, of_mu, of_var, gram, by_weights, to_cross, of_v)
            _through_gram(a, w, to_evidence[m, b], gram, by_weights, to_gram, of_v, of_noise)
            for i in range(S):
                for k in range(LANES):
                    of_prediction[i, k] = to_evidence[m, b, k] * w[i, k] - by_weights[i, k]
                    to_y[i, b, k] -= of_prediction[i, k]
            for q in range(N - S):
                set_lanes(of_prediction[S + q], of_mu[q])
            for n in range(N):
                _of_design(n, design, to_gram, to_cross, of_var, of_design)
                for k in range(LANES):
                    of_bias[k] += of_prediction[n, k]
                for h in range(H):
                    for k in range(LANES):
                        feature = features[m, h, n, b, k]
                        of_scale[h, k] += of_design[h, k] * feature
                        of_mean[h, k] += of_prediction[n, k] * feature
                        to_features[m, h, n, b, k] = of_design[h, k] * scale[m, h] + of_prediction[n, k] * mean[m, h]
        for h in range(H):
            to_mean[m, h], to_scale[m, h] = of_mean[h].sum(), of_scale[h].sum()
        to_bias_mean[m], to_bias_variance[m], to_noise_variance[m] = of_bias.sum(), of_v.sum(), of_noise.sum()


@njit(inline="always")
def _through_queries(design, bias_variance, a, w, of_mu, of_var, gram, by_weights, to_cross, of_v):
    """Through the covariances of support and query points; begins `gram` and `by_weights`."""
    S = a.shape[0]
    cross, gain, covariance = np.empty((S, LANES)), np.empty((S, LANES)), np.empty(LANES, design.dtype)
    by_weights[:], gram[:] = 0.0, 0.0
    for q in range(of_mu.shape[0]):
        for i in range(S):
            _covariance(design[i], design[S + q], bias_variance, covariance)
            set_lanes(cross[i], covariance)
        gain[:] = 0.0
        for i in range(S):
            for j in range(S):
                add_product(gain[i], a[i, j], cross[j])
        for i in range(S):
            for k in range(LANES):
                by_weights[i, k] += gain[i, k] * of_mu[q, k]
                of_cross = w[i, k] * of_mu[q, k] - 2.0 * gain[i, k] * of_var[q, k]
                to_cross[q, i, k] = of_cross
                of_v[k] += of_cross
            for j in range(i + 1):
                for k in range(LANES):
                    gram[i, j, k] += gain[i, k] * gain[j, k] * of_var[q, k]
        for k in range(LANES):
            of_v[k] += of_var[q, k]


@njit(inline="always")
def _through_gram(a, w, evidence, gram, by_weights, to_gram, of_v, of_noise):
    """Through the Gram matrix of the support points: `to_gram` is twice its gradient, as the matrix is symmetric."""
    for i in range(a.shape[0]):
        for j in range(i + 1):
            times = 1.0 if i == j else 2.0
            for k in range(LANES):
                mixed = by_weights[i, k] * w[j, k] + by_weights[j, k] * w[i, k]
                gram[i, j, k] += 0.5 * (evidence[k] * (w[i, k] * w[j, k] - a[i, j, k]) - mixed)
                to_gram[i, j, k] = 2.0 * gram[i, j, k]
                to_gram[j, i, k] = to_gram[i, j, k]
                of_v[k] += times * gram[i, j, k]
        for k in range(LANES):
            of_noise[k] += gram[i, i, k]


@njit(inline="always")
def _of_design(n, design, to_gram, to_cross, of_var, of_design):
    """The gradient of the design of the point `n`."""
    S = to_gram.shape[0]
    of_design[:] = 0.0
    if n < S:
        for j in range(S):
            for h in range(of_design.shape[0]):
                add_product(of_design[h], to_gram[n, j], design[j, h])
        for q in range(to_cross.shape[0]):
            for h in range(of_design.shape[0]):
                add_product(of_design[h], to_cross[q, n], design[S + q, h])
    else:
        for h in range(of_design.shape[0]):
            for k in range(LANES):
                of_design[h, k] = 2.0 * of_var[n - S, k] * design[n, h, k]
        for i in range(S):
            for h in range(of_design.shape[0]):
                add_product(of_design[h], to_cross[n - S, i], design[i, h])
