"""How fast the bit-exact reference evaluates ResNet8, and in how much memory.

python benchmarks/reference_speed.py --model resnet8.onnx [--images 10000] [--formats int8/int8 ...]

Inputs and calibration are random bytes: the reference's work does not depend on values. CPU seconds are those of all
threads; on a machine that is busy otherwise they tell more than the wall clock's.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

import sateen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument(
        "--formats", nargs="*", default=["int8/int8", "e3m2/e3m2", "e4m3/e4m3"], help="weights/activations"
    )
    args = parser.parse_args()
    network = sateen.load(args.model)
    assert network.graph is not None, "sateen check says why"
    rng = np.random.default_rng(0)
    inputs = {
        p.name: rng.integers(0, 256, (args.images, *p.shape)).astype(np.float32) for p in network.graph.inputs
    }
    some = {name: x[:64] for name, x in inputs.items()}
    for formats in args.formats:
        weights, activations = formats.split("/")
        quantized = network.quantize(weights=weights, activations=activations, calibration=some)
        wall, cpu = time.perf_counter(), time.process_time()
        quantized.run(inputs)
        row = {
            "formats": formats,
            "images": args.images,
            "wall_s": round(time.perf_counter() - wall, 2),
            "cpu_s": round(time.process_time() - cpu, 2),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
