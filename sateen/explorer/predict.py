"""Accuracy of formats, recipe and pattern that were not measured yet, predicted from those that were.

A Gaussian process over what a network in codes depends on. A format is the decibels that it leaves of a normal
distribution, so that integers and minifloats lie on one axis.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from sateen.formats import parse_format, parse_sparsity

Network = tuple[str, ...]
"""`Candidate.network`: format of weights, of activations, recipe, pattern, patterns of layers, channels."""
STEP_DB = 10.0
"""Decibels, nearly two bits, over which accuracy is alike."""
ENOUGH_DB = 40.0
"""Beyond which formats differ no more."""
CHANNELS = 2.0
"""By how much a removed half of the channels is further from the whole network than a removed half of the weights."""
NOISE = 0.03
"""Of what was measured, as a share of its spread: formats of equal decibels are not equal."""


class Predictor:
    """Mean and standard deviation of a metric for networks in codes.

    Parameters
    ----------
    known : mapping
        The metric of networks that were measured, at least one.
    """

    def __init__(self, known: Mapping[Network, float]) -> None:
        values = np.array(list(known.values()), float)
        self._networks = tuple(known)
        self._mean, self._spread = float(values.mean()), float(values.std()) or 1.0
        self._inverse = np.linalg.inv(alike(self._networks, self._networks) + NOISE * np.eye(len(values)))
        self._weights = self._inverse @ ((values - self._mean) / self._spread)

    def __call__(self, networks: Sequence[Network]) -> tuple[np.ndarray, np.ndarray]:
        """(N,) means and (N,) standard deviations."""
        between = alike(networks, self._networks)
        variance = 1.0 + NOISE - ((between @ self._inverse) * between).sum(1)
        mean = self._mean + self._spread * (between @ self._weights)
        return mean, self._spread * np.sqrt(np.maximum(variance, 0.0))


def alike(a: Sequence[Network], b: Sequence[Network]) -> np.ndarray:
    """(A, B) correlations, 0 to 1: of what is near in decibels, density and channels, half where recipes or layers
    differ."""
    place = [np.array([_place(n) for n in networks]) for networks in (a, b)]
    apart = ((place[0][:, None] - place[1][None]) ** 2).sum(2)
    same = np.array([[x[2] == y[2] and x[4] == y[4] for y in b] for x in a])
    return np.asarray(np.exp(-0.5 * apart) * np.where(same, 1.0, 0.5))


@functools.cache
def _place(network: Network) -> tuple[float, ...]:
    weights, activations, _, sparsity, _, cut = network
    w, a = (min(decibels(name), ENOUGH_DB) / STEP_DB for name in (weights, activations))
    channels = json.loads(cut)[0] if cut else 1.0
    return w, a, math.log2(parse_sparsity(sparsity).density), CHANNELS * math.log2(channels)


@functools.cache
def decibels(name: str) -> float:
    """Signal to noise of a normal distribution in a format, with the scale that serves it best."""
    fmt = parse_format(name)
    signal = np.array([NormalDist().inv_cdf((i + 0.5) / 512) for i in range(512)])
    if fmt.min >= 0:
        signal = np.abs(signal)
    best = 0.0
    for sigmas in np.geomspace(0.5, 4.2, 16):
        unit = max(fmt.max, -fmt.min) / sigmas
        noise = signal - fmt.decode(fmt.encode(np.clip(signal * unit, fmt.min, fmt.max))) / unit
        best = max(best, 10 * math.log10(float((signal**2).sum() / max(float((noise**2).sum()), 1e-12))))
    return best
