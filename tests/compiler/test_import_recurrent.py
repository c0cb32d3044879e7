"""LSTM, GRU and RNN against ONNX Runtime, and what is refused of them."""

import numpy as np
import pytest
from onnx_nets import Net, compare

from sateen.compiler.importer import import_model
from sateen.compiler.quantize import calibrate, quantize
from sateen.errors import ModelError
from sateen.ir.nodes import Conv
from sateen.sim.reference import quantize_inputs, reference_codes, run_reference

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def cell(
    net,
    kind,
    x,
    features,
    hidden,
    directions=1,
    *,
    bias=True,
    h="",
    c="",
    lengths="",
    outputs=None,
    **attributes,
):
    gates = GATES[kind]
    w, r = net.random(directions, gates * hidden, features), net.random(directions, gates * hidden, hidden)
    b = net.random(directions, 2 * gates * hidden) if bias else ""
    inputs = [x, w, r, b, lengths, h, c][: 7 if kind == "LSTM" else 6]
    while not inputs[-1]:
        inputs.pop()
    return net(
        kind, *inputs, outputs=outputs or (3 if kind == "LSTM" else 2), hidden_size=hidden, **attributes
    )


def every_result(net, y, kind):
    return net.output(y, f"{y}_1", *([f"{y}_2"] if kind == "LSTM" else []))


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("layout", [0, 1])
def test_directions(kind, direction, layout):
    """Layout 1 is defined, but not in ONNX Runtime: transposed there."""
    net = Net()
    directions = 1 + (direction == "bidirectional")
    x = net.input(*((1, 4, 3) if layout else (4, 1, 3)))
    x = net("Transpose", x, perm=[1, 0, 2]) if layout else x
    y = cell(net, kind, x, 3, 5, directions, direction=direction)
    compare(every_result(net, y, kind))


@pytest.mark.parametrize("kind", GATES)
def test_first_states(kind):
    for constant in (True, False):
        net = Net()
        x = net.input(4, 1, 3)
        h, c = (net.random(2, 1, 5) if constant else net.input(2, 1, 5, name=name) for name in ("h", "c"))
        if kind != "LSTM":
            if not constant:
                net.inputs.pop()
            c = ""
        y = cell(net, kind, x, 3, 5, 2, h=h, c=c, direction="bidirectional")
        compare(every_result(net, y, kind))


@pytest.mark.parametrize("inside", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_where_the_reset_gate_is(inside, bias):
    net = Net()
    y = cell(net, "GRU", net.input(4, 1, 3), 3, 5, bias=bias, linear_before_reset=inside)
    compare(every_result(net, y, "GRU"))


@pytest.mark.parametrize(
    ("names", "alpha", "beta"),
    [
        (["HardSigmoid", "Softsign", "Relu"], [0.3], [0.4]),
        (["Sigmoid", "ScaledTanh", "LeakyRelu"], [1.2, 0.1], [0.7]),
        (["Sigmoid", "Affine", "Elu"], [0.5, 1.1], [0.1]),
        (["Softplus", "ThresholdedRelu", "Tanh"], [0.2], []),
    ],
)
def test_activations(names, alpha, beta):
    net = Net()
    attributes = {"activations": names, "activation_alpha": alpha, "activation_beta": beta}
    y = cell(net, "LSTM", net.input(3, 1, 3), 3, 4, **{k: v for k, v in attributes.items() if v})
    compare(every_result(net, y, "LSTM"))


def test_clip():
    for kind in ("LSTM", "GRU", "RNN"):
        net = Net()
        y = cell(net, kind, net.input(3, 1, 3), 3, 4, clip=0.25)
        compare(every_result(net, y, kind))


def test_two_layers_and_a_head():
    """As torch exports them: the batch first outside."""
    net = Net()
    x = net("Transpose", net.input(1, 6, 3), perm=[1, 0, 2])
    y = net(
        "Squeeze", cell(net, "GRU", x, 3, 4, linear_before_reset=1), net.constant(np.array([1], np.int64))
    )
    y = cell(net, "LSTM", y, 4, 5, 2, direction="bidirectional")
    y = net("Reshape", net("Transpose", y, perm=[0, 2, 1, 3]), net.constant(np.array([0, 0, -1], np.int64)))
    last = net("Gather", net("Transpose", y, perm=[1, 0, 2]), net.constant(np.array(5, np.int64)), axis=1)
    compare(net.output(net("Gemm", last, net.random(10, 4), net.random(4))))


def test_steps_share_weights_and_scales():
    net = Net()
    graph = import_model(net.output(cell(net, "LSTM", net.input(4, 1, 3), 3, 5, outputs=1)).model())
    of_state = [n for n in graph.nodes if isinstance(n, Conv) and ".h_gates." in n.name]
    assert len(of_state) == 3 and all((n.weight == of_state[0].weight).all() for n in of_state)
    assert sum(isinstance(n, Conv) and n.input == "x" for n in graph.nodes) == 2  # all steps at once
    (states,) = (t for t in graph.ties if any(".h.3" in name for name in t))
    assert len(states) >= 4


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("activations", ["int8", "e4m3"])
def test_a_state_comes_back_as_it_left(kind, activations):
    """One step at a time, states being inputs and outputs: the codes of the next call are those of the last."""
    names = ("h", "c")[: 1 + (kind == "LSTM")]
    net = Net()
    x = net.input(1, 1, 3)
    states = {s: net.input(1, 1, 5, name=s) for s in names}
    graph = import_model(every_result(net, cell(net, kind, x, 3, 5, **states), kind).model())
    rng = np.random.default_rng(0)

    def some(count):
        shapes = {"x": (1, 3)} | dict.fromkeys(names, (1, 5))
        return {k: np.tanh(rng.normal(0, 1, (count, *s))).astype(np.float32) for k, s in shapes.items()}

    qgraph = quantize(graph, calibrate(graph, some(64)), weight_format="int8", activation_format=activations)
    given, results = some(4), [o for o in qgraph.outputs if "_" in o.port.name]
    for _ in range(3):
        left = reference_codes(qgraph, given)
        found = run_reference(qgraph, given)
        given = some(4) | {
            s: found[o.port.name].reshape(4, 1, 5) for s, o in zip(names, results, strict=True)
        }
        back = quantize_inputs(qgraph, given)
        for s, o in zip(names, results, strict=True):
            assert (back[s] == left[o.tensor]).all()


REFUSED = {
    "peepholes": (lambda n: n("LSTM", n.input(4, 1, 3), n.random(1, 8, 3), n.random(1, 8, 2), "", "", "", "",
                              n.random(1, 6), hidden_size=2), "peepholes"),
    "coupled": (lambda n: cell(n, "LSTM", n.input(4, 1, 3), 3, 2, input_forget=1), "input_forget"),
    "short": (lambda n: cell(n, "GRU", n.input(4, 1, 3), 3, 2, lengths=n.constant(np.array([3], np.int32))), "3"),
    "activation": (lambda n: cell(n, "RNN", n.input(4, 1, 3), 3, 2, activations=["Cosine"]), "activation 'Cosine'"),
    "shape": (lambda n: n("RNN", n.input(4, 1, 3), n.random(1, 2, 4), n.random(1, 2, 2), hidden_size=2), "must be"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    build, words = REFUSED[case]
    net = Net()
    net.output(build(net))
    with pytest.raises(ModelError, match=words):
        import_model(net.model())


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("along", ["rows", "columns"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_sequences_side_by_side(kind, along, direction):
    """Each row of a plane, or each column, is a sequence: networks of two paths, Sequencer."""
    net = Net()
    directions = 1 + (direction == "bidirectional")
    x = net("Relu", net.conv(net.input(1, 3, 4, 5), 3, 6, 1, 1))
    order = [2, 0, 3, 1] if along == "rows" else [3, 0, 2, 1]
    steps, lines = (4, 5) if along == "rows" else (5, 4)
    x = net("Reshape", net("Transpose", x, perm=order), net.constant([steps, lines, 6], np.int64))
    h = net.constant(
        np.broadcast_to(net.rng.normal(0, 0.5, (directions, 1, 5)), (directions, lines, 5)), np.float32
    )
    c = h if kind == "LSTM" else ""
    y = cell(net, kind, x, 6, 5, directions, direction=direction, h=h, c=c)
    back = net("Reshape", y, net.constant([steps, directions, 1, lines, 5], np.int64))
    back = net(
        "Reshape", net("Transpose", back, perm=[2, 1, 4, 0, 3]), net.constant([1, -1, steps, lines], np.int64)
    )
    every_result(net, y, kind)
    compare(net.output(net.conv(back, directions * 5, 3, 1, 1)))
