"""Every error that autoquant raises on purpose.

```
AutoquantError
├── InputError            what was asked cannot be done; exit status 2
│   ├── SpaceError        a search space: unknown key, wrong type, pattern without a match
│   ├── TaskError         a task: unknown name, missing data, bad weights
│   ├── TraceError        a model that cannot be captured as a graph
│   ├── RecipeError       a recipe that does not fit the task
│   ├── StudyError        a study: missing, existing with another space, in use
│   ├── ArtifactError     a file that is no ONNX model, or none of ours
│   ├── CheckpointError   what a training left behind is missing, damaged, or of another one
│   ├── StorageError      a results folder or a storage that cannot be used
│   └── ClusterError      no Ray, another version of it, or too little of what is asked
├── TrialError            one candidate failed; recorded, the search goes on
│   ├── ParityError       the exported file disagrees with the quantized model
│   ├── NumericError      a scale or a weight that is not finite
│   └── TrainingError     training that diverged, or for which memory does not suffice
├── Rejection             a candidate that cannot enter the front; carries what was seen
└── NegativeAnswer        it ran, and the answer is no; exit status 1
```

An exception of a dependency is translated at its one door: torch.export in
`quantize.trace`, Brevitas in `quantize`, ONNX in `export`, ONNX Runtime and
OpenVINO in `backends`, Optuna in `search.storage`, Ray in `cluster`.
"""

from typing import Any

__all__ = [
    "ArtifactError",
    "AutoquantError",
    "CheckpointError",
    "ClusterError",
    "InputError",
    "NegativeAnswer",
    "NumericError",
    "ParityError",
    "RecipeError",
    "Rejection",
    "SpaceError",
    "StorageError",
    "StudyError",
    "TaskError",
    "TraceError",
    "TrainingError",
    "TrialError",
]


class AutoquantError(Exception):
    """Root of the tree."""


class InputError(AutoquantError):
    """What was asked cannot be done; the message names the thing and the way out."""


class SpaceError(InputError):
    """A search space that does not hold together."""


class TaskError(InputError):
    """A task that is unknown, or whose data or weights are missing or wrong."""


class TraceError(InputError):
    """A model that `torch.export` cannot capture as one graph."""


class RecipeError(InputError):
    """A recipe that does not fit the task's layers."""


class StudyError(InputError):
    """A study that is missing, in use, or not the one that was meant."""


class ArtifactError(InputError):
    """A file that is not an ONNX model, or not one that autoquant wrote."""


class CheckpointError(InputError):
    """What a training left behind is missing, damaged, unfinished, or of another training."""


class StorageError(InputError):
    """A results folder or a storage URL that cannot be read or written."""


class ClusterError(InputError):
    """A cluster that cannot be reached, runs other versions, or has not what is asked of it."""


class TrialError(AutoquantError):
    """One candidate failed. The reason goes into the record and the search goes on."""


class ParityError(TrialError):
    """The exported file and the quantized model that it came from disagree."""


class NumericError(TrialError):
    """A scale, a zero point or a weight that is not finite."""


class TrainingError(TrialError):
    """Training that diverged, or for which memory does not suffice."""


class Rejection(AutoquantError):
    """A candidate was turned away before it was fully measured.

    Attributes:
        measurement: a `Measurement` of what was seen.
        artifact: the `Artifact` that was looked at, where there was one already.
    """

    def __init__(self, reason: str, measurement: Any, artifact: Any = None) -> None:
        super().__init__(reason)
        self.measurement = measurement
        self.artifact = artifact


class NegativeAnswer(AutoquantError):
    """The command ran and the answer is no (nothing feasible, nothing verified)."""
