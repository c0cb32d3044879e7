"""Errors of the resource estimate by size: large machines' components, synthesized one by one, against the model.

    python benchmarks/resource_sizes.py [PRESET ...] [--device ecp5|xcup] [--parts]

By default `mac256` and `mac1024` in both families; `mac4096` takes an hour. No component of these is in the fit
(machines of up to 128 multipliers are). What synthesis gains across components is in neither sum. `--parts` prints
each component, too. Syntheses are cached, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse

import sateen
from sateen.fpga.boards.devices import FAMILIES
from sateen.fpga.estimate.resource_data import Sample, measure_parts
from sateen.fpga.estimate.resource_model import RESOURCES, load, predict_part
from sateen.fpga.estimate.resource_parts import PARTS

Counts = dict[str, float]


def sizes(preset: str, family: str) -> dict[str, tuple[Counts, Counts]]:
    """Component to its counts and its estimate, of all its instances."""
    config = sateen.preset(preset)
    coefficients = load()["coefficients"]
    found = {}
    for part in PARTS.values():
        if n := part.instances(config):
            (row,) = measure_parts([Sample(0, config)], FAMILIES[family], parts=(part,), workers=1)
            one = predict_part(part.name, config, family, coefficients)
            found[part.name] = ({k: n * row[k] for k in RESOURCES}, {k: n * one[k] for k in RESOURCES})
    return found


def line(title: str, counted: Counts, estimated: Counts) -> str:
    cells = [
        f"{counted[k]:,g} | {100 * (estimated[k] - counted[k]) / max(counted[k], 1):+.1f} %"
        for k in RESOURCES
    ]
    return f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("presets", nargs="*", default=["mac256", "mac1024"], metavar="PRESET")
    parser.add_argument("--device", choices=tuple(FAMILIES))
    parser.add_argument("--parts", action="store_true")
    args = parser.parse_args()
    print("| machine | LUT | error | FF | error | DSP | error | block RAM | error |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for preset in args.presets:
        for family in [args.device] if args.device else FAMILIES:
            found = sizes(preset, family)
            if args.parts:
                for part, (counted, estimated) in found.items():
                    print(line(f"{preset}, {family}, {part}", counted, estimated), flush=True)
            both = [{k: sum(part[n][k] for part in found.values()) for k in RESOURCES} for n in (0, 1)]
            print(line(f"{preset}, {family}, all", *both), flush=True)


if __name__ == "__main__":
    main()
