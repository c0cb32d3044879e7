"""The layout algebra against NumPy: every element of a view must be where the layout says."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sateen.compiler.importer import layout as L
from sateen.compiler.importer.nouns import View


def elements(layout: L.Layout) -> np.ndarray:
    """The flat offset of each index of the tensor."""
    out = np.zeros((), np.int64)
    for dim in layout:
        out = out[..., None] + L.indices(dim)
    return out


@st.composite
def walks(draw):
    """An (H, W, C) and a chain of transposes and reshapes, with NumPy doing the same to the offsets."""
    hwc = tuple(draw(st.sampled_from([1, 2, 3, 4, 6])) for _ in range(3))
    layout, array = L.axis_dims(hwc), np.arange(math.prod(hwc)).reshape(hwc)
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            perm = draw(st.permutations(range(len(layout))))
            layout, array = tuple(layout[p] for p in perm), array.transpose(perm)
        else:
            rest, shape = array.size, []
            while rest > 1 and draw(st.booleans()):
                shape.append(draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0])))
                rest //= shape[-1]
            shape.append(rest)
            new = L.reshape(layout, shape)
            if new is not None:
                layout, array = new, array.reshape(shape)
    return hwc, layout, array


@settings(max_examples=300, deadline=None)
@given(walks())
def test_reshape_and_transpose_as_numpy(case):
    _, layout, array = case
    assert L.shape_of(layout) == array.shape
    assert (elements(layout) == array).all()


@settings(max_examples=200, deadline=None)
@given(walks(), st.sampled_from([(1, 1, 1), (5, 1, 1), (1, 7, 2), (2, 3, 4)]))
def test_split_axes_and_remap(case, factors):
    """Cut factors lie in one axis each, and remapping moves offsets to the enlarged tensor."""
    hwc, layout, array = case
    try:
        pieces = [L.split_axes(d, hwc) for d in layout]
    except L.Unsupported:
        return
    strides = (hwc[1] * hwc[2], hwc[2], 1)
    for size, stride, axis in (p for d in pieces for p in d):
        assert stride % strides[axis] == 0 and stride // strides[axis] * size <= hwc[axis]
    new = tuple(a * b for a, b in zip(hwc, factors, strict=True))
    at = np.stack(np.unravel_index(array, hwc))
    moved = tuple(L.remap(d, hwc, new) for d in layout)
    assert (elements(moved) == np.ravel_multi_index(at, new)).all()


def test_reshape_that_moves_data_is_refused():
    nchw = L.axis_dims((4, 5, 6))
    nchw = (nchw[2], nchw[0], nchw[1])
    assert L.reshape(nchw, (4, 6, 5)) is None
    assert L.reshape(nchw, (2, 3, 20)) is not None


def test_batch_stays_apart():
    layout = (L.batch_dim(4), *L.row_major((2, 3)))
    assert L.reshape(layout, (4, 6)) == (((4, 0),), ((6, 1),))
    assert L.reshape(layout, (8, 3)) == (((4, 0), (2, 3)), ((3, 1),))
    assert L.batch_dim(1) == ()


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_view_of_an_input(axes):
    view = View((3, 4, 5), axes)
    array = np.empty(60, np.int64)
    hwc = np.arange(60).reshape(3, 4, 5).transpose(axes)
    array[hwc.ravel()] = np.arange(60)  # the HWC offset of each element in ONNX order
    assert view.hwc == hwc.shape
    assert (elements(view.layout((3, 4, 5))).ravel() == array).all()
    assert (elements(view.layout((12, 5))) if axes == (0, 1, 2) else array) is not None
