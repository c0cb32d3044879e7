"""Keyword spotters with a recurrent layer: 49 frames of 10 MFCCs, 64 units, 12 words.

Ref: Zhang et al., Hello Edge: Keyword Spotting on Microcontrollers, arXiv 1711.07128, whose LSTM and GRU they are like.
"""

from __future__ import annotations

import numpy as np
import onnx

from sateen.models.network_builder import NetworkBuilder

FRAMES, FEATURES, UNITS, WORDS = 49, 10, 64, 12


def keyword_lstm(seed: int = 0) -> onnx.ModelProto:
    return _spotter("keyword_lstm", "LSTM", 4, seed)


def keyword_gru(seed: int = 0) -> onnx.ModelProto:
    return _spotter("keyword_gru", "GRU", 3, seed, linear_before_reset=1)


def _spotter(name: str, kind: str, gates: int, seed: int, **attributes: int) -> onnx.ModelProto:
    """Batch first outside, time first inside, and a layer that reads the last state: as torch exports it."""
    b = NetworkBuilder(np.random.default_rng(seed))
    x = b.node("Transpose", "time_first", [b.input("mfcc", FRAMES, FEATURES)], perm=[1, 0, 2])
    weights = [
        b.constant(f"{kind}.{part}", (b.rng.normal(0, deviation, shape)).astype(np.float32))
        for part, deviation, shape in (
            ("weight", FEATURES**-0.5, (1, gates * UNITS, FEATURES)),
            ("recurrent", UNITS**-0.5, (1, gates * UNITS, UNITS)),
            ("bias", 0.05, (1, 2 * gates * UNITS)),
        )
    ]
    results = ["states", "last", "cell"] if kind == "LSTM" else ["states", "last"]
    b.node(kind, kind.lower(), [x, *weights], results, hidden_size=UNITS, **attributes)
    y = b.node("Squeeze", "vector", ["last", b.constant("first", np.array([0]))])
    b.shapes[y], b.power[y] = (UNITS,), 0.2
    b.linear("logits", y, WORDS)
    return b.model(name, "logits")
