"""What this process may use of the machine; and mends what the installed packages get wrong, before the model stack is
first imported.

The PyPI wheel of torchvision is a CUDA build; beside a CPU build of torch its operators are missing, and transformers,
diffusers and peft then fail to import. Declaring the two operators it looks for is enough: nothing here calls them.
"""

import os
import sys
from pathlib import Path
from typing import Literal


def available_cores() -> int:
    """Logical cores this process may use (affinity counts where the system tells)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Host memory that this process may still take: what the system has, or what is left of its container's limit."""
    import psutil

    available = psutil.virtual_memory().available
    try:
        limit, used = (cgroup / "memory.max").read_text().strip(), int((cgroup / "memory.current").read_text())
        lines = (cgroup / "memory.stat").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, StopIteration):  # no container, or one of another kind
        return available
    return available if limit == "max" else min(available, int(limit) - used + cached)


def ensure_torchvision() -> Literal["native", "absent", "mended"]:
    """Make `import torchvision` succeed; a healthy or an absent torchvision is left alone."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import torchvision

        return "mended" if hasattr(torchvision, "_operator_declarations") else "native"
    except ImportError:
        return "absent"
    except RuntimeError as err:
        if "torchvision::" not in str(err):
            raise
    import torch

    declarations = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        declarations.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    import torchvision

    torchvision._operator_declarations = declarations  # they vanish with the Library object
    return "mended"
