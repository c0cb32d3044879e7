"""The float network to the quantized one: calibration, scales, zero points, residuals, the bounds of sums."""

from sateen.compiler.quantize.activations import ActivationPlan, plan_activations
from sateen.compiler.quantize.calibrate import calibrate
from sateen.compiler.quantize.fuse import fuse
from sateen.compiler.quantize.network import accumulator_bits, quantize
from sateen.compiler.quantize.options import Options
from sateen.compiler.quantize.scales import weight_scales

__all__ = [
    "ActivationPlan",
    "Options",
    "accumulator_bits",
    "calibrate",
    "fuse",
    "plan_activations",
    "quantize",
    "weight_scales",
]
