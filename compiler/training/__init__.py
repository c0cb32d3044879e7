"""Training on the numbers of the array (docs/training.md): plan, step, loop, and the files of a run."""

from sateen.compiler.training.layers import Layer
from sateen.compiler.training.loop import (
    Samples,
    accuracy,
    batch_of,
    begin,
    check_labels,
    curve,
    train,
    with_masters,
)
from sateen.compiler.training.machine import PASSES, cycles, differences, events, record
from sateen.compiler.training.plan import Plan, forward, make_plan
from sateen.compiler.training.save import write_onnx
from sateen.compiler.training.scales import fitting
from sateen.compiler.training.settings import METHODS, Settings
from sateen.compiler.training.state import State, initial
from sateen.compiler.training.step import Trainer

__all__ = [
    "METHODS",
    "PASSES",
    "Layer",
    "Plan",
    "Samples",
    "Settings",
    "State",
    "Trainer",
    "accuracy",
    "batch_of",
    "begin",
    "check_labels",
    "curve",
    "cycles",
    "differences",
    "events",
    "fitting",
    "forward",
    "initial",
    "make_plan",
    "record",
    "train",
    "with_masters",
    "write_onnx",
]
