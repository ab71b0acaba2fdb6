"""Files for people: one recipe without a search, or a trial's file, kept or rebuilt."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoquant.backends.machine import has_integer_dot_product
from autoquant.backends.registry import BACKENDS, DEFAULT_BACKEND
from autoquant.core.artifact import SUFFIXES, Artifact, find_kept, suffix_of
from autoquant.core.recipe import Recipe
from autoquant.core.space import named_recipes
from autoquant.core.task import Task
from autoquant.core.training import TrainingWatch
from autoquant.core.trial import Measurement, Trial
from autoquant.errors import InputError, RecipeError, StudyError
from autoquant.evaluate import FRONT_PROTOCOL, EvaluationOptions, Evaluator
from autoquant.search.record import Record
from autoquant.search.storage import Location

__all__ = [
    "check_output",
    "check_suffix",
    "find_named_recipe",
    "load_single_evaluator",
    "measure_recipe",
    "read_kept",
    "read_recipe",
    "rebuild_trial",
    "seal_for_target",
]


def load_single_evaluator(
    task: Task,
    seed: int,
    threads: int,
    batch: int,
    backend: str = DEFAULT_BACKEND,
    checkpoints: Path | None = None,
    *,
    full_integer: bool = False,
) -> Evaluator:
    """What measures one recipe, with the patience that otherwise a front is timed with."""
    from autoquant.build import build_evaluator

    options = EvaluationOptions(threads, batch, latency=FRONT_PROTOCOL, full_integer=full_integer)
    return build_evaluator(task, seed, options, backend, checkpoints)


def measure_recipe(
    evaluator: Evaluator, recipe: Recipe, watch: TrainingWatch | None = None
) -> tuple[Artifact, Measurement]:
    """Build and measure a recipe on both splits; the figures are in the file's passport too.

    Args:
        evaluator: of the task.
        recipe: what to build.
        watch: told how it is trained, if it is.

    Raises:
        RecipeError: the recipe does not fit the task's layers.
        TrialError: it cannot be built, or the file does not hold what it promises.
    """
    measurement, artifact = evaluator.evaluate(recipe, watch=watch)
    figures = evaluator.report(artifact)
    memory = evaluator.measure_memory(artifact)
    later = {"peak_memory_bytes": memory, **(figures.model_dump() if figures else {})}
    measurement = measurement.model_copy(update=later)
    figures_of = measurement.model_dump(mode="json")
    return evaluator.builder.seal(artifact, figures_of, evaluator.fingerprint), measurement


def find_named_recipe(name: str, evaluator: Evaluator) -> Recipe:
    """The recipe that goes by a name, for a task and this machine.

    Raises:
        RecipeError: no recipe goes by it here.
    """
    layers = [layer.name for layer in evaluator.layers]
    named = named_recipes(layers, is_exact=evaluator.is_exact, backend=evaluator.backend.name)
    if name not in named:
        raise RecipeError(
            f"'{name}' is no recipe of {evaluator.backend.name} on this processor; there are "
            f"{', '.join(named)}"
        )
    return named[name]


def read_recipe(text: str) -> Recipe | None:
    """A recipe from a file; None for a known name.

    Raises:
        RecipeError: neither a file nor a name, or not a recipe.
    """
    is_exact = has_integer_dot_product()
    lists = [named_recipes([], is_exact=is_exact, backend=backend) for backend in BACKENDS]
    names = list(dict.fromkeys(name for named in lists for name in named))
    if text in names:
        return None
    path = Path(text)
    if not path.is_file():
        raise RecipeError(f"'{text}' is neither a file nor a named recipe: {', '.join(names)}")
    return Recipe.from_json(path.read_text(encoding="utf-8", errors="replace"))


def read_kept(location: Location, trial: Trial) -> bytes | None:
    """A trial's file, if it was kept."""
    kept = find_kept(location.artifacts, trial.digest)
    return None if kept is None else kept.read_bytes()


def seal_for_target(content: bytes, trial: Trial, record: Record) -> bytes:
    """A kept file for the target that its study is seen from: the passport has its figures.

    Args:
        content: the file, with the figures of the first target.
        trial: as the record has it.
        record: of the study; where that is seen from no target, the file stays as it is.

    Raises:
        StudyError: the record does not tell what the target's figures were measured on.
    """
    if record.target is None:
        return content
    from autoquant.export.formats import read_artifact
    from autoquant.export.passport import seal

    fingerprint = record.fingerprint_of(trial)
    if fingerprint is None:
        raise StudyError(f"trial {trial.number} was never timed on target '{record.target}'")
    figures = trial.measurement().model_dump(mode="json")
    return seal(read_artifact(content), figures, fingerprint).content


def rebuild_trial(
    evaluator: Evaluator, trial: Trial, fingerprint: Mapping[str, Any] | None
) -> bytes:
    """A trial's file, rebuilt from its recipe, its figures in the passport.

    Args:
        evaluator: of the trial's study.
        trial: what to rebuild.
        fingerprint: of the machine that measured it; None if that is not known.

    Raises:
        StudyError: it comes out with another size.
    """
    artifact = evaluator.rebuild(trial.recipe)
    figures = trial.measurement().model_dump(mode="json")
    sealed = evaluator.builder.seal(artifact, figures, fingerprint)
    # before the figures: the description of another machine may take another length
    if trial.size_bytes not in (None, artifact.size_bytes):
        raise StudyError(
            f"trial {trial.number} rebuilds to {artifact.size_bytes} bytes instead of "
            f"{trial.size_bytes}: weights, data or library versions have changed since"
        )
    return sealed.content


def check_output(path: Path, option: str = "") -> Path:
    """A path that can be written.

    Args:
        path: of the file.
        option: what to name before it in a message.

    Raises:
        InputError: its folder is missing, or it is a folder itself.
    """
    if path.is_dir():
        raise InputError(f"{option}{path}: is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{option}{path}: there is no folder '{path.parent}'")
    return path


def check_suffix(
    path: Path, backend: str, study: str | None = None, wanted: str | None = None
) -> None:
    """Refuse a file name, or a format, of another runtime's files.

    Args:
        path: of the file.
        backend: that ran and judged it.
        study: whose it is, to be named in a message.
        wanted: `onnx` or `tflite`; None for the backend's own.

    Raises:
        InputError: the backend's files are of another format.
    """
    suffix = suffix_of(backend)
    whose = f"study '{study}' was judged on {backend}" if study else f"--backend {backend}"
    other = "onnxruntime" if suffix == ".tflite" else "litert"
    way_out = f"; for the other format search or quantize with --backend {other}"
    if wanted is not None and f".{wanted}" != suffix:
        raise InputError(f"--format {wanted}: {whose}, which makes {suffix} files{way_out}")
    if path.suffix in SUFFIXES and path.suffix != suffix:
        raise InputError(f"-o {path}: {whose}, which makes {suffix} files{way_out}")
