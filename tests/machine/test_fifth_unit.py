"""Room for more units than four: with one more row in the table, whatever knows units has five of them."""

import subprocess
import sys
from pathlib import Path


def test_a_fifth_unit_needs_a_row_in_the_table():
    script = Path(__file__).with_name("fifth_unit.py")
    p = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
