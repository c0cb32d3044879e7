"""Names, errors, the catalogue's table, sparsity patterns."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from sateen.errors import FormatError, SateenError
from sateen.formats import (
    PATTERNS,
    Integer,
    Minifloat,
    SparsityPattern,
    accumulator_bits,
    all_formats,
    parse_format,
    parse_sparsity,
    table,
)
from sateen.formats.catalog import markdown_table


def test_the_catalogue_is_complete():
    names = [f.name for f in all_formats()]
    assert len(set(names)) == len(names)
    want = {f"{u}int{b}" for u in ("", "u") for b in range(1, 9)} | {f"int{b}n" for b in range(2, 9)}
    want |= {f"e{e}m{m}" for e in range(1, 6) for m in range(7) if 3 <= 1 + e + m <= 8} | {"e4m3fn"}
    assert set(names) == want


@pytest.mark.parametrize("f", all_formats(), ids=str)
def test_print_and_parse(f):
    assert parse_format(f.name) is parse_format(f.name)
    assert parse_format(f.name) == f and hash(parse_format(f.name)) == hash(f)
    assert parse_format(f" {f.name.upper()} ") == f
    assert str(f) == f.name
    copy = pickle.loads(pickle.dumps(f))
    assert copy == f and np.array_equal(copy.fixed([0, 1]), f.fixed([0, 1]))


def test_fields_and_names():
    assert parse_format("int8n") == Integer(8, signed=True, narrow=True)
    assert parse_format("uint3") == Integer(3, signed=False)
    assert parse_format("e4m3fn") == Minifloat(4, 3, 7, "fn") != parse_format("e4m3") == Minifloat(4, 3)
    assert parse_format("e5m2") == Minifloat(5, 2) == Minifloat(5, 2, 15, "ieee")
    assert parse_format("e4m3b11").name == "e4m3b11" and parse_format("e4m3b7").name == "e4m3"
    assert parse_format("e5m2b10") == Minifloat(5, 2, 10, "none")
    with pytest.raises(AttributeError):
        parse_format("int8").bits = 4  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        parse_format("int8")._fixed_table[0] = 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "int77",
            r"unknown format 'int77': integers have 1 to 8 bits, not 77; nearest is 'int8'\. Formats",
        ),
        ("uint0", r"integers have 1 to 8 bits, not 0; nearest is 'uint1'"),
        ("int9n", r"1 to 8 bits, not 9; nearest is 'int8n'"),
        ("uint8n", r"only signed integers have a narrow form; nearest is 'uint8'"),
        ("int1n", r"narrow takes 2 bits or more; nearest is 'int2n'"),
        ("e6m1", r"at most 5 exponent bits, because sums are exact .* 128 bits .*; nearest is 'e5m1'"),
        ("e0m3", r"a minifloat has 1 to 5 exponent bits; nearest is 'e1m3'"),
        ("e4m4", r"are 9 bits; a minifloat has 3 to 8; nearest is 'e4m3'"),
        ("e1m0", r"are 2 bits; a minifloat has 3 to 8; nearest is 'e1m1'"),
        ("e3m2fn", r"'fn' exists only as e4m3fn; nearest is 'e3m2'"),
        ("e4m3b64", r"the bias is 0 to 63, not 64; nearest is 'e4m3'"),
        ("e4m3fnuz", r"unknown format 'e4m3fnuz'; did you mean 'e4m3fn'\? Formats are int1 to int8"),
        ("in8", r"did you mean 'int8'"),
        ("", r"unknown format ''; did you mean '.+'\?"),
        ("int" + "9" * 5000, r"unknown format 'int99"),
        (8, r"format 8: a format is given by name; formats are "),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(FormatError, match=message) as caught:
        parse_format(name)
    assert isinstance(caught.value, SateenError) and "\n" not in str(caught.value)


@pytest.mark.parametrize("e", range(-1, 9))
@pytest.mark.parametrize("m", range(-1, 9))
def test_every_split_exists_or_is_refused(e, m):
    if 1 <= e <= 5 and m >= 0 and 3 <= 1 + e + m <= 8:
        assert Minifloat(e, m).bits == 1 + e + m
        return
    with pytest.raises(FormatError, match=r"^Minifloat e-?\dm-?\d: "):
        Minifloat(e, m)
    if e >= 0 and m >= 0:
        with pytest.raises(FormatError) as caught:
            parse_format(f"e{e}m{m}")
        nearest = re.search(r"nearest is '(\w+)'", str(caught.value))
        assert nearest and parse_format(nearest[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Integer(0), r"^Integer: bits = 0; it must be 1 to 8"),
        (lambda: Integer(9), r"^Integer: bits = 9; it must be 1 to 8"),
        (lambda: Integer(True), r"bits = True"),
        (lambda: Integer(4, signed=False, narrow=True), r"narrow uint4; only signed"),
        (lambda: Integer(1, narrow=True), r"no value but zero"),
        (lambda: Minifloat(2.0, 1), r"exponent_bits = 2.0; it must be an integer"),
        (lambda: Minifloat(6, 1), r"e6m1: exponent_bits = 6; it must be 1 to 5, because .* 128 bits"),
        (lambda: Minifloat(3, 2, -1), r"e3m2: bias = -1; it must be 0 to 63"),
        (lambda: Minifloat(3, 2, 3, "inf"), r"specials = 'inf'; it must be one of none, fn, ieee"),
        (lambda: Minifloat(3, 2, 3, "fn"), r"specials = 'fn'; here it must be none \(fn is e4m3fn"),
        (lambda: Minifloat(5, 2, 15, "none"), r"specials = 'none'; here it must be ieee"),
    ],
)
def test_constructors_refuse(make, message):
    with pytest.raises(FormatError, match=message):
        make()


def test_table():
    rows = {r["name"]: r for r in table()}
    assert list(rows) == [f.name for f in all_formats()]
    assert rows["e4m3fn"] == {
        "name": "e4m3fn",
        "bits": 8,
        "min": -448.0,
        "max": 448.0,
        "smallest": 2.0**-9,
        "lsb": -9,
        "fixed_bits": 19,
        "accumulator": 51,
        "onnx": "FLOAT8E4M3FN",
    }
    known = {n: r["onnx"] for n, r in rows.items() if r["onnx"] != "QONNX"}
    assert known == {
        **{n: n.upper() for n in ("int2", "int4", "int8", "uint2", "uint4", "uint8")},
        "e4m3fn": "FLOAT8E4M3FN",
        "e5m2": "FLOAT8E5M2",
        "e2m1": "FLOAT4E2M1",
    }
    widths = {"uint8": 9, "int8": 8, "int8n": 8, "int1": 1, "uint1": 2, "e2m1": 5, "e3m2": 10, "e3m4": 12}
    assert {n: rows[n]["fixed_bits"] for n in widths} == widths


def test_documented_table():
    documented = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    assert markdown_table() in documented, "docs/formats.md: paste the output of python -m sateen.formats"


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 64, 65])
@pytest.mark.parametrize(
    ("a", "w"), [("uint8", "int8"), ("int1", "int1"), ("e2m1", "e3m0"), ("e5m2", "e5m2")]
)
def test_accumulators_never_overflow(a, w, length):
    a, w = parse_format(a), parse_format(w)
    products = [x * y for x in (a.min_fixed, a.max_fixed) for y in (w.min_fixed, w.max_fixed)]
    half = 1 << (accumulator_bits(a, w, length) - 1)
    assert -half <= length * min(products) and length * max(products) < half


def test_accumulator_of_nothing():
    with pytest.raises(FormatError, match="0 products; it must be 1 or more"):
        accumulator_bits(parse_format("int8"), parse_format("int8"), 0)


def test_sparsity_patterns():
    assert set(PATTERNS) == {"dense", "1:2", "2:4", "1:4", "4:8", "2:8", "1:8", "2:16"}
    for name, pattern in PATTERNS.items():
        assert parse_sparsity(name) == pattern and pattern.name == str(pattern) == name
    assert parse_sparsity("2:8") == SparsityPattern(2, 8) == SparsityPattern.parse(" 2:8 ")
    assert [parse_sparsity(n).index_bits for n in ("dense", "1:2", "2:4", "2:8", "2:16")] == [0, 1, 2, 3, 4]
    assert (
        parse_sparsity("DENSE").dense
        and parse_sparsity("8:8").dense
        and parse_sparsity("2:8").density == 0.25
    )
    assert SparsityPattern(1, 6).index_bits == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse_sparsity("3:7"), r"unknown sparsity '3:7'; patterns are dense, 1:2, "),
        (lambda: parse_sparsity("8:2"), r"unknown sparsity '8:2'"),
        (lambda: parse_sparsity(None), r"unknown sparsity None"),
        (lambda: SparsityPattern(0, 4), r"n = 0; it must be an integer above 0"),
        (lambda: SparsityPattern(5, 4), r"5:4: n must be at most m; dense is 4:4"),
        (lambda: SparsityPattern(1, 257), r"m must be at most 256"),
    ],
)
def test_sparsity_errors(make, message):
    with pytest.raises(FormatError, match=message):
        make()
