"""Which nodes become one pass, as text."""

from __future__ import annotations

from networks import Builder, everything, residual

from sateen.compiler.quantize.fuse import Pass, fuse, shared_scales


def text(graph) -> list[str]:
    lines = []
    for s in fuse(graph):
        if not isinstance(s, Pass):
            lines.append(f"{s.output} = {type(s).__name__}({', '.join(s.inputs)})")
            continue
        what = s.main.name if s.main else "identity"
        rest = f" + {s.residual}" if s.residual else ""
        after = f" then {s.activation.function}" if s.activation else ""
        lines.append(f"{s.output} = {what}({s.input}){rest}{after}")
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


def test_the_fused_pass_runs_after_its_residual():
    """The convolution stands before the tensor that its Add needs."""
    for seed in range(3):
        graph, _ = everything(seed)
        written = {p.name for p in graph.inputs}
        for step in fuse(graph):
            assert set(step.inputs) <= written
            written.add(step.output)


def test_max_pool_and_concat_share_scales():
    graph, _ = everything()
    steps = fuse(graph)
    names = ["x", *(s.output for s in steps)]
    group = shared_scales(steps, names)
    together = {n for n in names if group[n] == group["concat7"]}
    assert together == {"leaky_relu5", "max_pool6", "concat7", "x"}
