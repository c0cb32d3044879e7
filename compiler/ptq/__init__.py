"""Post-training quantization as passes: each makes of a float network one that loses less when it is quantized."""

from sateen.compiler.ptq.adaround import AdaRound
from sateen.compiler.ptq.equalize import Equalize
from sateen.compiler.ptq.gptq import Gptq, round_layer
from sateen.compiler.ptq.layerwise import moments, rewrite_quantized
from sateen.compiler.ptq.merge_pool import MergePool
from sateen.compiler.ptq.recipe import LEAST_SAMPLES, RECIPES, Recipe, load_recipe
from sateen.compiler.ptq.reconstruct import Reconstruct
from sateen.compiler.ptq.smooth import Smooth

__all__ = [
    "LEAST_SAMPLES",
    "RECIPES",
    "AdaRound",
    "Equalize",
    "Gptq",
    "MergePool",
    "Recipe",
    "Reconstruct",
    "Smooth",
    "load_recipe",
    "moments",
    "rewrite_quantized",
    "round_layer",
]
