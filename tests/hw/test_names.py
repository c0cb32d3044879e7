"""Signals are called after their variables, by the same rule in every version of Python."""

from types import SimpleNamespace

import pytest
from amaranth.hdl import Signal

from sateen.hw import names
from sateen.hw.chip.verilog import TOP  # noqa: F401, which installs it


def test_names_of_variables():
    x = Signal(8)
    y = x + Signal(1)
    box = SimpleNamespace(inner=SimpleNamespace())
    box.inner.z = Signal(8)
    pair = [Signal(8)]
    a = b = Signal(2)
    c, d = Signal(3), [Signal(4) for _ in range(2)]
    cell = Signal(5)
    assert (lambda: cell)() is cell and y is not None
    found = [s.name for s in (x, box.inner.z, pair[0], a, b, c, *d, cell, (lambda: Signal(1))())]
    assert found == ["x", "z", "pair", "a", "a", "$signal", "$signal", "$signal", "cell", "$signal"]


@pytest.mark.parametrize(
    ("after", "name"),
    [
        ([("STORE_FAST", "x")], "x"),
        ([("STORE_FAST_LOAD_FAST", ("x", "m"))], "x"),  # Python 3.13, where the variable is used at once
        ([("STORE_FAST_STORE_FAST", ("x", "y"))], "x"),
        ([("LOAD_FAST_BORROW", "self"), ("STORE_ATTR", "x")], "x"),  # 3.14
        ([("EXTENDED_ARG", 1), ("STORE_NAME", "x")], "x"),
        ([("LOAD_CONST", 1), ("STORE_FAST", "x")], None),
        ([("LIST_APPEND", 1)], None),
    ],
)
def test_what_compilers_of_any_version_write(monkeypatch, after, name):
    code = [("LOAD_GLOBAL", "Signal"), ("CALL", 1), *after, ("RETURN_VALUE", None)]
    monkeypatch.setattr(names, "_instructions", lambda _: ([0, 2], code))
    frame = SimpleNamespace(f_code=None, f_lasti=4)  # in the cache behind the call
    monkeypatch.setattr(names.sys, "_getframe", lambda _: frame)
    found = names.get_var_name(default=None)
    monkeypatch.undo()
    assert found == name
