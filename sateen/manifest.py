"""A build folder's files: each read and hashed once, and only if it is the one that was compiled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sateen.build_folder import MANIFEST, recover
from sateen.errors import BuildError

VERSION = 2
OWN = "sha256"
"""The field with the hash of the others."""


class BuildFiles:
    """A build folder that is there, and as far as it has been read.

    Raises BuildError for a folder without a manifest that this Sateen reads.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self._files: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        """A file of the build. Raises BuildError if it is missing or not the one that was compiled."""
        if name not in self._files:
            self._files[name] = _read_file(self.folder, self.manifest, name)
        return self._files[name]

    def read_all(self) -> None:
        """Raises BuildError naming the first file that is missing or not the one that was compiled."""
        for name in self.manifest["files"]:
            self.read(name)

    @property
    def memory_bytes(self) -> int:
        """Of the memory that a run needs."""
        memory = self.manifest["memory"]
        return int(memory["data_offset"] + self.arrays * memory["data_size"])

    @property
    def arrays(self) -> int:
        """Of the machine: each takes the manifest's `batch` of samples in a run."""
        return int(self.manifest["config"].get("arrays", 1))

    @property
    def samples_of_a_run(self) -> int:
        return int(self.arrays * self.manifest["batch"])

    @property
    def schedule(self) -> dict[str, Any]:
        """What schedule.json holds."""
        return dict(json.loads(self.read("schedule.json")))

    @property
    def errors(self) -> dict[str, Any]:
        """What errors.json holds; empty where there were no samples to measure with."""
        return dict(json.loads(self.read("errors.json"))) if "errors.json" in self.manifest["files"] else {}


def read_manifest(build: Path) -> dict[str, Any]:
    """The manifest of a build folder. Raises BuildError."""
    recover(build)
    path = build / MANIFEST
    if not path.is_file():
        state = "is not a build folder (no manifest.json)" if build.exists() else "does not exist"
        raise BuildError(f"build {build}: {state}; make one with: sateen compile MODEL.onnx -o {build}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as e:
        raise BuildError(f"build {build}: manifest.json cannot be read ({e}); compile again") from None
    if not isinstance(manifest, dict) or not {"config", "inputs", "outputs"} <= set(manifest):
        raise BuildError(f"build {build}: manifest.json lacks config, inputs or outputs; compile again")
    if manifest.get("version") != VERSION:
        raise BuildError(
            f"build {build}: manifest.json has version {manifest.get('version')!r}, this Sateen reads "
            f"{VERSION}; compile again"
        )
    ports = [manifest["inputs"], manifest["outputs"]]
    if not all(
        isinstance(p, list) and p and all(isinstance(q, dict) and {"name", "shape"} <= set(q) for q in p)
        for p in ports
    ):
        raise BuildError(f"build {build}: manifest.json is damaged (inputs or outputs); compile again")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise BuildError(f"build {build}: manifest.json has no hashes of the files; compile again")
    if manifest.get(OWN, own_hash(manifest)) != own_hash(manifest):
        raise BuildError(
            f"build {build}: manifest.json is not what was compiled (hash differs); compile again"
        )
    return manifest


def own_hash(manifest: dict[str, Any]) -> str:
    """Of all but itself, which `OWN` is to hold."""
    rest = {k: v for k, v in manifest.items() if k != OWN}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_file(build: Path, manifest: dict[str, Any], name: str) -> bytes:
    try:
        data = (build / name).read_bytes()
    except OSError as e:
        raise BuildError(f"{build / name}: cannot be read ({e.strerror}); compile again") from None
    if hashlib.sha256(data).hexdigest() != manifest["files"].get(name):
        raise BuildError(
            f"{build / name}: not the file that was compiled (hash differs); delete it and compile again"
        )
    return data
