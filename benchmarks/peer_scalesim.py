"""SCALE-Sim v3 (pip, in an environment of its own, which is made once): cycles of a network's matrix products."""

from __future__ import annotations

import csv
import subprocess
import sys
import venv
from pathlib import Path

from peer_shared import Network, Row, Skipped

from sateen.files import cache_dir

PACKAGES = ("scalesim==3.0.0", "numpy<2.2", "pandas<3")  # it fails with newer ones
HEIGHT, WIDTH = 4, 2
"""Reductions and outputs, as `tiny`'s 2 rows of 2 lanes and its 2 columns."""
CONFIG = f"""[general]
run_name = run
[architecture_presets]
ArrayHeight : {HEIGHT}
ArrayWidth : {WIDTH}
IfmapSramSzkB : 64
FilterSramSzkB : 64
OfmapSramSzkB : 64
IfmapOffset : 0
FilterOffset : 10000000
OfmapOffset : 20000000
Dataflow : ws
ReadRequestBuffer : 32
WriteRequestBuffer : 32
[sparsity]
SparsitySupport : false
[layout]
IfmapCustomLayout : False
IfmapSRAMBankBandwidth : 10
IfmapSRAMBankNum : 10
IfmapSRAMBankPort : 2
FilterCustomLayout : False
FilterSRAMBankBandwidth : 10
FilterSRAMBankNum : 10
FilterSRAMBankPort : 2
[run_presets]
InterfaceBandwidth : CALC
UseRamulatorTrace : False
"""


def measure(network: Network, folder: Path) -> Row:
    row = Row(f"SCALE-Sim, {HEIGHT} × {WIDTH}", network.name)
    products = "".join(f"layer{n}, {m}, {n_}, {k},\n" for n, (m, n_, k) in enumerate(network.layers))
    for name, text in (("run.cfg", CONFIG), ("products.csv", "layer, M, N, K,\n" + products)):
        (folder / name).write_text(text)
    command = [_python(), "-m", "scalesim.scale", "-c", "run.cfg", "-t", "products.csv", "-l", "products.csv"]
    done = subprocess.run(
        [*command, "-p", "out", "-i", "gemm", "-s", "N"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    report = folder / "out/run/COMPUTE_REPORT.csv"
    if done.returncode or not report.is_file():
        raise Skipped(f"SCALE-Sim failed: {(done.stderr.splitlines() or ['no message'])[-1]}")
    with report.open() as file:
        row.cycles = sum(int(float(line[" Total Cycles"])) for line in csv.DictReader(file))
    return row


def _python() -> str:
    """Of the environment, which is made in the cache if it is not there."""
    folder = cache_dir() / f"peers-{PACKAGES[0]}"
    python = folder / "bin/python"
    if not (folder / "made").is_file():
        venv.create(folder, with_pip=True, clear=True)
        pip = subprocess.run(
            [python, "-m", "pip", "install", "-q", *PACKAGES], capture_output=True, text=True, check=False
        )
        if pip.returncode:
            raise Skipped(
                f"pip cannot install {PACKAGES[0]} for {sys.executable}: {pip.stderr.splitlines()[-1]}"
            )
        (folder / "made").touch()
    return str(python)
