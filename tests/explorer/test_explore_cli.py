"""`sateen explore`: what it prints, and errors of one line."""

import json
from pathlib import Path

import pytest

from sateen.cli.main import build_parser, main
from sateen.explorer.search import SAMPLERS

MODEL = Path(__file__).resolve().parents[2] / "models/digits_cnn.onnx"
SPACE = 'preset = "tiny"\nweight_format = ["int4", "int8"]\ncols = [2, 4]\nact_bank_depth = 1024\n'


def options(digits, study, *more):
    calibration, data, labels = map(str, digits)
    return [
        "explore", str(MODEL), "-o", str(study), "--calibration", calibration, "--data", data, "--labels", labels, *more
    ]  # fmt: skip


def test_explore_shows_the_front_and_pick_writes_a_member(digits, tmp_path, capsys):
    (tmp_path / "space.toml").write_text(SPACE)
    study, build = tmp_path / "study", tmp_path / "build"
    explore = options(
        digits, study, "--space", str(tmp_path / "space.toml"), "--trials", "4", "--limit", "drop=1"
    )
    assert main(explore) == 0
    table = capsys.readouterr().out
    assert "front on ecp5, limits drop 1" in table and "LUT, FF, DSP, BRAM are estimated" in table
    assert main([*explore, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    needed = {"fps", "cycles", "lut", "ff", "dsp", "bram", "accuracy", "clock", "configuration", "command"}
    assert found["front"] and all(needed <= set(m) for m in found["front"])
    assert main(["explore", str(study), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["front"] == found["front"]
    assert main(["explore", str(study), "--pick", "0", "-o", str(build), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cycles"] == found["front"][0]["cycles"]
    assert (build / "accelerator.v").is_file()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--objectives", "speed"], "unknown objective 'speed'"),
        (["--limit", "lut"], "limit 'lut': it must be NAME=NUMBER"),
        (["--device", "zynq"], "unknown device 'zynq'"),
    ],
)
def test_errors_are_one_line(digits, tmp_path, capsys, more, message):
    assert main(options(digits, tmp_path / "study", "--trials", "1", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("sateen: error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "study").exists()


def test_a_folder_has_to_be_given(capsys, tmp_path):
    assert main(["explore", str(MODEL)]) == 2
    assert "add -o STUDY" in capsys.readouterr().err
    assert main(["explore", str(tmp_path), "--pick", "0", "-o", str(tmp_path / "b")]) == 2
    assert "there is none" in capsys.readouterr().err


def test_the_samplers_are_those_that_there_are():
    text = build_parser().parse_args(["explore", "m", "--sampler", SAMPLERS[-1]])
    assert text.sampler == "exhaustive"
    from sateen.cli.explore_options import SAMPLERS as offered

    assert offered == SAMPLERS
