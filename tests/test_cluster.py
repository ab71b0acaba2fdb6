"""Searches on real Ray clusters of several nodes on this machine, on the fake backend."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ray = pytest.importorskip("ray", reason="Ray is not installed")
from ray.cluster_utils import Cluster  # noqa: E402

import autoquant as aq  # noqa: E402
from autoquant.cluster import Crew, open_crew  # noqa: E402
from autoquant.cluster.connection import connect  # noqa: E402
from autoquant.core.trial import Trial  # noqa: E402
from autoquant.errors import ClusterError  # noqa: E402
from autoquant.launch import run_launch  # noqa: E402
from autoquant.search.recovery import recover  # noqa: E402
from autoquant.search.storage import Location, load_record  # noqa: E402
from autoquant.search.trial_log import TrialLogs  # noqa: E402
from tests.crews import FakeSource, PlacedSource  # noqa: E402
from tests.ray_driver import fake_launch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
STORE = 80 * 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without processors, a node that builds, one that times and builds, one that times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": STORE,
                "include_dashboard": False,
            },
        )
        cluster.add_node(num_cpus=2, object_store_memory=STORE, node_name="builder")
        cluster.add_node(
            num_cpus=1,
            object_store_memory=STORE,
            node_name="edge",
            resources={"latency_probe": 1, "latency_probe:edge": 1},
        )
        cluster.add_node(
            num_cpus=0,
            object_store_memory=STORE,
            node_name="server",
            resources={"latency_probe:server": 1},
        )
        yield cluster
        cluster.shutdown()


def launch(cluster: Cluster, folder: Path, trials: int, **crew: object) -> list[Trial]:
    source = FakeSource(notes=folder, **{key: crew.pop(key) for key in ("seconds",) if key in crew})
    told = Crew(**{"workers": 3, "address": cluster.address, **crew})
    record = run_launch(fake_launch(folder, trials, told), source(), None, print, source)
    return record.trials()


def test_trials_are_built_anywhere_and_timed_on_probes_alone(
    cluster: Cluster, tmp_path: Path
) -> None:
    trials = launch(cluster, tmp_path, 24, seconds=0.1)
    assert len(trials) == len({trial.digest for trial in trials}) == 24
    assert {trial.state for trial in trials} <= {"complete", "rejected"}
    assert {trial.probe.partition(":")[0] for trial in trials} == {"edge"}
    assert {trial.node.partition(":")[0] for trial in trials} == {"builder", "edge"}
    reference = next(trial for trial in trials if trial.name == "fp32")
    assert reference.latency_ratio == pytest.approx(1.0)
    kept = {path.stem for path in (tmp_path / "fake/artifacts").glob("*.onnx")}
    assert kept == {trial.digest for trial in trials if trial.report_accuracy is not None}
    built = [line.split()[0] for line in (tmp_path / "built").read_text().splitlines()]
    missing = {trial.digest for trial in trials} - set(built)
    assert not missing


def test_each_target_is_timed_on_its_own_node(cluster: Cluster, tmp_path: Path) -> None:
    source = PlacedSource({"edge": 0.5, "server": 1.5})
    crew = Crew(2, cluster.address)
    launched = fake_launch(tmp_path, 12, crew, targets=["edge", "server"])
    trials = run_launch(launched, source(), None, print, source).trials()
    assert len(trials) == 12
    for trial in trials:
        nodes = [place.partition(":")[0] for place in trial.probe.split(", ")]
        assert nodes == ["edge", "server"]
    eight = next(trial for trial in trials if trial.name == "w8a8")
    assert eight.objective("latency:edge") == pytest.approx(0.5)
    assert eight.objective("latency:server") == pytest.approx(1.5)


def test_target_that_no_node_stands_for_is_told(cluster: Cluster, tmp_path: Path) -> None:
    source = PlacedSource({})
    launched = fake_launch(tmp_path, 3, Crew(1, cluster.address, place_s=1.0), targets=["desk"])
    with pytest.raises(ClusterError, match="no node stands for target 'desk' within 1 s"):
        run_launch(launched, source(), None, print, source)


def test_trial_over_its_time_limit_is_stopped_and_recorded(
    cluster: Cluster, tmp_path: Path
) -> None:
    trials = launch(cluster, tmp_path, 3, seconds=30, trial_timeout_s=1.0, workers=2)
    slow = [trial for trial in trials if trial.name != "fp32"]
    assert all(trial.state == "failed" for trial in slow)
    assert "longer than the 1 s" in slow[0].error


def test_cluster_without_the_resources_says_what_is_asked_and_there(
    cluster: Cluster, tmp_path: Path
) -> None:
    with pytest.raises(ClusterError, match=r"with 64 CPU each; the cluster has .*3 CPU"):
        launch(cluster, tmp_path, 3, workers=1, cpus=64, place_s=1.0)


def test_address_without_ray_is_refused_soon(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    start = time.monotonic()
    with (
        pytest.raises(ClusterError, match="nobody answers there"),
        open_crew(Crew(1, address), FakeSource(), FakeSource()()),
    ):
        pass
    assert time.monotonic() - start < 10


def start_driver(
    address: str, folder: Path, trials: int, seconds: float, workers: int = 3
) -> subprocess.Popen[bytes]:
    arguments = [address, str(folder), str(trials), str(seconds), str(workers)]
    with (folder / "driver.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.ray_driver", *arguments],
            cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def read_trials(folder: Path) -> list[Trial]:
    location = Location(folder, "fake")
    return load_record(location).trials() if location.exists() else []


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)


def worker_processes() -> set[int]:
    """Processes of our workers, whoever hired them."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        if text.startswith(b"ray::_RemoteWorker"):
            found.add(int(path.parent.name))
    return found


def test_chaos_leaves_every_trial_once_and_no_orphans(cluster: Cluster, tmp_path: Path) -> None:
    """Workers are killed, a node goes and comes, the driver is killed and begun anew."""
    dice = random.Random(0)
    before = worker_processes()
    spare = cluster.add_node(num_cpus=1, object_store_memory=STORE, node_name="spare")
    driver = start_driver(cluster.address, tmp_path, 40, 0.3)
    wait_for(lambda: len(read_trials(tmp_path)) >= 3)
    for _ in range(3):
        victims = sorted(worker_processes() - before)
        os.kill(dice.choice(victims), signal.SIGKILL)
        time.sleep(dice.uniform(0.2, 1.0))
    cluster.remove_node(spare, allow_graceful=False)
    wait_for(lambda: len(read_trials(tmp_path)) >= 12)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    finished = {trial.digest for trial in read_trials(tmp_path)}
    wait_for(lambda: not worker_processes() - before)
    driver = start_driver(cluster.address, tmp_path, 40, 0.3)
    wait_for(lambda: len(read_trials(tmp_path)) >= 20)
    os.kill(dice.choice(sorted(worker_processes() - before)), signal.SIGKILL)
    assert driver.wait(timeout=120) == 0, (tmp_path / "driver.log").read_text()
    trials = read_trials(tmp_path)
    digests = [trial.digest for trial in trials]
    assert len(digests) == len(set(digests)) == 40
    assert finished <= set(digests), "a finished trial was lost"
    assert {trial.state for trial in trials} <= {"complete", "rejected"}
    wait_for(lambda: not worker_processes() - before)


def test_interrupted_search_on_this_machine_lets_what_runs_end(tmp_path: Path) -> None:
    before = worker_processes()
    driver = start_driver("local", tmp_path, 40, 1.0, workers=2)
    wait_for(lambda: len(read_trials(tmp_path)) >= 1)
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(timeout=60) != 0
    log = (tmp_path / "driver.log").read_text()
    assert "stopping when the" in log, log
    record = load_record(Location(tmp_path, "fake"), is_driver=True)
    assert 1 < len(record.trials()) < 40
    assert recover(record) == 0, "what was running has been finished"
    wait_for(lambda: not worker_processes() - before)


SPACE = """
version: 1
task: digits
objectives: [accuracy, latency, size]
constraints: {max_accuracy_drop: 0.02}
layers: {"*": {weight_bits: [8, 4], exclude: [false, true]}}
"""


@pytest.fixture
def start_search(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Runs commands on the cluster; none of them outlives the test."""
    begun: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = ["-m", "autoquant", *arguments, "--ray", cluster.address]
        with (tmp_path / "driver.log").open("ab") as log:
            begun.append(
                subprocess.Popen([sys.executable, *command], cwd=tmp_path, stdout=log, stderr=log)
            )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


@pytest.mark.alone
def test_chaos_on_real_digits_leaves_every_trial_once_and_no_orphans(
    cluster: Cluster, tmp_path: Path, start_search: Callable[..., subprocess.Popen]
) -> None:
    dice = random.Random(1)
    before = worker_processes()
    (tmp_path / "space.yaml").write_text(SPACE)
    location = Location(tmp_path / "results", "night")

    def finished() -> list[Trial]:
        return load_record(location).trials() if location.exists() else []

    def kill_worker() -> None:
        wait_for(lambda: bool(worker_processes() - before))
        os.kill(dice.choice(sorted(worker_processes() - before)), signal.SIGKILL)

    spare = cluster.add_node(num_cpus=1, object_store_memory=STORE, node_name="spare")
    begin = ("search", "space.yaml", "--study", "night", "--trials", "12", "--sampler", "random")
    driver = start_search(*begin, "--workers", "2")
    wait_for(lambda: len(finished()) >= 2, 300)
    kill_worker()
    cluster.remove_node(spare, allow_graceful=False)
    wait_for(lambda: len(finished()) >= 5, 300)
    time.sleep(dice.uniform(0.0, 1.0))
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    earlier = {trial.digest for trial in finished()}
    wait_for(lambda: not worker_processes() - before)
    driver = start_search("resume", "night", "--workers", "1")
    wait_for(lambda: len(finished()) > len(earlier), 300)
    kill_worker()
    assert driver.wait(timeout=300) == 0, (tmp_path / "driver.log").read_text()
    trials = finished()
    assert len(trials) == len({trial.digest for trial in trials}) == 12
    assert earlier <= {trial.digest for trial in trials}, "a finished trial was lost"
    assert {trial.state for trial in trials} <= {"complete", "rejected"}
    assert {trial.probe.partition(":")[0] for trial in trials} == {"edge"}
    journal = location.journal.read_text()
    ended = Counter(re.findall(r'"user_attr":\{"record":.*?"digest":"(\w+)"', journal))
    assert set(ended.values()) == {1}, "a recipe was evaluated twice to its end"
    wait_for(lambda: not worker_processes() - before)


def test_task_without_a_name_travels_to_the_workers_whole(cluster: Cluster, tmp_path: Path) -> None:
    from tests.networks import make_task

    study = aq.search(
        make_task(name=""), {"objectives": ["accuracy", "size"]}, trials=4, sampler="random",
        results=tmp_path, ray=cluster.address, workers=1, progress=False,
    )  # fmt: skip
    trials = load_record(study.location).trials()
    assert len(trials) == 4
    assert {trial.state for trial in trials} <= {"complete", "rejected"}
    assert {trial.node.partition(":")[0] for trial in trials} <= {"builder", "edge"}
    assert "== built and judged on" in TrialLogs(study.location.logs).read(3)


def test_other_version_of_ray_is_told_with_both(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = ray.__version__
    monkeypatch.setattr(ray, "__version__", "2.0.0")
    with pytest.raises(ClusterError, match="install the same ones here") as caught:
        connect(cluster.address, 1)
    assert theirs in str(caught.value)
    assert "2.0.0" in str(caught.value)
