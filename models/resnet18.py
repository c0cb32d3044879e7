"""ResNet-18 at 224 × 224 with random weights: the whole standard network, for compile time, cycles and cost.

`python -m sateen.models.resnet18 --out resnet18.onnx` writes it; other networks: `sateen.models.architectures`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import onnx

from sateen.models.resnets import resnet18

__all__ = ["MACS", "resnet18"]

MACS = 1_814_073_344
"""Multiplications of all convolutions and the last Gemm for one image."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sateen.models.resnet18", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("resnet18.onnx"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    onnx.save(resnet18(options.seed), options.out)
    print(f"{options.out}: {options.out.stat().st_size} bytes, {MACS} MACs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
