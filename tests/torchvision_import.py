"""Makes torchvision importable where its build does not fit torch's.

The package index has torchvision for torch with CUDA alone. Beside a torch for processors its
library does not load, and `import torchvision` fails for want of the declarations of two
operators. Users have matching builds; tests declare the operators.
"""

import sys

import torch

_DECLARED: list[torch.library.Library] = []  # kept: the declarations end with it


def import_torchvision() -> None:
    """Import torchvision, its operators declared where that is needed."""
    if _DECLARED:
        return
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float threshold) -> Tensor")
        _DECLARED.append(library)
        import torchvision  # noqa: F401
