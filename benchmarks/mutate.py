"""Damaged files: whatever is in one, there is an answer, the right one, or one line that says what is wrong.

    benchmarks/mutate.py [--kinds npz,onnx] [--cases N] [--seconds S] [--out FOLDER]

Each case is a kind of file and a seed, from which the damage follows: to bytes, to fields of a protobuf message, to
values of JSON. A case fails with an exception that is no SateenError, after 20 seconds of processor time, with 2 GB
more of memory, or with other outputs than those of the file before. Interrupted, it goes on where it was; failures
are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import random
import resource
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor

import sateen
from sateen.compiler.importer import import_model
from sateen.compiler.ptq import load_recipe
from sateen.errors import SateenError
from sateen.machine.config import AcceleratorConfig

LIMIT_S = 20
"""Of processor time; a case that only waits ends after ten times as long."""
MEMORY = 2 << 30
ODD_INTEGERS = (0, 1, -1, 2, 7, 255, 256, 65535, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63))
ODD_TEXTS = ("", "\0", "x", "a" * 5000, "../x", "1", "nan", "[", "\u202e", "input", "logits")
ODD_VALUES: tuple[Any, ...] = (
    *ODD_INTEGERS,
    *ODD_TEXTS,
    None,
    True,
    [],
    {},
    [[[]]],
    0.5,
    1e308,
    -1e-300,
    1 << 70,
)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, replaced, moved, doubled or lost."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        i, n = rng.randrange(len(out) + 1), rng.choice((1, 2, 4, 8, 64, len(out) // 3))
        match rng.randrange(6):
            case 0 if i < len(out):
                out[i] ^= 1 << rng.randrange(8)
            case 1:
                out[i : i + n] = rng.randbytes(n)
            case 2:
                del out[i : i + n]
            case 3:
                out[i:i] = out[i : i + n]
            case 4:
                out[i : i + n] = bytes([rng.choice((0, 255, 127, 128))]) * n
            case _:
                j = rng.randrange(len(out) + 1)
                out[i : i + n] = out[j : j + n]
    return bytes(out)


def damaged_message(message: Any, rng: random.Random) -> None:
    """One field of a protobuf message, or of one inside it, in place."""
    while True:
        name, field = rng.choice([(f.name, f) for f, _ in message.ListFields()] or [(None, None)])
        if field is None:
            return
        value = getattr(message, name)
        repeated = hasattr(value, "__len__") and not isinstance(value, str | bytes)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            if repeated and rng.random() < 0.15:
                i = rng.randrange(len(value))
                if rng.random() < 0.5:
                    del value[i]
                else:
                    value.append(value[i])
                return
            message = rng.choice(value) if repeated else value
            continue
        odd = (ODD_TEXTS if isinstance(value[0] if repeated else value, str | bytes) else ODD_INTEGERS) if (
            not repeated or len(value)
        ) else ODD_INTEGERS  # fmt: skip
        with contextlib.suppress(TypeError, ValueError):
            new = rng.choice(odd)
            if isinstance(value[0] if repeated else value, bytes):
                new = damaged(value[0] if repeated else value, rng)
            if not repeated:
                setattr(message, name, new)
            elif rng.random() < 0.3:
                del value[rng.randrange(len(value))]
            else:
                value[rng.randrange(len(value))] = new
        return


def damaged_json(value: Any, rng: random.Random) -> Any:
    """One value, or a key, of a document, which is changed in place."""
    holder, key, inner = None, None, value
    while isinstance(inner, dict | list) and inner and (holder is None or rng.random() < 0.8):
        holder = inner
        key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        inner = inner[key]
    if holder is None:
        return rng.choice(ODD_VALUES)
    if rng.random() < 0.2:
        del holder[key]
    elif isinstance(inner, int) and rng.random() < 0.5:
        holder[key] = inner + rng.choice((-1, 1, 16, -inner, inner))
    else:
        holder[key] = rng.choice(ODD_VALUES)
    return value


class Cases:
    """What the files are made of: a network, its samples and its build, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with as_file(files("sateen.models") / "digits_cnn.onnx") as path:
            self.model = path.read_bytes()
        self.x = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
        (folder / "model.onnx").write_bytes(self.model)
        stored, packed = io.BytesIO(), io.BytesIO()
        np.savez(stored, input=self.x)
        np.savez_compressed(packed, input=self.x)
        self.archives = [stored.getvalue(), packed.getvalue()]
        if not (folder / "build/manifest.json").exists():
            sateen.compile(
                folder / "model.onnx", folder / "build", calibration={"input": self.x}, preset="tiny"
            )
        self.manifest = (folder / "build/manifest.json").read_bytes()
        self.right = self.outputs(folder / "build", {"input": self.x})
        self.toml = "".join(
            f"{k} = {json.dumps(v)}\n"
            for k, v in json.loads(self.manifest)["config"].items()
            if v is not None
        )

    def outputs(self, build: Path, x: Any, engine: str = "reference") -> dict[str, bytes]:
        found = sateen.run(build, x, engine=engine).outputs or {}
        return {name: y.tobytes() for name, y in found.items()}

    def write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def npz(self, rng: random.Random) -> str | None:
        path = self.write("x.npz", damaged(rng.choice(self.archives), rng))
        self.outputs(
            self.folder / "build", path
        )  # a sum of 32 bits tells damaged data: what is read is right
        return None

    def onnx(self, rng: random.Random) -> str | None:
        if rng.random() < 0.3:
            data = damaged(self.model, rng)
        else:
            model = onnx.load_model_from_string(self.model)
            for _ in range(rng.choice((1, 1, 2, 3))):
                damaged_message(model, rng)
            data = model.SerializeToString()
        path = self.write("m.onnx", data)
        good = all(f.supported for f in sateen.check(path))
        if good and rng.random() < 0.1:
            build = self.folder / "other"
            shutil.rmtree(build, ignore_errors=True)
            manifest = sateen.compile(path, build, calibration=self.samples(path), preset="tiny")
            x = self.samples(path)
            if manifest["inputs"] and self.outputs(build, x) != self.outputs(build, x, "program"):
                return "program differs from reference"
        return None

    def samples(self, path: Path) -> dict[str, np.ndarray]:
        ports = import_model(path).inputs
        if sum(int(np.prod(p.shape)) for p in ports) > 1 << 16:
            raise SateenError("too large to be tried")
        return {p.name: np.random.default_rng(0).random((4, *p.shape), np.float32) for p in ports}

    def toml_file(self, rng: random.Random) -> str | None:
        lines = self.toml.splitlines()
        i = rng.randrange(len(lines))
        if rng.random() < 0.6:
            lines[i] = f"{lines[i].split(' =')[0]} = {json.dumps(rng.choice(ODD_VALUES))}"
            data = "\n".join(lines).encode()
        else:
            data = damaged(self.toml.encode(), rng)
        path = self.write("c.toml", data)
        with contextlib.suppress(SateenError):
            load_recipe(path)
        AcceleratorConfig.load(path)
        return None

    def manifest_file(self, rng: random.Random) -> str | None:
        if rng.random() < 0.3:
            data = damaged(self.manifest, rng)
        else:
            data = json.dumps(damaged_json(json.loads(self.manifest), rng)).encode()
        build = self.folder / "changed"
        if not build.exists():
            shutil.copytree(self.folder / "build", build)
        (build / "manifest.json").write_bytes(data)
        same = self.outputs(build, {"input": self.x}, rng.choice(("reference", "program"))) == self.right
        return None if same else "other outputs"

    def program(self, rng: random.Random) -> str | None:
        """With the hashes of the damaged files, as if they were meant; what they give cannot be judged."""
        build = self.folder / "meant"
        if not build.exists():
            shutil.copytree(self.folder / "build", build)
        name = rng.choice(("program.bin", "program.bin", "quantized.bin", "weights.bin"))
        data = damaged((self.folder / "build" / name).read_bytes(), rng)
        shutil.copy(self.folder / "build" / name, build / name)
        manifest = json.loads(self.manifest)
        manifest["files"][name] = hashlib.sha256(data).hexdigest()
        manifest.pop("sha256", None)
        try:
            (build / name).write_bytes(data)
            (build / "manifest.json").write_text(json.dumps(manifest))
            self.outputs(build, {"input": self.x[:1]}, rng.choice(("reference", "program", "model")))
        finally:
            shutil.copy(self.folder / "build" / name, build / name)
        return None


KINDS: dict[str, Callable[[Cases, random.Random], str | None]] = {
    "npz": Cases.npz,
    "onnx": Cases.onnx,
    "toml": Cases.toml_file,
    "manifest": Cases.manifest_file,
    "program": Cases.program,
}


class TooLong(BaseException):
    pass


def try_case(cases: Cases, kind: str, seed: int) -> str | None:
    """What is wrong with how the case ended, if anything is."""

    def stop(*_: object) -> None:
        raise TooLong

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for signum in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(signum, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    signal.alarm(10 * LIMIT_S)
    try:
        found = KINDS[kind](cases, random.Random(f"{kind} {seed}"))
    except SateenError as e:
        found = None if "\n" not in str(e) and str(e) else f"message of several lines: {e}"
    except TooLong:
        found = f"longer than {LIMIT_S} s: {traceback.format_exc()[-1500:]}"
    except Exception:
        found = traceback.format_exc()[-3000:]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    return found or (f"{grown >> 20} MiB more of memory" if grown > MEMORY else None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--cases", type=int, default=2000, help="of each kind (default 2000)")
    parser.add_argument("--seconds", type=float, default=240, help="of one call (default 240)")
    parser.add_argument("--out", type=Path, default=Path("build/mutate"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    args.out.mkdir(parents=True, exist_ok=True)
    state_path = args.out / "state.json"
    state: dict[str, Any] = (
        json.loads(state_path.read_text()) if state_path.exists() else {"next": {}, "failures": {}}
    )
    cases = Cases(args.out.resolve())
    until = time.monotonic() + args.seconds
    kinds = args.kinds.split(",")
    while time.monotonic() < until and (kinds := [k for k in kinds if state["next"].get(k, 0) < args.cases]):
        for kind in kinds:
            seed = state["next"].get(kind, 0)
            state["next"][kind] = seed + 1
            state["failures"][f"{kind} {seed}"] = "the process ended"  # unless it comes back
            state_path.write_text(json.dumps(state, indent=1))
            found = try_case(cases, kind, seed)
            if found is None:
                del state["failures"][f"{kind} {seed}"]
            else:
                state["failures"][f"{kind} {seed}"] = found
                print(f"{kind} {seed}: {found.strip().splitlines()[-1]}", flush=True)
    state_path.write_text(json.dumps(state, indent=1))
    done = ", ".join(f"{k} {n}" for k, n in state["next"].items())
    print(f"cases: {done}; failures: {len(state['failures'])}")


if __name__ == "__main__":
    main()
