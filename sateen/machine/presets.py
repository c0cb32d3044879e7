"""The machines that are there by name."""

from __future__ import annotations

from sateen.errors import ConfigError
from sateen.machine.config import DATAFLOWS, AcceleratorConfig

_ECP5_85 = AcceleratorConfig(
    name="ulx3s-85f",
    narrow=True,
    rows=8,
    cols=8,
    lanes=1,
    group=1,
    act_bank_depth=2048,
    weight_depth=1024,
    acc_depth=128,
    parameter_depth=128,
    vector_lanes=2,
    bus_bits=64,
    queue_depth=4,
    burst_beats=16,
    outstanding=4,
)

_SMALL = AcceleratorConfig(
    name="icebreaker",
    narrow=True,
    counters=False,
    rows=1,
    cols=1,
    lanes=1,
    group=1,
    act_banks=2,
    act_bank_depth=1024,
    weight_depth=512,
    acc_depth=64,
    parameter_depth=64,
    vector_lanes=1,
    bus_bits=32,
    queue_depth=1,
    burst_beats=16,
    outstanding=1,
)

PRESETS: dict[str, AcceleratorConfig] = {
    c.name: c
    for c in (
        AcceleratorConfig(
            name="tiny",
            rows=2,
            cols=2,
            lanes=2,
            group=2,
            act_banks=4,
            act_bank_depth=4096,
            weight_depth=2048,
            acc_depth=64,
            parameter_depth=64,
            vector_lanes=1,
            bus_bits=32,
            queue_depth=2,
            burst_beats=16,
            outstanding=2,
        ),
        # Of boards (fpga/boards/catalog.py): with memory and serial link they fit, and reach the board's clock.
        _ECP5_85,
        # Of 4-bit formats, beyond the part's 156 DSPs (adr/0054-lut-multipliers.md)
        _ECP5_85.replace(
            name="ulx3s-85f-256",
            rows=16,
            cols=16,
            vector_lanes=4,
            weight_format="int4",
            activation_format="int4",
            multipliers_in="lut",
        ),
        _ECP5_85.replace(name="orangecrab-85f"),
        _ECP5_85.replace(name="ecpix5-85f"),
        _ECP5_85.replace(
            name="orangecrab-25f", rows=4, cols=4, acc_depth=64, parameter_depth=64, bus_bits=32
        ),
        # As many multipliers as the board's dense preset, and no DSP more.
        _ECP5_85.replace(
            name="ulx3s-85f-sparse", rows=4, cols=16, group=4, patterns=("dense", "1:2", "2:4", "1:4")
        ),
        # Of training (docs/training.md).
        _ECP5_85.replace(
            name="ulx3s-85f-train",
            rows=4,
            cols=16,
            group=8,
            patterns=("dense", "2:4", "2:8"),
            computed_weights=True,
            computed_patterns=True,
            transpose_words=4,
            outer_products=True,
            short_groups=True,
            gates=True,
            update=True,
            pruned_decay=True,
        ),
        _SMALL,
        _SMALL.replace(name="tangnano-9k"),
        _SMALL.replace(name="tangnano-20k", rows=2, cols=2, lanes=2, group=2, counters=True, queue_depth=2),
        AcceleratorConfig(
            name="mac256",
            rows=8,
            cols=16,
            lanes=2,
            group=2,
            act_banks=4,
            act_bank_depth=16384,
            weight_depth=8192,
            acc_depth=512,
            parameter_depth=512,
            vector_lanes=8,
            bus_bits=64,
            queue_depth=8,
            burst_beats=64,
            outstanding=8,
        ),
        # Large: a drain of a pixel each cycle, a bus that brings weights as fast as they are used.
        AcceleratorConfig(
            name="mac1024",
            rows=16,
            cols=32,
            lanes=2,
            group=2,
            act_banks=4,
            act_bank_depth=8192,
            weight_depth=8192,
            acc_depth=512,
            parameter_depth=512,
            vector_lanes=32,
            bus_bits=256,
            queue_depth=8,
            burst_beats=64,
            outstanding=8,
        ),
        AcceleratorConfig(
            name="mac4096",
            rows=32,
            cols=64,
            lanes=2,
            group=2,
            act_banks=4,
            act_bank_depth=8192,
            weight_depth=8192,
            acc_depth=512,
            parameter_depth=512,
            vector_lanes=64,
            bus_bits=512,
            queue_depth=8,
            burst_beats=64,
            outstanding=8,
        ),
        AcceleratorConfig(
            name="sat256",
            rows=4,
            cols=32,
            lanes=2,
            group=8,
            patterns=("dense", "1:2", "2:4", "4:8", "1:4", "2:8", "1:8"),
            dataflows=DATAFLOWS,
            act_banks=4,
            act_bank_depth=8192,
            weight_depth=4096,
            acc_depth=512,
            parameter_depth=512,
            vector_lanes=8,
            bus_bits=256,
            queue_depth=8,
            burst_beats=64,
            outstanding=8,
        ),
        # Of training (docs/adr/0039-outer-products.md).
        AcceleratorConfig(
            name="train256",
            rows=8,
            cols=32,
            lanes=1,
            group=8,
            patterns=("dense", "1:2", "2:4", "4:8", "1:4", "2:8", "1:8"),
            computed_weights=True,
            computed_patterns=True,
            transpose_words=8,
            outer_products=True,
            short_groups=True,
            gates=True,
            update=True,
            update_lanes=4,
            pruned_decay=True,
            act_banks=4,
            act_bank_depth=16384,
            weight_depth=8192,
            acc_depth=1024,
            parameter_depth=512,
            vector_lanes=16,
            bus_bits=256,
            queue_depth=8,
            burst_beats=64,
            outstanding=8,
        ),
    )
}


def preset(name: str) -> AcceleratorConfig:
    """Find a machine by name.

    Parameters
    ----------
    name : one of `sateen.PRESETS`

    Returns
    -------
    AcceleratorConfig

    Raises
    ------
    ConfigError
        There is no such preset.

    Examples
    --------
    >>> config = sateen.preset("tiny").replace(bus_bits=64)
    >>> config.multipliers
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset '{name}'; presets are {', '.join(PRESETS)}")
    return PRESETS[name]
