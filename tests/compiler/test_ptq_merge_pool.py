"""Average pools merged into the layer that reads them: the same function, by fewer layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from networks import Builder, run_slowly
from recipe_runs import run_recipe

from sateen.compiler.ptq.gptq import Gptq
from sateen.compiler.ptq.merge_pool import MergePool, merge_pools
from sateen.compiler.ptq.recipe import Recipe
from sateen.errors import ConfigError
from sateen.formats.sparsity import SparsityPattern
from sateen.ir.nodes import Pool
from sateen.sim.reference import run_reference


def network(b: Builder, k=6, stride: int | None = None, pad: int = 0, outputs: int = 5):
    """Conv, Relu, average pool, dense layer over all that the pool leaves."""
    pooled = b.pool(b.clip(b.conv(b.input(6, 6, 3), 8)), "average", k, stride, pad)
    return b.gemm(pooled, outputs)


@pytest.mark.parametrize(
    ("k", "stride", "pad"), [(6, None, 0), (3, None, 0), (2, 1, 0), (3, 2, 1), ((6, 3), 6, 0)]
)
def test_the_function_stays(k, stride, pad):
    b = Builder()
    graph = b.graph(network(b, k, stride, pad))
    merged, names = merge_pools(graph, MergePool(growth=100.0))
    merged.verify()
    assert names == [graph.nodes[-1].name] and not any(isinstance(n, Pool) for n in merged.nodes)
    assert [t for t in graph.shapes if t not in merged.shapes] == ["average_pool2"]
    x = b.samples(4)
    out = graph.outputs[0].tensor
    np.testing.assert_allclose(run_slowly(merged, x)[out], run_slowly(graph, x)[out], atol=1e-12)


def two_readers(b: Builder):
    pooled = b.pool(b.conv(b.input(6, 6, 3), 8), "average", 6)
    return b.graph(b.add(b.conv(pooled, 8, k=1), pooled))


def in_many_places(b: Builder):
    """Each mean is read by nine windows: merged, its products would be computed nine times."""
    return b.graph(b.conv(b.pool(b.conv(b.input(6, 6, 3), 8), "average", 2), 4, k=3))


def an_output(b: Builder):
    pooled = b.pool(b.conv(b.input(6, 6, 3), 8), "average", 6)
    return b.graph(b.gemm(pooled, 4), pooled)


def sparse(b: Builder):
    graph = b.graph(network(b))
    return replace(graph, nodes=(*graph.nodes[:-1], replace(graph.nodes[-1], sparsity=SparsityPattern(2, 4))))


def grouped(b: Builder):
    pooled = b.pool(b.conv(b.input(6, 6, 3), 8), "average", 6)
    return b.graph(b.conv(pooled, 8, k=1, groups=2))


def greatest(b: Builder):
    return b.graph(b.gemm(b.pool(b.conv(b.input(6, 6, 3), 8), "max", 6), 4))


@pytest.mark.parametrize("build", [two_readers, in_many_places, an_output, sparse, grouped, greatest])
def test_what_stays_apart(build):
    graph = build(Builder())
    assert merge_pools(graph, MergePool(growth=100.0)) == (graph, [])


def test_growth_is_bounded():
    b = Builder()
    graph = b.graph(network(b))
    share = 36 * 8 * 5 / (9 * 3 * 8)  # of the first layer's weights
    assert merge_pools(graph, MergePool(growth=share))[1]
    assert not merge_pools(graph, MergePool(growth=share * 0.99))[1]
    with pytest.raises(ConfigError, match=r"mergepool: growth = 0; it must be positive"):
        MergePool(growth=0)


@pytest.mark.parametrize("passes", [(), (Gptq(),)])
@pytest.mark.parametrize("fmt", ["int4", "e2m1"])
def test_it_loses_less(fmt, passes):
    """And the manifest says which layers are merged."""
    b = Builder()
    graph = b.graph(network(b))
    x = b.samples(256)
    real = run_slowly(graph, x)[graph.outputs[0].tensor].reshape(256, -1)
    errors = []
    for merge in ((), (MergePool(growth=10.0),)):
        quantized, record = run_recipe(
            graph, x, Recipe("mine", (*merge, *passes)), weight_format=fmt, activation_format=fmt
        )
        errors.append(float(np.mean((run_reference(quantized, x)["out"] - real) ** 2)))
        assert record.get("merged", []) == [graph.nodes[-1].name] * len(merge)
    assert errors[1] < 0.9 * errors[0]
