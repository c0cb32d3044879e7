"""Random small networks through all four engines: how many are equal bit for bit, and in cycles.

python benchmarks/random_networks.py --count 200
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "e2e"))
from four_engines import check, machine
from random_network import FORMATS, networks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--base", default="tiny", help="preset of the machine")
    args = parser.parse_args()
    done: collections.Counter[tuple[str, str]] = collections.Counter()
    started = time.perf_counter()

    @settings(
        max_examples=args.count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    @given(networks(), st.sampled_from(FORMATS), st.integers(1, 100), st.integers(1, 4))
    def run(network, formats, latency, interval):  # type: ignore[no-untyped-def]
        with tempfile.TemporaryDirectory() as folder:
            config = machine(*formats, args.base)
            check(network.model, network.samples(8), config, Path(folder), latency=latency, interval=interval)
        done[formats] += 1

    run()
    for (weights, activations), count in sorted(done.items()):
        print(
            f"{weights:>8} weights {activations:>8} activations: {count} networks equal in all four engines"
        )
    print(f"{sum(done.values())} networks, 0 differ, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
