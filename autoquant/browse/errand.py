"""Errands of the app that need a task: in processes of their own, so that the app loads no torch.

`python -m autoquant.browse.errand KIND JSON` does one and answers on standard output, a JSON
object a line: `{"doing": ...}` as it goes on, and at the end `{"result": ...}` or `{"error": ...}`.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from autoquant.core.activity import listening
from autoquant.errors import AutoquantError, InputError

__all__ = ["follow_errand", "main", "run_errand"]

Say = Callable[[str], None]


def follow_errand(
    kind: str, arguments: Mapping[str, Any], on_progress: Say = lambda _: None
) -> Any:
    """Do an errand in a process of its own.

    Args:
        kind: `layers`, `export`, `verify`, `look`, `sensitivity` or `noise`.
        arguments: of the errand, JSON-ready.
        on_progress: told what it is busy with.

    Raises:
        InputError: it could not be done; says why.
    """
    command = [sys.executable, "-m", "autoquant.browse.errand", kind, json.dumps(dict(arguments))]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        try:
            for answer in _answers(child.stdout):
                if "doing" in answer:
                    on_progress(str(answer["doing"]))
                elif "error" in answer:
                    raise InputError(str(answer["error"]))
                elif "result" in answer:
                    return answer["result"]
        finally:
            child.kill()  # it has answered, or whoever asked has gone
    raise InputError(f"the process that was to {kind} ended without an answer")


def _answers(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Whatever else is printed is no answer."""
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


def run_errand(kind: str, arguments: Mapping[str, Any], say: Say) -> Any:
    """Do an errand here.

    Raises:
        AutoquantError: it cannot be done.
    """
    if arguments.get("tasks_from"):
        from autoquant.tasks import load_task_file

        load_task_file(Path(arguments["tasks_from"]))
    errands = {"layers": _find_layers, "export": _export, "verify": _verify}
    with listening(say):
        return (errands.get(kind) or _find_errand(kind))(arguments)


def _find_errand(kind: str) -> Callable[[Mapping[str, Any]], Any]:
    """One of the page Layers."""
    from autoquant.browse import layer_errand

    found = {
        "look": layer_errand.look,
        "sensitivity": layer_errand.find_sensitivity,
        "noise": layer_errand.find_noise,
    }
    return found[kind]


def _find_layers(arguments: Mapping[str, Any]) -> list[str]:
    """Names of a task's quantizable layers, in network order."""
    from autoquant.build import build_evaluator
    from autoquant.evaluate import EvaluationOptions
    from autoquant.tasks import load_task

    task = load_task(arguments["task"], arguments.get("task_options"))
    evaluator = build_evaluator(task, 0, EvaluationOptions())
    return [layer.name for layer in evaluator.layers]


def _export(arguments: Mapping[str, Any]) -> str:
    """A trial's file, rebuilt into the folder of the study; where it lies."""
    from autoquant.agreement import load_evaluator
    from autoquant.browse.kept import find_location
    from autoquant.core.artifact import Artifact
    from autoquant.deliver import rebuild_trial
    from autoquant.files import replacing
    from autoquant.search.choice import choose_trial
    from autoquant.search.storage import load_record
    from autoquant.tasks import load_task

    location = find_location(arguments)
    record = load_record(location)
    bounds = record.header.bounds
    trial = choose_trial(record, arguments["trial"], knee=False, fastest=False, bounds=bounds)
    task = load_task(record.header.task, record.header.task_options)
    evaluator = load_evaluator(record.header, task, location)
    content = rebuild_trial(evaluator, trial, record.fingerprint_of(trial))
    folder = location.folder / "exports"  # a search sweeps `artifacts`
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{trial.digest}{Artifact(content, {}, {}).suffix}"
    with replacing(path) as file:  # whoever asked may go, and this process with him
        file.write(content)
    return str(path)


def _verify(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Every check of a file, and what became of its layers."""
    from autoquant.verify import read_verifiable, verify_artifact

    path = Path(arguments["file"])
    artifact = read_verifiable(path.read_bytes(), path.name)
    folder = arguments.get("checkpoints")
    checkpoints = Path(folder) if folder else None
    return verify_artifact(artifact, checkpoints=checkpoints, with_layers=True).to_dict()


def main() -> None:
    """One errand, as the arguments name it."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a task prints is no answer

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        kind, arguments = sys.argv[1], json.loads(sys.argv[2])
        answer(result=run_errand(kind, arguments, lambda text: answer(doing=text)))
    except AutoquantError as error:
        answer(error=" ".join(str(error).split()))
    except Exception as error:  # whatever the task's own code raises
        answer(error=" ".join(f"{type(error).__name__}: {error}".split()))


if __name__ == "__main__":
    main()
