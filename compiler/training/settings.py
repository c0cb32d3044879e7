"""What a training run is asked for: all of it, with the data, decides every bit of the result."""

from __future__ import annotations

from dataclasses import dataclass

from sateen.errors import DataError
from sateen.formats import Format, SparsityPattern, parse_format, parse_sparsity

METHODS = ("bdwp", "sr-ste", "dense")


@dataclass(frozen=True, slots=True)
class Settings:
    """`rate` is the greatest of the schedule: it rises over the first twentieth of the steps, then falls as a cosine.

    pruned_decay : SR-STE's lambda, of weights that the forward pass leaves out
    scratch : whether weights begin at random instead of as in the file
    """

    sparsity: str = "2:8"
    method: str = "bdwp"
    weights: str = "int8"
    activations: str = "int8"
    gradients: str = "int8"
    epochs: int = 10
    batch: int = 32
    rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    pruned_decay: float = 2e-4
    scratch: bool = False
    seed: int = 0

    @property
    def pattern(self) -> SparsityPattern:
        return parse_sparsity("dense" if self.method == "dense" else self.sparsity)

    @property
    def formats(self) -> tuple[Format, Format, Format]:
        """Of weights, activations and gradients."""
        return parse_format(self.weights), parse_format(self.activations), parse_format(self.gradients)

    def check(self, samples: int) -> None:
        """Raise DataError, FormatError for what no run can have."""
        if self.method not in METHODS:
            raise DataError(f"unknown training method '{self.method}'; choose one of {', '.join(METHODS)}")
        parse_sparsity(self.sparsity)
        for role, fmt in zip(("weights", "activations", "gradients"), self.formats, strict=True):
            if not fmt.signed or fmt.zero_code not in fmt.codes or 0 not in fmt.fixed(fmt.codes):
                raise DataError(
                    f"{role} in {fmt.name}: training needs a format with a sign and a zero, such as int8"
                )
        for name, value, low, high in (
            ("epochs", self.epochs, 1, 1 << 20),
            ("batch", self.batch, 1, samples),
            ("rate", self.rate, 1e-9, 16.0),
            ("momentum", self.momentum, 0.0, 0.999),
            ("weight decay", self.weight_decay, 0.0, 1.0),
            ("decay of pruned weights", self.pruned_decay, 0.0, 1.0),
        ):
            if not low <= value <= high:
                of = f", the number of samples is {samples}" if name == "batch" else ""
                raise DataError(f"{name} {value}: must be from {low:g} to {high:g}{of}")

    def rate_at(self, step: int, steps: int) -> float:
        """Of step number `step` of `steps`."""
        from math import cos, pi

        warm = max(1, steps // 20)
        if step < warm:
            return self.rate * (step + 1) / warm
        return self.rate * 0.5 * (1 + cos(pi * (step - warm) / max(1, steps - warm)))
