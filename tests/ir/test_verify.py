"""Every rule of the quantized graph: kept by what the compiler makes, and told in one line where it is broken."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sateen.compiler.quantize import network
from sateen.errors import BuildError, ModelError
from sateen.formats import parse_format, parse_sparsity
from sateen.formats.digits import Digits
from sateen.formats.rows import exponentials, fraction_bits
from sateen.ir.heads import Batch
from sateen.ir.pieces import Lattice, Piece
from sateen.ir.ports import Output, Port
from sateen.ir.quantized import (
    Arrange,
    BiasGradient,
    ComputedConv,
    Concat,
    Constant,
    Factor,
    Gate,
    Linear,
    MatMul,
    Maximum,
    MaxPool,
    Normalize,
    PoolGate,
    Quant,
    QuantizedGraph,
    QuantizedOp,
    Residual,
    Softmax,
    Stored,
    Tensor,
    WeightGradient,
)
from sateen.ir.serialize import from_bytes, to_bytes
from sateen.ir.verify import RULES, broken, verify

INT8, UINT4, E5M2 = (parse_format(name) for name in ("int8", "uint4", "e5m2"))
INT3, INT4, INT6 = (parse_format(f"int{bits}") for bits in (3, 4, 6))
QUANT = Quant(INT8, 0.5)


def linear(name: str, x: str, weight: np.ndarray, **fields) -> Linear:
    n = len(weight)
    made = Linear(
        name, x, name, Constant(weight.astype(np.uint8), INT8, np.ones(n)), np.zeros(n, np.int64),
        np.full(n, 3), np.full(n, 9), QUANT, -128, 127,
    )  # fmt: skip
    return replace(made, **fields)


def graph() -> QuantizedGraph:
    """x (4, 4, 8) -> conv -> pool; the larger of turn and what is kept; conv twice -> cat -> selection -> sum."""
    ones = np.ones((8, 1, 1, 8))
    conv = linear("conv", "x", ones, residual=Residual("x", 5, 4), table=np.arange(256, dtype=np.uint8))
    pool = MaxPool("pool", "conv", "pool", (2, 2), (2, 2))
    cat = Concat("cat", ("conv", "conv"), "cat")
    pick = linear("pick", "cat", np.ones((4, 1, 1, 2)), groups=4, channels=np.arange(8).reshape(4, 2))
    turned = (Piece(0, (4, 4), Lattice((0, 3), (1, 0), (0, -1)), Lattice((0, 0), (1, 0), (0, 1))),)
    turn = Arrange("turn", ("conv",), turned, "turn")
    same = (np.zeros(4, np.int64), np.full(4, 3), np.full(4, 9), QUANT, -128, 127)
    own = MatMul("own", "pick", "pick", "own", Batch(1, transposed=True), 4, *same)
    most = Maximum("most", ("kept", "turn"), "most")
    kept = Stored("kept", "kept", np.zeros((4, 4, 8), np.uint8))
    last = linear("last", "pick", np.ones((2, 4, 4, 4)), raw=True, raw_scale=np.ones(2))
    shapes = {"x": (4, 4, 8), "conv": (4, 4, 8), "pool": (2, 2, 8), "cat": (4, 4, 16), "pick": (4, 4, 4)}
    shapes |= {"turn": (4, 4, 8), "most": (4, 4, 8), "kept": (4, 4, 8), "own": (4, 4, 4)}
    tensors = {t: Tensor(t, s, QUANT) for t, s in (shapes | {"last": (1, 1, 2)}).items()}
    outputs = tuple(
        Output(Port(t, tensors[t].shape, tensors[t].shape), t) for t in ("pool", "turn", "own", "last")
    )
    port = Port("x", (4, 4, 8), (4, 4, 8))
    soft, norm = rows()
    tensors |= {o.output: Tensor(o.output, (4, 4, 8), Quant(INT8, 0.5)) for o in (soft, norm)}
    step, sizes = gradients()
    tensors |= {t: Tensor(t, s, QUANT) for t, s in sizes.items()}
    ops = (conv, pool, cat, pick, turn, kept, most, own, last, soft, norm, *step)
    return QuantizedGraph("net", (port,), outputs, ops, tensors)


def rows() -> tuple[Softmax, Normalize]:
    """Of 'conv'."""
    table = exponentials(INT8.decode(INT8.codes)).words
    one = {"bias": np.zeros(1, np.int64), "multiplier": np.full(1, 3), "shift": np.full(1, 9)}
    each = {"bias": np.zeros(8, np.int64), "multiplier": np.full(8, -3), "shift": np.full(8, 9)}
    bits = fraction_bits(INT8)
    soft = Softmax("soft", "conv", "soft", table, **one, fraction=bits)
    norm = Normalize("norm", "conv", "norm", 32, 32, 5, **each, fraction=bits, plane=True, groups=4)
    return soft, norm


def gradients() -> tuple[tuple[QuantizedOp, ...], dict[str, tuple[int, int, int]]]:
    """Of 'conv' and 'pool', as if what they give were gradients, and 'turn' weights of 4 taps; and their shapes."""
    rounded = (np.zeros(4, np.int64), np.full(4, 3), np.full(4, 9), QUANT, -128, 127)
    at = {"stride": (2, 2), "transposed": True, "plane": (4, 4), "reduction": 8}
    back = ComputedConv(
        "back", "pool", "turn", "back", (2, 2), *rounded, residual=Residual("pick", 5, 4), **at
    )
    gate = Gate("gate", "conv", "x", "gate", 0, 9)
    tap = PoolGate("tap", "pool", "conv", "pool", "tap", (0, 1), (2, 2))
    weights = WeightGradient("weights", "pick", "pool", "weights", (2, 2), 4, (2, 2))
    biases = BiasGradient("biases", "pool", "biases", 4)
    shapes = {
        "back": (4, 4, 4),
        "gate": (4, 4, 8),
        "tap": (2, 2, 8),
        "weights": (4, 4, 8),
        "biases": (1, 1, 8),
    }
    return (back, gate, tap, weights, biases), shapes


def op(name: str, **fields) -> Callable[[QuantizedGraph], QuantizedGraph]:
    """The graph with fields of an op changed; those of its weight begin with weight_."""

    def change(g: QuantizedGraph) -> QuantizedGraph:
        (old,) = (o for o in g.ops if o.name == name)
        given = dict(fields)
        weight = {k[7:]: given.pop(k) for k in list(given) if k.startswith("weight_")}
        if weight:
            given["weight"] = replace(old.weight, **weight)
        return replace(g, ops=tuple(replace(old, **given) if o is old else o for o in g.ops))

    return change


def tensor(name: str, **fields) -> Callable[[QuantizedGraph], QuantizedGraph]:
    return lambda g: replace(g, tensors=g.tensors | {name: replace(g.tensors[name], **fields)})


def everywhere(quant: Quant) -> Callable[[QuantizedGraph], QuantizedGraph]:
    return lambda g: replace(g, tensors={t: replace(v, quant=quant) for t, v in g.tensors.items()})


def without(name: str) -> Callable[[QuantizedGraph], QuantizedGraph]:
    return lambda g: replace(g, tensors={t: v for t, v in g.tensors.items() if t != name})


def piece(**fields) -> tuple[Piece, ...]:
    """That of 'turn', changed."""
    (turn,) = (o for o in graph().ops if o.name == "turn")
    return (replace(turn.pieces[0], **fields),)


FAR = Lattice((0, 0), (2, 0), (0, 1))
ONE_COLUMN = Lattice((0, 0), (1, 0), (0, 0))
CODES = np.ones((8, 1, 1, 8), np.uint8)

CASES: list[tuple[str, str, Callable[[QuantizedGraph], QuantizedGraph]]] = [
    ("ops", "found str", lambda g: replace(g, ops=(*g.ops, "conv"))),
    ("order", "'nothing', which 'pool' reads", op("pool", input="nothing")),
    ("order", "'conv', which 'pool' writes again", op("pool", output="conv")),
    ("order", "'x', which 'conv' writes again", op("conv", output="x")),
    ("order", "the output 'last', which nothing writes", lambda g: replace(g, ops=g.ops[:8] + g.ops[9:])),
    ("listed", "'cat', which is not", without("cat")),
    ("tensor", r"tensor 'cat'.*found \(4, 16\)", tensor("cat", shape=(4, 16))),
    ("tensor", r"found \(4, 0, 16\)", tensor("cat", shape=(4, 0, 16))),
    ("quant", "tensor 'cat'.*a scale of nan", tensor("cat", quant=Quant(INT8, float("nan")))),
    ("quant", "a scale of 0.0", tensor("cat", quant=Quant(INT8, 0.0))),
    ("quant", "a zero point of 128 in int8", tensor("cat", quant=Quant(INT8, 0.5, 128))),
    ("formats", "found int8, uint4", tensor("cat", quant=Quant(UINT4, 0.5))),
    ("formats", "found int8, uint4", op("pick", weight_format=UINT4)),
    ("kept format", "Linear 'pick'.*found e5m2, int8", tensor("cat", quant=Quant(E5M2, 0.5))),
    ("trained format", "ComputedConv 'back'.*found e5m2, int8", tensor("back", quant=Quant(E5M2, 0.5))),
    ("ports", r"port 'x'.*\(4, 4, 8\) for \(4, 4, 12\)", tensor("x", shape=(4, 4, 12))),
    ("ports", r"port 'pool'.*found \(2, 2, 8\) for \(2, 2, 16\)", tensor("pool", shape=(2, 2, 16))),
    ("raw results", "'conv', which 'pool' reads", op("conv", raw=True, raw_scale=np.ones(8))),
    ("window", r"MaxPool 'pool'.*stride \(0, 2\)", op("pool", stride=(0, 2))),
    ("planes", r"Concat 'cat'.*found \(2, 2\), \(4, 4\)", op("cat", parts=("conv", "pool"))),
    ("pieces", "Arrange 'turn'.*found parts of 8, 16 channels", op("turn", parts=("conv", "cat"))),
    ("operands", r"Maximum 'most'.*found \(2, 2, 8\), \(4, 4, 8\)", op("most", parts=("conv", "pool"))),
    ("stored", "Stored 'kept'.*found int64 codes", op("kept", codes=np.zeros((4, 4, 8), int))),
    ("pieces", "a piece of no part", op("turn", pieces=piece(part=1))),
    ("pieces", "8 pixels for 4 x 4", op("turn", pieces=piece(counts=(2, 4)))),
    ("pieces", "outside of 'conv', which is 4 x 4", op("turn", pieces=piece(source=FAR))),
    ("pieces", "others than each of the 4 x 4", op("turn", pieces=piece(target=ONE_COLUMN))),
    (
        "weight",
        r"Linear 'conv'.*found a weight of \(8, 8\)",
        op("conv", weight_codes=np.ones((8, 8), np.uint8)),
    ),
    ("weight", r"\(8, 1, 1, 8\) in 2 groups for 8 channels", op("conv", groups=2)),
    ("weight", "Linear 'pick'.*for 16 channels", op("pick", channels=np.full((4, 2), 16))),
    ("product", r"MatMul 'own'.*\(4, 4, 4\) does not meet \(4, 4, 8\)", op("own", weight="conv")),
    ("product", r"\(4, 4, 4\) is not 3 heads", op("own", batch=Batch(3, transposed=True))),
    ("product", "found 4 for 5", op("own", reduction=5)),
    ("symmetric", "MatMul 'own'.*found 3 in 'pick'", tensor("pick", quant=Quant(INT8, 0.5, 3))),
    ("digits", "MatMul 'own'.*found digits int4 of int6 for int8", op("own", digits=Digits(INT6, INT4))),
    ("digits", "found digits int3 of int8 for int8", op("own", digits=Digits(INT8, INT3))),
    ("per channel", r"found bias of \(3,\)", op("conv", bias=np.zeros(3, np.int64))),
    ("per channel", r"found weight's scale of \(1,\)", op("conv", weight_scale=np.ones(1))),
    ("shape", r"found \(4, 4, 16\), and 'cat' of \(4, 4, 12\)", tensor("cat", shape=(4, 4, 12))),
    ("kept codes", "MaxPool 'pool'.*'conv' with another", tensor("pool", quant=Quant(INT8, 0.25))),
    ("codes", "float64 codes", op("conv", weight_codes=CODES.astype(float))),
    ("pattern", "8 of 8 for 2:8", op("conv", weight_sparsity=parse_sparsity("2:8"))),
    ("multiplier", "found 0 for channel 2", op("conv", multiplier=np.array([3, 3, 0, 3, 3, 3, 3, 3]))),
    ("multiplier", "found 65536 for channel 0", op("conv", multiplier=np.full(8, 65536))),
    ("shift", "found 128 for channel 0", op("conv", shift=np.full(8, 128))),
    ("requantized", "found uint4 for int8", op("pick", requantized=Quant(UINT4, 0.5))),
    ("requantized", "found a scale of -1.0", op("pick", requantized=Quant(INT8, -1.0))),
    ("clamp", "found 5 to 4 in int8", op("pick", low=5, high=4)),
    ("clamp", "found -128 to 200 in int8", op("pick", high=200)),
    ("table", r"found a shape of \(16,\) for int8", op("conv", table=np.zeros(16, np.uint8))),
    ("residual", r"found 'pool' of \(2, 2, 8\) for \(4, 4, 4\)", op("pick", residual=Residual("pool", 1, 0))),
    ("residual", "multiplier 0, shift 4", op("conv", residual=Residual("x", 0, 4))),
    ("residual", "shift 10 where the least shift is 9", op("conv", residual=Residual("x", 5, 10))),
    ("residual", r"found 'pool' of \(2, 2, 8\) for \(4, 4, 4\)", op("pick", residual=Factor("pool"))),
    ("rows", r"Softmax 'soft'.*found shift of \(2,\)", op("soft", shift=np.full(2, 9))),
    ("rows", "found 32768 for channel 0", op("soft", multiplier=np.full(1, 1 << 15))),
    ("exponentials", r"found uint32 \(16,\) for int8", op("soft", exponentials=np.zeros(16, np.uint32))),
    ("exponentials", "without its leading one", op("soft", exponentials=np.zeros(256, np.uint32))),
    ("channels", r"Normalize 'norm'.*found bias of \(1,\)", op("norm", bias=np.zeros(1, np.int64))),
    ("channels", "found 0 for channel 0", op("norm", multiplier=np.zeros(8, np.int64))),
    ("channels", "found 3 bits behind the point in int8", op("norm", fraction=3)),
    ("statistics", "found 3 groups of 8 channels", op("norm", groups=3)),
    ("statistics", "rows of 8 elements, of which 32 count, where there are 32", op("norm", elements=8)),
    ("statistics", "an epsilon of -1", op("norm", epsilon=-1)),
    ("statistics", "groups in each pixel", op("norm", plane=False, elements=2, count=2)),
    ("added", "found 2 rows of 'pool' for 4", op("own", residual=Residual("pool", 5, 1))),
    ("added", "shift 10 where the least shift is 9", op("own", residual=Residual("pick", 5, 10))),
    ("trained weight", r"ComputedConv 'back'.*\(4, 4, 8\) for 4 of 8 channels", op("back", reduction=4)),
    (
        "transposed plane",
        r"found \(4, 4\), of which the window makes \(3, 3\)",
        op("back", stride=(1, 1)),
    ),
    (
        "trained residual",
        r"found 'x' of \(4, 4, 8\) for \(4, 4, 4\)",
        op("back", residual=Residual("x", 5, 4)),
    ),
    ("trained residual", "shift 10 where the least shift is 9", op("back", residual=Residual("pick", 5, 10))),
    ("gradient", r"found 5 pixels of \(2, 2\), where the window makes \(2, 2\)", op("weights", pixels=5)),
    ("gate", r"Gate 'gate'.*\(2, 2, 8\), \(4, 4, 8\)", op("gate", reference="pool")),
    ("no zero points", "PoolGate 'tap'.*found 'tap' with 3", tensor("tap", quant=Quant(INT8, 0.5, 3))),
    ("raw", "found no scale", op("last", raw_scale=None)),
    ("raw", "found a table", op("last", table=np.zeros(256, np.uint8))),
    ("raw", "that is not finite", op("last", raw_offset=np.array([0, np.inf]))),
]
"""A rule, what is said of the damage, and the damage."""


def test_the_graph_keeps_all_rules():
    made = graph()
    assert broken(made) is None and verify(made, after="nothing") is made


@pytest.mark.parametrize(("name", "says", "change"), CASES)
def test_a_broken_rule_is_told(name, says, change):
    rule, text = broken(change(graph()))
    assert rule.name == name and re.search(says, text), text
    assert rule.says in text and "\n" not in text


def test_every_rule_has_a_case():
    assert {name for name, _, _ in CASES} == {rule.name for rule in RULES}
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_a_factor_without_what_is_added_before_the_rounding():
    (rule,) = (r for r in RULES if r.name == "residual")
    for zero in (0, 4):
        quant = Quant(E5M2, 0.5, zero)
        for made in (
            op("conv", residual=Factor("x"), requantized=quant)(graph()),
            op("conv", residual=Factor("x"))(tensor("x", quant=quant)(graph())),
        ):
            assert ("adds before it rounds" in (rule.found(made, made.ops[0]) or "")) == bool(zero)


def test_a_residual_of_one_row_or_column():
    for shape in ((1, 4, 8), (4, 1, 8), (1, 1, 8)):
        made = graph()
        made = replace(made, tensors=made.tensors | {"other": Tensor("other", shape, QUANT)})
        (rule,) = (r for r in RULES if r.name == "residual")
        assert rule.found(made, replace(made.ops[0], residual=Factor("other"))) is None


def test_codes_of_a_narrow_format():
    """Beyond its bits, and codes that are no number."""
    made = everywhere(Quant(UINT4, 0.5))(graph())
    small = {"weight_format": UINT4, "requantized": Quant(UINT4, 0.5), "low": 0, "high": 15}
    for o in made.ops:
        if isinstance(o, Linear):
            made = op(o.name, **small)(made)
        elif isinstance(o, MatMul | ComputedConv):
            made = op(o.name, requantized=Quant(UINT4, 0.5), low=0, high=15)(made)
    made = op("conv", table=np.arange(16, dtype=np.uint8))(made)
    table = exponentials(UINT4.decode(UINT4.codes)).words
    made = op("soft", exponentials=table, fraction=fraction_bits(UINT4))(made)
    made = op("norm", fraction=fraction_bits(UINT4))(made)
    assert broken(made) is None
    assert broken(op("conv", weight_codes=16 * CODES)(made))[1].endswith("found a code of 16 in uint4")
    wide = np.full(16, 77, np.uint8)
    assert broken(op("conv", table=wide)(made))[1].endswith("found a code of 77 in uint4")
    infinite = Constant(np.full((2, 1, 1, 1), 0x7C, np.uint8), E5M2)
    (rule,) = (r for r in RULES if r.name == "codes")
    assert "0x7c" in hex(int(re.search(r"code of (\d+)", rule.found(made, infinite))[1]))


def test_the_pass_that_breaks_a_rule_is_named(monkeypatch):
    """It ends there, not in what comes after."""
    from sateen.compiler.quantize.calibrate import calibrate
    from sateen.ir.graph import Graph
    from sateen.ir.nodes import Conv

    def shift_too_far(qgraph):
        return op("c", shift=np.full(2, 200))(qgraph)

    monkeypatch.setattr(network, "REWRITES", (*network.REWRITES, shift_too_far))
    ports = [Port(t, (1, 1, 2), (1, 1, 2)) for t in ("x", "y")]
    conv = Conv("c", "x", "y", np.eye(2).reshape(2, 1, 1, 2), np.zeros(2))
    relu = dataclasses.replace(conv, name="d", input="y", output="z")
    outputs = (Output(dataclasses.replace(ports[1], name="z"), "z"),)
    net = Graph("g", (ports[0],), outputs, (conv, relu), {t: (1, 1, 2) for t in "xyz"})
    x = {"x": np.random.default_rng(0).normal(0, 1, (8, 1, 1, 2))}
    with pytest.raises(ModelError, match="after shift_too_far: Linear 'c': shifts are 0 to 127; found 200"):
        network.quantize(net, calibrate(net, x), weight_format="int8", activation_format="int8")


def test_a_file_that_breaks_a_rule_is_refused():
    data = to_bytes(op("conv", shift=np.full(8, 300))(graph()))
    with pytest.raises(
        BuildError, match=r"'conv': shifts are 0 to 127; found 300.*; compile the model again$"
    ):
        from_bytes(data)
    assert broken(from_bytes(to_bytes(graph()))) is None


def test_folded_inputs():
    """Their shape is the host's affair, and their layer's pattern lies along the channels of each tap."""
    made = tensor("x", shape=(4, 4, 8))(graph())
    made = replace(made, inputs=(Port("x", (8, 8, 2), (8, 8, 2)),))
    assert broken(made)[0].name == "ports" and broken(made, folded={"x"}) is None
    pruned = op("conv", weight_sparsity=parse_sparsity("2:8"))(made)
    assert broken(pruned, folded={"x"}) is None
