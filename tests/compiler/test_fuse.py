"""Which nodes become one, as text; what the fused graph says of scales and outputs, and what it refuses to be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from networks import Builder, everything, residual

from sateen.compiler.quantize.fuse import fuse
from sateen.errors import ModelError
from sateen.formats import parse_sparsity
from sateen.ir.fused import FusedLayer
from sateen.ir.nodes import Conv


def text(graph) -> list[str]:
    lines = []
    for n in fuse(graph).nodes:
        if not isinstance(n, FusedLayer):
            lines.append(f"{n.output} = {type(n).__name__}({', '.join(n.inputs)})")
            continue
        what = n.main.name if n.main else "identity"
        rest = f" + {n.residual}" if n.residual else ""
        after = f" then {n.activation.function}" if n.activation else ""
        lines.append(f"{n.output} = {what}({n.input}){rest}{after}")
    return lines


def test_residual_block_fuses_the_later_convolution():
    graph, _ = residual()
    assert text(graph) == [
        "clip1 = conv0(x) then clip",
        "conv2 = conv2(clip1)",
        "clip5 = conv3(clip1) + conv2 then clip",
        "average_pool6 = average_pool6(clip5)",
        "conv7 = conv7(average_pool6)",
    ]


def test_everything():
    graph, _ = everything()
    assert text(graph) == [
        "sigmoid1 = conv0(x) then sigmoid",
        "clip3 = conv2(sigmoid1) then clip",
        "add4 = identity(sigmoid1) + clip3",
        "leaky_relu5 = identity(add4) then leaky_relu",
        "max_pool6 = Pool(x)",
        "concat7 = Concat(leaky_relu5, max_pool6)",
        "clip10 = conv8(concat7) + add4 then clip",
        "clip11 = identity(clip10) then clip",
        "average_pool12 = average_pool12(clip11)",
        "add14 = conv13(clip10) + average_pool12",
        "hard_swish15 = identity(add14) then hard_swish",  # add14 is an output
        "conv16 = conv16(hard_swish15)",
    ]


def test_a_tensor_that_others_read_stays():
    b = Builder()
    x = b.input(4, 4, 2)
    y = b.conv(x, 2)
    z = b.clip(y)
    s = b.add(y, z)
    t = b.clip(s)
    assert text(b.graph(t, s)) == [
        "conv0 = conv0(x)",
        "clip1 = identity(conv0) then clip",
        "add2 = identity(conv0) + clip1",
        "clip3 = identity(add2) then clip",
    ]


def test_a_tensor_added_to_itself():
    b = Builder()
    y = b.conv(b.input(4, 4, 2), 2)
    assert text(b.graph(b.add(y, y))) == ["conv0 = conv0(x)", "add1 = identity(conv0) + conv0"]


def test_two_additions_in_a_row():
    b = Builder()
    x = b.input(4, 4, 2)
    p, q, r = b.conv(x, 2), b.conv(x, 2), b.conv(x, 2)
    s = b.add(b.add(p, q), r)
    assert text(b.graph(s)) == [
        "conv0 = conv0(x)",
        "add3 = conv1(x) + conv0",
        "add4 = conv2(x) + add3",
    ]


def test_the_fused_layer_runs_after_its_residual():
    """The convolution stands before the tensor that its Add needs."""
    for seed in range(3):
        graph, _ = everything(seed)
        written = {p.name for p in graph.inputs}
        for node in fuse(graph).nodes:
            assert set(node.inputs) <= written
            written.add(node.output)


def test_max_pool_and_concat_share_scales():
    network = fuse(everything()[0])
    group = network.scale_groups
    together = {n for n in network.tensors if group[n] == group["concat7"]}
    assert together == {"leaky_relu5", "max_pool6", "concat7", "x"}
    assert set(group) - set(network.tensors) == {"conv0"}  # the sigmoid's table reads codes


def test_what_the_host_reads_is_not_rounded():
    b = Builder()
    y = b.conv(b.input(4, 4, 2), 2)
    clipped, plain, read = b.clip(b.conv(y, 2)), b.conv(y, 3), b.conv(y, 3)
    graph = b.graph(clipped, plain, read, b.clip(read))
    assert fuse(graph).raw == {plain}
    assert fuse(everything()[0]).raw == {"conv16"}


def test_inputs_of_several_terms():
    b = Builder()
    x, both, depthwise = b.input(4, 4, 2, "x"), b.input(4, 4, 2, "both"), b.input(4, 4, 2, "depthwise")
    y = b.conv(x, 2)
    graph = b.graph(y, b.clip(both), b.conv(both, 2), b.conv(depthwise, 2, groups=2))
    network = fuse(graph)
    assert network.term_inputs == ("x",)
    sparse = [replace(n, sparsity=parse_sparsity("1:2")) if n.output == y else n for n in graph.nodes]
    assert network.with_graph(replace(graph, nodes=tuple(sparse))).term_inputs == ()


def test_other_weights_in_the_same_graph():
    network = fuse(residual()[0])
    graph = network.graph
    nodes = tuple(replace(n, weight=2 * n.weight) if isinstance(n, Conv) else n for n in graph.nodes)
    changed = network.with_graph(replace(graph, nodes=nodes))
    assert [n.output for n in changed.nodes] == [n.output for n in network.nodes]
    for old, new in zip(network.layers, changed.layers, strict=True):
        if isinstance(new.main, Conv):
            assert (new.main.weight == 2 * old.main.weight).all()
    assert network.with_graph(graph) is network
    for other in (nodes[:-1], (*nodes[:1], replace(nodes[1], name="another"), *nodes[2:])):
        with pytest.raises(ModelError, match=r"not made of each node of the graph once|is not written"):
            network.with_graph(replace(graph, nodes=other))


def broken(network, i, **changes):
    nodes = list(network.nodes)
    nodes[i] = replace(nodes[i], **changes)
    return replace(network, nodes=tuple(nodes))


def test_verify():
    network = fuse(residual()[0])
    network.verify()
    names = list(network.scale_groups)
    conv = replace(network.nodes[0].main, weight=0 * network.nodes[0].main.weight)
    wrong = {
        "has a node that is not the graph's": broken(network, 0, main=conv),
        "reads or writes other tensors": broken(network, 2, residual=None),
        "not made of each node": broken(network, 2, source=network.nodes[2].source[:2]),
        "input 'average_pool6' is not written before": replace(network, nodes=network.nodes[::-1]),
        f"'{names[0]}' is rounded, and in no": replace(
            network, scale_groups={n: n for n in names if n != names[0]}
        ),
        "is not one of its own": replace(network, scale_groups=dict.fromkeys(names, "nobody")),
        "raw output 'clip1'": replace(network, raw=frozenset(["clip1"])),
    }
    for message, other in wrong.items():
        with pytest.raises(ModelError, match=message):
            other.verify()
