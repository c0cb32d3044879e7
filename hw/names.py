"""Names of signals from the variables that they are assigned to, the same in every version of Python.

Amaranth reads them from the bytecode after the call, and does not know all that newer compilers write there: in Python
3.13, where the variable is used at once, its signal would have no name, and the Verilog would be another text.
"""

import dis
import sys
from bisect import bisect
from functools import cache
from types import CodeType
from typing import Any

from amaranth import tracer

_CALLS = {"CALL", "CALL_KW", "CALL_FUNCTION_EX"}
_BETWEEN = {
    "LOAD_GLOBAL",
    "LOAD_NAME",
    "LOAD_ATTR",
    "LOAD_FAST",
    "LOAD_FAST_BORROW",
    "LOAD_FAST_CHECK",
    "LOAD_DEREF",
    "LOAD_FAST_LOAD_FAST",
    "LOAD_FAST_BORROW_LOAD_FAST_BORROW",
    "BUILD_LIST",
    "CACHE",
    "COPY",
    "EXTENDED_ARG",
}
"""What may stand between the call and the assignment: `self.a.b = [Signal()]`."""
_STORES = {
    "STORE_NAME",
    "STORE_ATTR",
    "STORE_FAST",
    "STORE_DEREF",
    "STORE_FAST_MAYBE_NULL",
    "STORE_FAST_LOAD_FAST",
    "STORE_FAST_STORE_FAST",
}
"""Of two in one, the first is the assignment."""
_NO_DEFAULT = object()


@cache
def _instructions(code: CodeType) -> tuple[list[int], list[tuple[str, Any]]]:
    """Offsets, and names with arguments."""
    found = list(dis.get_instructions(code))
    return [i.offset for i in found], [(i.opname, i.argval) for i in found]


def get_var_name(depth: int = 2, default: Any = _NO_DEFAULT) -> Any:
    """As Amaranth's, of which it takes the place: the variable that gets what the frame `depth` up is calling."""
    frame = sys._getframe(depth)
    offsets, instructions = _instructions(frame.f_code)
    call = bisect(offsets, frame.f_lasti) - 1
    if instructions[call][0] in _CALLS:
        for name, argument in instructions[call + 1 :]:
            if name in _STORES:
                return argument[0] if isinstance(argument, tuple) else argument
            if name not in _BETWEEN:
                break
    if default is _NO_DEFAULT:
        raise tracer.NameNotFound
    return default


def install() -> None:
    """From now on."""
    tracer.get_var_name = get_var_name
