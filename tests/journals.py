"""Studies of made-up measurements, written as journals, line by line as Optuna would."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoquant.core.evidence import Evidence
from autoquant.core.recipe import PtqOptions, QatOptions, Recipe, WeightBits
from autoquant.core.space import baselines
from autoquant.core.trial import Parity, Partial, Timing, Trial

OBJECTIVES = ["accuracy", "latency", "size"]
SAMPLES = 1000
_START = "2026-01-02T03:04:05.000000+00:00"
_CALIBRATIONS = ("minmax", "mse", "entropy")


def definition(task: str = "digits", names: Sequence[str] = ()) -> dict[str, Any]:
    """A search space as a study's header keeps it."""
    layers = {"*": {"weight_bits": [8, 4], "exclude": [False, True]}}
    return {
        "version": 1, "task": task, "objectives": OBJECTIVES,
        "constraints": {"max_accuracy_drop": 0.05}, "layers": layers,
        "quantizer": {"calibration": list(_CALIBRATIONS)},
    }  # fmt: skip


def measured_trials(count: int, layers: int = 8, seed: int = 0) -> list[Trial]:
    """Complete trials, baselines first; sensitivity falls with depth."""
    generator = np.random.default_rng(seed)
    names = [f"conv{index}" for index in range(layers)]
    base = generator.random(SAMPLES)
    named = baselines(names)
    trials, seen = [], set()
    recipes = [*named.items()]
    while len(recipes) < count:
        recipes.append((None, _draw_recipe(names, generator)))
        if recipes[-1][1].digest in seen:
            recipes.pop()
            continue
        seen.add(recipes[-1][1].digest)
    for number, (name, recipe) in enumerate(recipes[:count]):
        trials.append(_measure(number, name, recipe, names, base, generator))
    return trials


def _draw_recipe(names: Sequence[str], generator: np.random.Generator) -> Recipe:
    choices: tuple[WeightBits | None, ...] = (8, 4, 4, None)
    layers = {name: choices[int(generator.integers(4))] for name in names}
    layers[names[-1]] = layers[names[-1]] or 8
    trained = generator.random() < 0.15
    options = PtqOptions(
        calibration=_CALIBRATIONS[int(generator.integers(3))],
        weight_granularity="per_channel" if generator.random() < 0.8 else "per_tensor",
        mode="qat" if trained else "ptq", qat=QatOptions(epochs=2) if trained else None,
    )  # fmt: skip
    return Recipe.quantized(layers, options)


def _measure(
    number: int,
    name: str | None,
    recipe: Recipe,
    names: Sequence[str],
    base: np.ndarray,
    generator: np.random.Generator,
) -> Trial:
    default = None if name == "fp32" else 8
    widths = [recipe.layers.get(layer, default) for layer in names]
    lost = {None: 0.0, 8: 0.0008, 4: 0.015}
    loss = sum(lost[bits] / (1 + order / 2) for order, bits in enumerate(widths))
    loss *= 0.4 if recipe.is_trained else 1.0
    hits = (base < 0.95 - loss) ^ (generator.random(SAMPLES) < (0.01 if name != "fp32" else 0))
    accuracy = float(hits.mean())
    drop = float((base < 0.95).mean()) - accuracy
    share = [1.0 if bits is None else 0.42 for bits in widths]
    ratio = float(np.mean(share) * (1 + generator.normal() * 0.03)) if name != "fp32" else 1.0
    sizes = [1000 * (order + 1) * (bits or 32) // 8 for order, bits in enumerate(widths)]
    timing = Timing(
        reference_ms=0.5, p50_ms=ratio / 2, p90_ms=ratio * 0.55, p99_ms=ratio * 0.6,
        samples=300, stable=True,
    )  # fmt: skip
    seconds = {"quantize": 0.1, "export": 0.1, "accuracy": 0.2, "latency": 0.4}
    return Trial(
        number=number, state="complete", digest=recipe.digest, recipe=recipe, name=name,
        accuracy=accuracy, accuracy_drop=drop,
        accuracy_ci=(accuracy - 0.014, accuracy + 0.013),
        accuracy_drop_ci=(drop - 0.007, drop + 0.007),
        latency_ms=ratio / 2, latency_ms_ci=(ratio * 0.49, ratio * 0.51), latency_ratio=ratio,
        latency_ratio_ci=(ratio * 0.985, ratio * 1.015), timing=timing, size_bytes=sum(sizes),
        integer_coverage=float(np.mean([bits is not None for bits in widths])),
        float_layers=tuple(n for n, bits in zip(names, widths, strict=True) if bits is None),
        parity=Parity(top1_agreement=0.999, max_abs_diff=0.1, sqnr_db=31.0, samples=250),
        seconds={**seconds, **({"train": 20.0} if recipe.is_trained else {})},
        evidence=Evidence.from_hits(hits),
    )  # fmt: skip


def rejected(trial: Trial) -> Trial:
    """The same trial, stopped early."""
    partial = Partial(
        reason="would be dominated by trial 3", samples=125, of_samples=SAMPLES,
        accuracy=trial.accuracy or 0.0, accuracy_drop=trial.accuracy_drop or 0.0,
        latency_ratio=trial.latency_ratio,
    )  # fmt: skip
    nothing = ("accuracy", "accuracy_drop", "accuracy_ci", "accuracy_drop_ci", "latency_ms",
               "latency_ms_ci", "latency_ratio", "latency_ratio_ci", "timing")  # fmt: skip
    return trial.model_copy(
        update={"state": "rejected", "partial": partial, **dict.fromkeys(nothing)}
    )


def failed(trial: Trial, error: str = "ParityError: the file disagrees") -> Trial:
    """A trial of the same recipe that failed."""
    return Trial(number=trial.number, state="failed", digest=trial.digest, recipe=trial.recipe,
                 name=trial.name, error=error, seconds={"quantize": 0.1})  # fmt: skip


def write_study(
    results: Path,
    name: str,
    trials: Iterable[Trial],
    *,
    target: int | None = None,
    task: str = "digits",
    version: int = 1,
    running: Sequence[Recipe] = (),
    attributes: dict[str, Any] | None = None,
    targets: Sequence[str] = (),
    backend: str = "onnxruntime",
    objectives: Sequence[str] = (),
) -> Path:
    """A journal with a header, these trials, and some that are still running.

    Returns:
        The journal.
    """
    trials = list(trials)
    header = {"definition": definition(task), "seed": 0, "sampler": "random", "threads": 1,
              "batch": 1, "trials": target or len(trials), "timeout_s": None,
              "backend": backend}  # fmt: skip
    header |= {"targets": list(targets)} if targets else {}
    if objectives:
        header["definition"] = {**definition(task), "objectives": list(objectives)}
    lines: list[dict[str, Any]] = [
        {"op_code": 0, "study_name": name, "directions": [2, 1, 1]},
        {"op_code": 3, "study_id": 0, "system_attr": {"study:metric_names": OBJECTIVES}},
        {"op_code": 2, "study_id": 0, "user_attr": {"format": version}},
        {"op_code": 2, "study_id": 0, "user_attr": {"header": header}},
    ]
    for number, trial in enumerate(trials):
        lines += _begin(number, trial.recipe)
        lines += _finish(number, trial)
    for number, recipe in enumerate(running, start=len(trials)):
        lines += _begin(number, recipe)
    for key, value in (attributes or {}).items():
        lines.append({"op_code": 2, "study_id": 0, "user_attr": {key: value}})
    folder = results / name
    (folder / "artifacts").mkdir(parents=True, exist_ok=True)
    journal = folder / "journal.log"
    with journal.open("w") as file:
        for line in lines:
            file.write(_to_text(line))
    return journal


def append_trial(results: Path, name: str, trial: Trial) -> None:
    """One more finished trial at the end of a journal, as a search that runs writes it."""
    lines = [*_begin(trial.number, trial.recipe), *_finish(trial.number, trial)]
    with (results / name / "journal.log").open("a") as file:
        file.write("".join(_to_text(line) for line in lines))


def _to_text(line: dict[str, Any]) -> str:
    return json.dumps({**line, "worker_id": "w"}, separators=(",", ":")) + "\n"


def _begin(number: int, recipe: Recipe) -> list[dict[str, Any]]:
    choices = json.dumps({"name": "CategoricalDistribution",
                          "attributes": {"choices": ["8", "4", "float"]}})  # fmt: skip
    created = {"op_code": 4, "study_id": 0, "datetime_start": _START}
    parameters = [
        {"op_code": 5, "trial_id": number, "param_name": f"layer.{layer}",
         "param_value_internal": (8, 4, None).index(bits), "distribution": choices}
        for layer, bits in recipe.layers.items()
    ]  # fmt: skip
    attribute = {"recipe": recipe.to_dict()}
    return [created, *parameters, {"op_code": 8, "trial_id": number, "user_attr": attribute}]


def _finish(number: int, trial: Trial) -> list[dict[str, Any]]:
    evidence = None if trial.evidence is None else trial.evidence.model_dump()
    attributes = {"evidence": evidence} if evidence else {}
    attributes |= {"record": {**trial.to_dict(), "number": number}}
    is_failed = trial.state == "failed"
    values = None
    if not is_failed:
        found = [trial.objective(name) for name in ("accuracy", "latency", "size")]
        values = [-found[0], *found[1:]]
    state = {"op_code": 6, "trial_id": number, "state": 3 if is_failed else 1, "values": values,
             "datetime_complete": _START}  # fmt: skip
    return [
        *({"op_code": 8, "trial_id": number, "user_attr": {key: value}}
          for key, value in attributes.items()),
        state,
    ]  # fmt: skip
