"""Ctrl-C at any time: exit code 130 and one line, never a traceback."""

import signal
import subprocess
import sys
import time
import weakref

import pytest

from sateen.cli.io import guarded

CHILD = """
import signal, sys
signal.signal(signal.SIGINT, {handler})  # whatever the tests were started with
import sateen.cli.main

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.exit(sateen.cli.main.main(["formats"]))
"""


def child(module: str, handler: str) -> subprocess.CompletedProcess[str]:
    program = CHILD.format(module=module, handler=handler)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


@pytest.mark.parametrize(
    "module",
    ["sateen.cli.io", "numpy", "rich.console", "sateen.options", "sateen.cli.formats", "sateen.fpga"],
)
def test_while_libraries_are_loaded(module):
    p = child(module, "signal.default_int_handler")
    assert (p.returncode, p.stdout, p.stderr) == (130, "", "sateen: error: interrupted\n")


def test_ignored_stays_ignored():
    """As of a job that a shell without job control started in the background."""
    p = child("numpy", "signal.SIG_IGN")
    assert p.returncode == 0 and "int8" in p.stdout


def test_in_a_callback_that_ignores_exceptions(capsys):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    class Thing:
        pass

    def command():
        thing = Thing()
        kept = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
        del thing
        time.sleep(60)
        return 3 if kept else 0

    try:
        assert guarded(command) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "sateen: error: interrupted\n"
