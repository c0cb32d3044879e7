"""`sateen cost --estimate`."""

import json


def test_a_preset(sateen):
    code, out, err = sateen("cost", "--preset", "tiny", "--estimate", "--device", "ecp5", "--json")
    assert code == 0 and not err
    found = json.loads(out)
    assert found["name"] == "tiny" and found["source"] == "estimated" and list(found["devices"]) == ["ecp5"]
    device = found["devices"]["ecp5"]
    assert device["total"]["lut"] > 1000 and device["error"]["lut"]["count"]
    assert sum(p["dsp"] for p in device["parts"]) == device["total"]["dsp"]
    clock = device["clock"]
    assert clock["source"] == "estimated" and 20 < clock["mhz"]["6"] < clock["mhz"]["8"] < 300
    assert clock["error"].keys() == clock["mhz"].keys() and clock["error"]["6"]["count"]


def test_a_clock_is_estimated_for_ecp5_alone(sateen):
    code, out, _ = sateen("cost", "--preset", "tiny", "--estimate", "--device", "xcup", "--json")
    assert code == 0 and "clock" not in json.loads(out)["devices"]["xcup"]
    code, out, _ = sateen("cost", "--preset", "mac256", "--estimate")
    assert code == 0 and "clock, estimated:" in out and "each left out of the fit" in out
    assert "outside of the machines that were placed: multipliers = 256" in out


def test_it_says_that_it_is_an_estimate_and_how_good(sateen, tmp_path):
    config = tmp_path / "large.toml"
    config.write_text("rows = 16\ncols = 64\nlanes = 4\ngroup = 4\nparameter_depth = 64\n")
    code, out, _ = sateen("cost", config, "--estimate")
    assert code == 0
    assert "estimated" in out and "machines that the fit has not seen" in out
    assert "'large' lies outside of what the model was fitted to" in out and "multipliers = 4096" in out


def test_a_build_has_an_energy_too(sateen, build):
    code, out, _ = sateen("cost", build, "--estimate", "--json")
    assert code == 0
    energy = json.loads(out)["energy"]
    uj = energy["uj"]
    assert "Horowitz" in energy["source"] and 0 < uj["total_low"] < uj["total_high"]
    assert uj["total_low"] == sum(uj[k] for k in ("multiply", "add", "on_chip", "memory_low"))
    assert not (build / "cost.json").exists()
    code, out, _ = sateen("cost", build, "--estimate")
    assert code == 0 and "energy of a sample:" in out


def test_wrong_options(sateen, build):
    for command, message in (
        (("cost",), "no build is given"),
        (("cost", "--preset", "tiny"), "add --estimate"),
        (("cost", "--estimate"), "nothing to estimate is given"),
        (("cost", build, "--estimate", "--dsp-sums"), "leave --estimate or --dsp-sums out"),
        (("cost", build, "--estimate", "--wide-muxes"), "leave --estimate or --wide-muxes out"),
        (("cost", build, "--device", "ecp5", "--dsp-sums"), "of xcup, not of 'ecp5'"),
        (("cost", build, "--estimate", "--preset", "tiny"), "choose one"),
        (("cost", "--preset", "huge", "--estimate"), "unknown preset 'huge'"),
        (("cost", "--preset", "tiny", "--estimate", "--device", "asic"), "devices are ecp5, xcup"),
    ):
        code, out, err = sateen(*command)
        assert code == 2 and not out and message in err, command
