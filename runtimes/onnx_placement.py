"""Where ONNX Runtime ran each node. Nodes without a CUDA kernel move to the CPU, and only the profile says so."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yizhi.errors import InputError

_END = "_kernel_time"
_MOST = 10


@dataclass(frozen=True)
class Placed:
    """A node that ran. integers: whether it read and wrote nothing but integers and booleans."""

    name: str
    operator: str
    provider: str
    integers: bool


def read_placement(profile: Path) -> list[Placed]:
    """Every node of a profile, once. Raises InputError for a file that is no profile, or that shows no node."""
    try:
        events = json.loads(profile.read_text(encoding="utf-8"))
        nodes = {
            event["name"].removesuffix(_END): event["args"]
            for event in events
            if event.get("cat") == "Node" and event["name"].endswith(_END)
        }
        placed = [
            Placed(name, args["op_name"], args["provider"], not _touches_floats(args)) for name, args in nodes.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(profile, f"is not a profile of ONNX Runtime: {type(error).__name__} {error}") from None
    if not placed:
        raise InputError(profile, "shows no node: nothing is proven")
    return placed


def find_misplaced(profile: Path, provider: str) -> list[str]:
    """A line for each node that ran on another provider, or one line that says that no node ran here.

    Nodes that read and write only integers do not count: ONNX Runtime keeps shapes on the CPU on purpose.
    """
    placed = read_placement(profile)
    if not any(node.provider == provider for node in placed):
        where = ", ".join(sorted({node.provider for node in placed}))
        return [f"no node ran on {provider}: {len(placed)} nodes on {where}"]
    elsewhere = [node for node in placed if node.provider != provider and not node.integers]
    lines = [f"{node.name} ({node.operator}): ran on {node.provider}" for node in elsewhere[:_MOST]]
    return lines + ([f"and {len(elsewhere) - _MOST} more"] if len(elsewhere) > _MOST else [])


def _touches_floats(args: dict[str, Any]) -> bool:
    """Whether a tensor among the inputs or outputs is of floating type; also where the profile does not say."""
    tensors = [*args.get("input_type_shape", []), *args.get("output_type_shape", [])]
    return not tensors or any("float" in kind or kind == "double" for tensor in tensors for kind in tensor)
