"""What `isolated` runs in its process: the operations of ONNX's libraries on a model, and the loop that serves them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable

import onnx
import onnx.inliner

from sateen.compiler.importer.isolated import REPLY, REQUEST


def check(model: onnx.ModelProto) -> None:
    """Well formed?"""
    onnx.checker.check_model(model)


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """Local functions into the graph."""
    return onnx.inliner.inline_local_functions(model)


def infer(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the shapes that can be inferred."""
    return onnx.shape_inference.infer_shapes(model)


def slim(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Constants folded, dead nodes removed."""
    import onnxslim  # loads sympy

    # BatchNormalization and the like are folded by our own passes, which keep the nodes' names.
    skipped = ["graph_fusion", "subexpression_elimination", "weight_tying"]
    logger = logging.getLogger("onnxslim")
    level = logger.level
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found: onnx.ModelProto | None = onnxslim.slim(model, skip_optimizations=skipped)
        return found
    finally:
        logger.setLevel(level)


OPERATIONS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto | None]] = {
    f.__name__: f for f in (check, inline, infer, slim)
}


def run(operation: str, data: bytes) -> tuple[bool, bytes]:
    """Whether it succeeded; the changed model, or the first line of what went wrong."""
    try:
        result = OPERATIONS[operation](onnx.load_model_from_string(data))
        return True, b"" if result is None else result.SerializeToString()
    except Exception as e:
        return False, first_line(e).encode(errors="replace")


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def serve() -> None:
    """Requests on standard input, replies on standard output, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side says when to stop
    source = sys.stdin.buffer
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may be written there
    while len(head := source.read(REQUEST.size)) == REQUEST.size:
        name, size = REQUEST.unpack(head)
        good, reply = run(name.rstrip(b"\0").decode(), source.read(size))
        replies.write(REPLY.pack(good, len(reply)))
        replies.write(reply)
        replies.flush()
        with contextlib.suppress(ImportError):  # while it is waiting: most files want it next
            import onnxslim  # noqa: F401
