"""Makes torchvision importable where its build does not fit torch's.

The package index has torchvision for torch with CUDA alone. Beside a torch for processors its
library does not load, and `import torchvision` fails for want of the declarations of two
operators. Users have matching builds; tests declare the operators.
"""

import sys

SOURCE = """
import torch
library = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
_NAMESPACE: dict[str, object] = {}


def is_matching() -> bool:
    """Whether torchvision can be imported as it is."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        return False
    return True


def import_torchvision() -> None:
    """Import torchvision, its operators declared where that is needed."""
    if _NAMESPACE or is_matching():
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    exec(SOURCE, _NAMESPACE)  # keeps the library, whose declarations end with it
    import torchvision  # noqa: F401
