"""`kill -9` at random moments of a real search, each followed by `resume`."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoquant.search.storage import Location, load_record

pytestmark = pytest.mark.long

KILLS = 4
TRIALS = 12


def start(*arguments: str, cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "autoquant", *arguments],
        cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def has_begun(folder: Path) -> bool:
    return (folder / "results" / "digits" / "journal.log").exists()


def test_killed_search_ends_whole(tmp_path: Path) -> None:
    dice = random.Random(0)
    command = ("search", "digits", "--trials", str(TRIALS))
    begun: set[str] = set()
    for kill in range(KILLS):
        process = start(*command, cwd=tmp_path)
        while not has_begun(tmp_path) and process.poll() is None:
            time.sleep(0.05)
        # from before the first trial of this run (start-up takes seconds) to some trials in
        time.sleep(dice.uniform(0.0, 1.5) if kill == 0 else dice.uniform(2.0, 9.0))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        begun |= recipes_begun(tmp_path)
        command = ("resume", "digits")
    finished_before = {trial.digest for trial in record(tmp_path).trials()}
    process = start("resume", "digits", cwd=tmp_path)
    assert process.wait(timeout=300) == 0
    trials = record(tmp_path).trials()
    digests = [trial.digest for trial in trials]
    assert len(digests) == len(set(digests)) == TRIALS
    assert finished_before <= set(digests), "a finished trial was lost"
    assert begun <= set(digests), "a trial that was running was not tried again"
    assert {trial.state for trial in trials} <= {"complete", "rejected"}
    front = {path.stem for path in (tmp_path / "results/digits/artifacts").glob("*.onnx")}
    assert front == {trial.digest for trial in trials if trial.report_accuracy is not None}


def record(folder: Path):
    return load_record(Location(folder / "results", "digits"))


def recipes_begun(folder: Path) -> set[str]:
    """Digests of what was running when the process died, read off the journal itself."""
    from autoquant.core.recipe import Recipe

    lines = (folder / "results" / "digits" / "journal.log").read_bytes().splitlines()
    found = set()
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        attributes = entry.get("user_attr") or {}
        if isinstance(attributes, dict) and "recipe" in attributes:
            found.add(Recipe.model_validate(attributes["recipe"]).digest)
    return found


# Checkpoints several times a second, so that a short training has some. One core, since threads
# that wait for each other on a busy machine take many times as long.
TRAINER = """
import os
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
import autoquant.quantize.checkpoint as checkpoint
from autoquant.cli import main
checkpoint.EVERY_S = 0.2
main()
"""
SPACE = """
version: 1
task: digits
objectives: [accuracy, size]
budget: {trials: 7}  # all that there are: five or six baselines and the one that trains
layers: {"*": {weight_bits: [4]}}
quantizer: {mode: [qat], qat: {epochs: [8], batch_size: [50]}}
"""


def start_training(*arguments: str, cwd: Path) -> subprocess.Popen[bytes]:
    (cwd / "space.yaml").write_text(SPACE)
    return subprocess.Popen(
        [sys.executable, "-c", TRAINER, *arguments],
        cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    options = ("--keep", "all", "--full")
    begin = ("search", "space.yaml", "--study", "s", *options)
    assert start_training(*begin, cwd=whole).wait(timeout=300) == 0
    process = start_training(*begin, cwd=killed)
    wait_for_progress(killed, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < steps_done(killed) < 160
    assert start_training("resume", "s", *options, cwd=killed).wait(timeout=300) == 0
    one, other = trained_trial(whole), trained_trial(killed)
    assert one.digest == other.digest
    assert graph_of(whole, one.digest) == graph_of(killed, other.digest)
    assert one.training == other.training
    assert one.accuracy == other.accuracy


def wait_for_progress(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Until there is a checkpoint."""
    while not steps_done(folder):
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.05)


def steps_done(folder: Path) -> int:
    import torch

    paths = list((folder / "results/s/checkpoints").glob("*.pt"))
    return int(torch.load(paths[0], weights_only=True)["step"]) if paths else 0


def trained_trial(folder: Path):
    trials = load_record(Location(folder / "results", "s")).trials()
    (found,) = [trial for trial in trials if trial.recipe.is_trained]
    assert found.state == "complete"
    return found


def graph_of(folder: Path, digest: str) -> str:
    from autoquant.export.formats import read_artifact

    content = (folder / f"results/s/artifacts/{digest}.onnx").read_bytes()
    return str(read_artifact(content).passport["graph_sha256"])
