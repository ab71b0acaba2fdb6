from pathlib import Path

import pytest

from autoquant.backends import machine


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_affinity", lambda: 8)
    return tmp_path


@pytest.mark.parametrize(
    ("content", "cores"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("garbage", 8), ("", 8)],
)
def test_cgroup_quota_limits_the_cores(cgroup: Path, content: str, cores: int) -> None:
    (cgroup / "cpu.max").write_text(content)
    assert machine.available_cores() == cores


def test_the_older_cgroup_files_are_read(cgroup: Path) -> None:
    (cgroup / "cpu").mkdir()
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    (cgroup / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.available_cores() == 3
    (cgroup / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert machine.available_cores() == 8


def test_more_threads_than_cores_names_both(cgroup: Path) -> None:
    (cgroup / "cpu.max").write_text("200000 100000")
    text = machine.explain_oversubscription(4)
    assert text is not None
    assert "4 threads" in text
    assert "8 cores and a cgroup limit of 2 cores" in text
    assert "--threads 2" in text
    assert machine.explain_oversubscription(2) is None


def test_one_thread_under_a_quota_of_half_a_core_is_warned_of(cgroup: Path) -> None:
    (cgroup / "cpu.max").write_text("50000 100000")
    text = machine.explain_oversubscription(1)
    assert text is not None
    assert "1 thread is to be timed" in text
    assert "a cgroup limit of 0.5 cores" in text
    assert "--threads" not in text, "no smaller number would help"
    (cgroup / "cpu.max").write_text("150000 100000")
    assert "1.5 cores" in (machine.explain_oversubscription(2) or "")
    assert machine.explain_oversubscription(1) is None


def test_memory_is_what_the_system_and_the_cgroup_leave(
    cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = machine.available_memory()
    assert free is not None, "on Linux"
    assert free > 10**8
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("5000\n")
    assert machine.available_memory() > 10**8
    (cgroup / "memory.max").write_text("8000\n")
    assert machine.available_memory() == 3000
    (cgroup / "memory.stat").write_text("anon 4000\ninactive_file 500\nactive_file 100\n")
    assert machine.available_memory() == 3600, "pages of files can be dropped"
    monkeypatch.setattr(machine, "_granted", 2)
    assert machine.available_memory() == 900, "two of eight cores"
    monkeypatch.setattr(machine, "_granted", None)
    (cgroup / "memory").mkdir()
    (cgroup / "memory" / "memory.limit_in_bytes").write_text("2000\n")
    (cgroup / "memory" / "memory.usage_in_bytes").write_text("2500\n")
    assert machine.available_memory() == 0


def test_flags_that_nothing_tells_are_not_flags_that_are_missing(monkeypatch) -> None:
    for fields, flags in (({}, None), ({"flags": "fpu sse2"}, []), ({"flags": "avx2"}, ["avx2"])):
        monkeypatch.setattr(machine, "_cpuinfo", lambda fields=fields: fields)
        assert machine.describe_machine.__wrapped__()["flags"] == flags


def test_machine_describes_itself() -> None:
    found = machine.describe_machine()
    assert {"cpu", "flags", "cores", "governor", "turbo"} <= set(found)


@pytest.mark.parametrize(
    ("architecture", "flags", "has"),
    [
        ("x86_64", ["avx2"], False),
        ("x86_64", ["avx2", "avx512f"], False),
        ("x86_64", ["avx2", "avx512_vnni"], True),
        ("x86_64", [], False),
        ("x86_64", None, True),
        ("aarch64", [], True),
    ],
)
def test_the_dot_product_instruction_is_recognized(monkeypatch, architecture, flags, has) -> None:
    facts = {"architecture": architecture, "flags": flags}
    monkeypatch.setattr(machine, "describe_machine", lambda: facts)
    monkeypatch.setattr(machine, "_DOT_PRODUCT", machine._DOT_PRODUCT - {"avx2"})
    assert machine.has_integer_dot_product() is has
