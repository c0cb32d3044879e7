"""What is said of a file whose integer operators were rewritten."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from sateen.compiler.importer.nouns import PORTS, Finding


def of_the_file(
    findings: list[Finding], owners: Mapping[str, str], types: Mapping[str, str], ports: Container[str]
) -> list[Finding]:
    """The findings of the rewritten graph's nodes as findings of the file's, of several for one the worst, of equally
    bad ones that of the node that has the file's name, which does the work.

    `owners` is `Light.owners`, `types` has the operators of the file's nodes by name, `ports` are inputs and outputs
    that have nodes of their own.
    """
    rank = {False: 0, None: 1, True: 2}
    found: dict[tuple[str, bool], tuple[tuple[int, bool], Finding]] = {}
    for f in findings:
        port = f.op_type in PORTS
        owner = f.node if port else owners.get(f.node, f.node)
        if not port and owner != f.node and owner in ports and owner not in types:
            if f.supported is not False:
                continue
            port, kind = True, PORTS[0]
        else:
            kind = f.op_type if port else types.get(owner, f.op_type)
        score, key = (rank[f.supported], f.node != owner), (owner, port)
        if key not in found or score < found[key][0]:
            found[key] = score, replace(f, node=owner, op_type=kind)
    return [f for _, f in found.values()]


def remarks(dynamic: Sequence[str]) -> tuple[str, ...]:
    """What differs from the file, in words."""
    if not dynamic:
        return ()
    listed = ", ".join(f"'{name}'" for name in dynamic[:4])
    more = f" and {len(dynamic) - 4} more" if len(dynamic) > 4 else ""
    return (
        f"{listed}{more}: the file finds the scale in each sample; here one for all comes from the calibration samples",
    )
