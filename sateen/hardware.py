"""The Python interface to FPGAs: counts, estimates, bitstreams; one function per command, as in `sateen.api`.

import sateen
sateen.cost("build", device="ecp5")
sateen.estimate(preset="sat256")
sateen.bitstream("build", board="ulx3s-85f")
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sateen.errors import ConfigError
from sateen.machine.config import AcceleratorConfig
from sateen.manifest import BuildFiles
from sateen.options import DEFAULT_ATTEMPTS, DEFAULT_BAUD, Progress, choose_config


def cost(
    build: str | Path,
    device: str | None = None,
    *,
    dsp_sums: bool = False,
    wide_muxes: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Count what the build's Verilog takes of an FPGA, with Yosys: minutes the first time, then from the cache.

    Parameters
    ----------
    build : a folder that `compile` wrote; the counts are kept in it
    device : "ecp5" or "xcup" (UltraScale+); None counts for both
    dsp_sums : with sums of products and their registers in the DSPs; UltraScale+ only
    wide_muxes : with multiplexers of four and eight in the slices, beside their LUTs
    progress : called with a stage's name and the fraction done, 0 to 1

    Returns
    -------
    dict
        "devices" by name, each with "total" and "parts" (rows of "lut", "ff", "dsp", "bram"), "source" and "tool".

    Raises
    ------
    BuildError, ConfigError
        A broken folder or tool; an unknown device.

    Examples
    --------
    >>> found = sateen.cost("build", "ecp5")
    >>> found["devices"]["ecp5"]["total"]["lut"]
    """
    from sateen.fpga.flow.cost import cost as count

    files = BuildFiles(build)
    verilog = files.read("accelerator.v").decode()
    return count(files.folder, verilog, device, dsp_sums=dsp_sums, wide_muxes=wide_muxes, progress=progress)


def estimate(
    machine: AcceleratorConfig | str | Path | None = None,
    device: str | None = None,
    *,
    preset: str | None = None,
) -> dict[str, Any]:
    """Estimate resources, clock and energy in milliseconds, without synthesis.

    Parameters
    ----------
    machine : a configuration, its TOML file, or a build
    device : "ecp5" or "xcup" (UltraScale+), None for both; or a board, for the whole chip on it
    preset : a machine's name, in the place of `machine`

    Returns
    -------
    dict
        "devices" by name, each with "total" and "parts" ("lut", "ff", "dsp", "bram") and "error", what is known of
        the model's; "ecp5" has a "clock" (MHz by speed grade) as well, a build "energy" (microjoules for a sample).
        "outside" says what lies beyond the sizes that the model was fitted to. Of a board "used" and "available" by
        resource, the "share" of each, which one "limited_by" is, "fits", "clock_mhz", and of a build that
        does "samples_per_second".

    Raises
    ------
    ConfigError, BuildError
        No machine, or two; an unknown device; a broken folder.

    Examples
    --------
    >>> found = sateen.estimate(preset="sat256")
    >>> found["devices"]["ecp5"]["total"]["lut"]
    """
    from sateen.fpga.boards.capacity import VENDOR_PARTS
    from sateen.fpga.boards.catalog import BOARDS
    from sateen.fpga.estimate import clock_model
    from sateen.fpga.estimate.energy import energy
    from sateen.fpga.estimate.resource_model import estimate as resources
    from sateen.on_board import estimate_on_board

    def predict(config: AcceleratorConfig, files: BuildFiles | None = None) -> dict[str, Any]:
        if device in (*BOARDS, *VENDOR_PARTS):
            return estimate_on_board(config, device, files)
        found = resources(config, device)
        if family := found["devices"].get(clock_model.FAMILY):
            family["clock"] = clock_model.estimate_clock(config)
        return found

    if (machine is None) == (preset is None):
        raise ConfigError(
            "nothing to estimate is given; give a build, a configuration or a preset"
            if machine is None
            else f"both {machine} and preset '{preset}' are given; choose one"
        )
    if isinstance(machine, str | Path) and not Path(machine).is_file():
        files = BuildFiles(machine)
        config = AcceleratorConfig.from_dict(files.manifest["config"], f"build {machine}")
        if device in (*BOARDS, *VENDOR_PARTS):
            return predict(config, files)
        return predict(config) | {"energy": energy(files.schedule["totals"], config, files.manifest["batch"])}
    return predict(choose_config(machine, preset, None, None))


def bitstream(
    build: str | Path,
    board: str | None = None,
    *,
    clock: float | None = None,
    baud: int = DEFAULT_BAUD,
    seed: int = 1,
    attempts: int = DEFAULT_ATTEMPTS,
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Synthesize, place and route a build for a board, and pack the bitstream: minutes, and seconds where it is kept.

    Parameters
    ----------
    build : a folder that `compile` wrote
    board : its name, by default the one that the build was compiled for
    clock : of the machine, in MHz, which must be reached; None is the highest that is, and aims at the board's
    baud : bits per second of the serial link
    seed, attempts : of the first placement; placements at most, each with the next seed, until one reaches the clock
    output : the file, by default BUILD/bitstream/BOARD.bit, .bin or .fs
    progress : called with a stage's name and the fraction done, 0 to 1

    Returns
    -------
    dict
        What was measured: "fmax_mhz", "clock_mhz", "used" and "available" by resource, "samples_per_second",
        "bitstream" (the file), "reached_mhz" by seed, "logs" (the folder); and "estimated", what was expected.

    Raises
    ------
    LimitError, ConfigError, BuildError
        It does not fit, perhaps by the estimate, or misses the clock; an unknown board; a broken folder or tool.

    Examples
    --------
    >>> found = sateen.bitstream("build", board="ulx3s-85f")
    >>> found["fmax_mhz"], found["samples_per_second"]
    """
    from sateen.bitstreams import make_bitstream

    return make_bitstream(
        Path(build),
        board,
        clock_mhz=clock,
        baud=baud,
        seed=seed,
        attempts=attempts,
        output=None if output is None else Path(output),
        progress=progress,
    )


def vivado(
    build: str | Path, board: str, *, clock: float | None = None, output: str | Path | None = None
) -> list[Path]:
    """Write a Vivado project for a board that needs one, into `output` or BUILD/vivado/BOARD; return its files.

    `clock` is in MHz, by default the board's. Raises ConfigError and BuildError.
    """
    from sateen.fpga.flow.vivado import export_vivado, vendor_board
    from sateen.sim.engines import Build as Opened

    b, target = Opened(build), vendor_board(board)
    if clock is not None:
        if target.system == "pcie":
            raise ConfigError(f"board '{board}': its clock is the PCIe bridge's; leave --clock out")
        target = replace(target, clock_mhz=clock)
    folder = b.folder / "vivado" / board if output is None else Path(output)
    return export_vivado(b.read("accelerator.v").decode(), target, folder, b.image.held)
