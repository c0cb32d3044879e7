"""What ONNX Runtime's optimizer makes of several operators, against ONNX Runtime."""

import numpy as np
import pytest
from onnx_nets import Net, compare

from sateen.compiler.importer import import_model
from sateen.errors import ModelError

OURS = {"domain": "com.microsoft"}


def projected(net: Net, x: str, inputs: int = 8, outputs: int = 8) -> str:
    return net("MatMul", x, net.random(inputs, outputs))


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [("Relu", []), ("Tanh", []), ("LeakyRelu", [0.2]), ("HardSigmoid", [0.3, 0.4]), ("Clip", [-0.5, 1.0])],
)
@pytest.mark.parametrize("added", [False, True])
def test_convolutions_with_what_follows(activation, parameters, added):
    net = Net()
    x = net.input(1, 3, 6, 5)
    other = [net.conv(x, 3, 4, 1, 1)] if added and activation == "Relu" else []
    more = {"activation_params": parameters} if parameters else {}
    y = net(
        "FusedConv", x, net.random(4, 3, 3, 3), net.random(4), *other, activation=activation, pads=[1] * 4,
        **more, **OURS,
    )  # fmt: skip
    compare(net.output(y))


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu"])
def test_products_with_what_follows(activation):
    net = Net()
    more = {"activation_alpha": 0.2} if activation == "LeakyRelu" else {}
    y = net(
        "FusedGemm", net.input("N", 6), net.random(4, 6), net.random(4), transB=1, alpha=0.5,
        activation=activation, **more, **OURS,
    )  # fmt: skip
    compare(net.output(y))


@pytest.mark.parametrize("turned", [(0, 0), (1, 0), (0, 1)])
def test_products_with_a_factor(turned):
    net = Net()
    x = net.input(1, 6, 6)
    a, b = projected(net, x, 6, 6), projected(net, x, 6, 6)
    y = net("FusedMatMul", a, b, alpha=0.125, transA=turned[0], transB=turned[1], **OURS)
    compare(net.output(projected(net, y, 6, 3)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_heads(bias, mask):
    net = Net()
    x, other = net.input(1, 5, 8), net.input(1, 7, 8, name="y")
    given = [projected(net, x), projected(net, other), projected(net, other)]
    given.append(net.random(24) if bias else "")
    if mask:
        given += ["", net.random(1, 2, 5, 7)]
    compare(net.output(projected(net, net("MultiHeadAttention", *given, num_heads=2, **OURS))))


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("sizes", [None, [8, 8, 12]])
def test_heads_of_one_input(causal, sizes):
    net = Net()
    total = sum(sizes or [24])
    more = {"qkv_hidden_sizes": sizes} if sizes else {}
    y = net(
        "Attention", net.input(1, 5, 8), net.random(8, total), net.random(total), num_heads=2,
        unidirectional=causal, **more, **OURS,
    )  # fmt: skip
    compare(net.output(projected(net, y, sizes[2] if sizes else 8)))


def codes(net: Net, *shape: int, kind: type = np.int8) -> str:
    low, high = np.iinfo(kind).min, np.iinfo(kind).max + 1
    return net.constant(net.rng.integers(low, high, shape), kind)


@pytest.mark.parametrize("channels", [False, True])
def test_lstm_of_codes(channels):
    """ONNX Runtime rounds the input and the state of each step to 8 bits."""
    net = Net()
    x, d, hidden = net.input(4, 1, 3), 2, 5
    lstm = [x, codes(net, d, 3, 4 * hidden), codes(net, d, hidden, 4 * hidden), net.random(d, 8 * hidden)]
    per = (d, 4 * hidden) if channels else (d,)
    scale, zero = net.constant(np.full(per, 0.004), np.float32), net.constant(np.zeros(per), np.int8)
    y = net(
        "DynamicQuantizeLSTM", *lstm, "", "", "", "", scale, zero, scale, zero, hidden_size=hidden,
        direction="bidirectional", **OURS,
    )  # fmt: skip
    compare(net.output(y), tolerance=0.02)


def test_heads_of_codes():
    net = Net()
    scale, zero = net.constant(np.float32(0.02)), net.constant(np.uint8(125))
    x = net("QuantizeLinear", net.input(1, 5, 8), scale, zero)
    weight, own = codes(net, 8, 24), net.constant(np.float32(0.01))
    y = net(
        "QAttention",
        x,
        weight,
        net.random(24),
        scale,
        own,
        "",
        zero,
        net.constant(np.int8(0)),
        num_heads=2,
        **OURS,
    )
    compare(net.output(y), tolerance=1e-3)


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (
            lambda n: n("FusedConv", n.input(1, 3, 4, 4), n.random(4, 3, 1, 1), activation="Erf", **OURS),
            "activation 'Erf'; use Relu",
        ),
        (
            lambda n: n(
                "MultiHeadAttention", *[n.input(1, 5, 8)] * 3, "", n.constant([5], np.int32), num_heads=2, **OURS
            ),
            "it has a mask of keys",
        ),
        (
            lambda n: n("FusedMatMul", *[n.input(1, 4, 4)] * 2, transBatchA=1, **OURS),
            "a factor's batch changes places",
        ),
    ],
)  # fmt: skip
def test_refused(net, words):
    n = Net()
    n.output(net(n))
    with pytest.raises(ModelError, match=words):
        import_model(n.model())
