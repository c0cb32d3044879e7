"""Attention and Einsum as operators, and masks: what ONNX Runtime computes, heads where they lie."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from attention_nets import linear
from onnx_nets import Net, compare, kinds

from sateen import load
from sateen.compiler.importer import check_model


def attention(
    heads: int = 2, shared: int = 2, d: int = 4, tokens: int = 5, others: int = 5, joined: bool = True,
    mask: object = None, **attributes: object,
) -> Net:  # fmt: skip
    """Projections of one or two sequences, one Attention, a projection."""
    net, features = Net(23), 8
    x = net.input(1, tokens, features)
    y = x if others == tokens else net.input(1, others, features, name="y")
    sizes = ((x, tokens, heads), (y, others, shared), (y, others, shared))
    parts = [linear(net, t, features, n * d) for t, _, n in sizes]
    if joined:
        attributes |= {"q_num_heads": heads, "kv_num_heads": shared}
    else:
        parts = [
            net("Transpose", net("Reshape", p, net.constant([1, s, n, d])), perm=[0, 2, 1, 3])
            for p, (_, s, n) in zip(parts, sizes, strict=True)
        ]
    given = [] if mask is None else [net.constant(mask)]
    z = net("Attention", *parts, *given, **attributes)
    if not joined:
        z = net("Reshape", net("Transpose", z, perm=[0, 2, 1, 3]), net.constant([1, tokens, heads * d]))
    return net.output(linear(net, z, heads * d, features))


MASK = np.random.default_rng(3).normal(0, 1, (5, 5)).astype(np.float32)
SEEN = np.eye(5, k=1).astype(bool) | np.tri(5).astype(bool)
CASES = {
    "plain": {},
    "four dimensions": {"joined": False},
    "another sequence": {"others": 7},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": 1},
    "causal, four dimensions": {"is_causal": 1, "joined": False},
    "shared keys": {"heads": 4, "shared": 2},
    "one key for all": {"heads": 4, "shared": 1, "joined": False},
    "mask": {"mask": MASK},
    "mask of places": {"mask": SEEN},
    "mask with infinity": {"mask": np.where(SEEN, MASK, -np.inf).astype(np.float32)},
    "mask, causal": {"mask": MASK, "is_causal": 1},
    "mask of each head": {"mask": np.stack([MASK, -MASK])[None]},
    "softcap": {"softcap": 1.5},
}


@pytest.mark.parametrize("name", CASES)
def test_attention_is_that_of_onnx_runtime(name):
    compare(attention(**CASES[name]))


def test_attention_moves_nothing():
    """Three projections, two products, the function between them, the output's projection."""
    graph = compare(attention())
    assert kinds(graph) == ["Conv"] * 3 + ["MatMul", "Softmax", "MatMul", "Conv"]


def refusal(net: Net) -> str:
    return str(next(f for f in check_model(net.model()) if f.supported is False))


def test_attention_refuses_what_it_is_not():
    assert "leaves a query no key" in refusal(attention(mask=np.zeros((5, 5), bool)))
    assert "4 heads of queries and 3 of keys" in refusal(attention(heads=4, shared=3))
    net = Net(23)
    q = net.input(1, 2, 3, 4)
    past = net.constant(np.zeros((1, 2, 1, 4), np.float32))
    z = net("Attention", q, q, q, "", past, past, outputs=3)
    assert "past_key" in refusal(net.output(z))
    net = Net(23)
    q = net.input(1, 2, 3, 4)
    net("Attention", q, q, q, outputs=4)
    assert "more than its first output" in refusal(net.output("attention0", "attention0_3"))


# -- Einsum -------------------------------------------------------------------------------------------------

SIZES = dict(b=1, h=2, q=3, k=5, d=4, e=6)
TWO = [
    "bhqd,bhkd->bhqk", "bhqk,bhkd->bhqd", "bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd", "bqd,bkd->bqk", "bqd,bdk->bqk",
    "bhqd,bhkd->bhkq", "bhdq,bhdk->bhqk", "bhdq,bhdk->bhkq", "b h q d, b h k d -> b h q k", "...qd,...kd->...qk",
    "bqk,bkhd->bqhd", "bqhd,bkhd->bqk", "bhq,bhkq->bhk",
]  # fmt: skip
ONE = [
    "bqd,de->bqe", "bqd,ed->bqe", "de,bqd->bqe", "bhqd,de->bhqe", "bhqd,hde->bhqe", "bqhd,hde->bqe",
    "bqd,dhe->bqhe", "bqd,dhe->bhqe", "bhqd,hd->bhqd", "bhqd,h->bhqd", "bhqd,d->bhq", "...d,de->...e", "bqd,qk->bkd",
]  # fmt: skip


def shape_of(term: str) -> list[int]:
    term = term.replace("...", "bh").replace(" ", "")
    return [SIZES[c] for c in term]


@pytest.mark.parametrize("equation", TWO)
def test_einsum_of_two_tensors(equation):
    net = Net()
    terms = equation.split("->")[0].split(",")
    parts = []
    for name, term in zip("xy", terms, strict=True):
        n = shape_of(term)
        x = net.input(*n, name=name)
        parts.append(net("MatMul", x, net.random(n[-1], n[-1])))
    compare(net.output(net("Einsum", *parts, equation=equation)))


@pytest.mark.parametrize("equation", ONE)
def test_einsum_of_a_constant(equation):
    net = Net()
    first, second = equation.split("->")[0].split(",")
    names = []
    for term in (first, second):
        computed = term.strip()[0] in "b." and len(term.strip()) > 2
        names.append(net.input(*shape_of(term)) if computed else net.random(*shape_of(term)))
    compare(net.output(net("Einsum", *names, equation=equation)))


@pytest.mark.parametrize("equation", ["bqd->bdq", "bqd->bq", "bhqd->bqh", "bhqd"])
def test_einsum_of_one_tensor(equation):
    net = Net()
    x = net.input(*shape_of(equation.split("->")[0]))
    compare(net.output(net("Einsum", x, equation=equation)))


@pytest.mark.parametrize(
    ("equation", "shapes", "reason"),
    [
        ("bii->bi", [(1, 3, 3)], "diagonal"),
        ("bqd,bkc->bqk", [(1, 3, 4), (1, 5, 6)], "of one operand alone"),
        ("bqd,bkd,bed->bqke", [(1, 3, 4), (1, 5, 4), (1, 2, 4)], "3 operands"),
    ],
)
def test_einsum_refuses_what_is_no_product(equation, shapes, reason):
    net = Net()
    parts = [net.input(*s, name=f"x{k}") for k, s in enumerate(shapes)]
    assert reason in refusal(net.output(net("Einsum", *parts, equation=equation)))


# -- masks --------------------------------------------------------------------------------------------------


def scores(how: str, least: float) -> Net:
    """Causal attention as exporters of language models write it."""
    net, tokens = Net(), 6
    x = net.input(1, tokens, 8)
    q, k, v = (linear(net, x, 8, 8) for _ in range(3))
    s = net("MatMul", q, net("Transpose", k, perm=[0, 2, 1]))
    seen = np.tri(tokens).astype(bool)[None]
    if how == "add":
        s = net("Add", s, net.constant(np.where(seen, 0, least).astype(np.float32)))
    elif how == "where":
        s = net("Where", net.constant(seen), s, net.constant(np.float32(least)))
    else:
        s = net("Where", net.constant(~seen), net.constant(np.float32(least)), s)
    return net.output(linear(net, net("MatMul", net("Softmax", s), v), 8, 8))


@pytest.mark.parametrize("how", ["add", "where", "where not"])
@pytest.mark.parametrize("least", [-1e4, float(np.finfo(np.float32).min), -np.inf])
def test_masks_cost_scores_no_resolution(how, least):
    """At int8 within 30 dB, which scores rounded to steps of 1e4 / 127 are far from."""
    net = scores(how, least)
    compare(net)
    model, rng = net.model(), np.random.default_rng(5)
    x = {"x": rng.normal(0, 2, (8, 6, 8)).astype(np.float32)}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    want = np.concatenate([session.run(None, {"x": row[None]})[0] for row in x["x"]])
    (found,) = load(model).quantize(weights="int8", activations="int8", calibration=x).run(x).values()
    assert (want**2).sum() / ((found - want) ** 2).sum() > 10**3.0


def test_a_constant_chooses_between_tensors():
    net = Net()
    x, y = net.input(1, 3, 4, 5), net.input(1, 3, 4, 5, name="y")
    chosen = np.random.default_rng(0).random((1, 3, 4, 5)) < 0.5
    compare(net.output(net("Where", net.constant(chosen), net("Relu", x), net("Neg", y))))
    net = Net()
    x = net.input(1, 3, 4, 5)
    compare(net.output(net("Where", net.constant(chosen), net("Relu", x), net.constant(np.float32(0.5)))))
