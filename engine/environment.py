"""Mends what the installed packages get wrong, before the model stack is first imported.

The PyPI wheel of torchvision is a CUDA build; beside a CPU build of torch its operators are missing, and transformers,
diffusers and peft then fail to import. Declaring the two operators it looks for is enough: nothing here calls them.
"""

import os
import sys
from typing import Literal


def available_cores() -> int:
    """Logical cores this process may use (affinity counts where the system tells)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
