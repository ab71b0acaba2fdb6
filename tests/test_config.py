from pathlib import Path

import pytest

from autoquant.config import (
    find_space,
    load_space,
    parse_duration,
    parse_space,
    shipped_spaces,
)
from autoquant.errors import InputError, SpaceError

GOOD = {"version": 1, "task": "digits"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), (12, 12)]
)
def test_durations(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-3s", "0", "3 days", "1e9x"])
def test_bad_durations_say_what_to_write(text: str) -> None:
    with pytest.raises(InputError, match="write 90s, 30m or 2h"):
        parse_duration(text)


@pytest.mark.parametrize("name", list(shipped_spaces()))
def test_every_shipped_space_is_valid(name: str) -> None:
    config = load_space(find_space(name))
    assert config.task.startswith(name.split("-")[0])


def test_the_shipped_spaces_have_their_names() -> None:
    assert {"digits", "cifar10-resnet8", "cifar10-resnet20",
            "imagenet-sample-efficientnet-lite0"} <= set(shipped_spaces())  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": 1}, "unknown key 'colour'; allowed here: version, task"),
        ({"quantizer": {"calibraton": ["mse"]}}, r"unknown key 'quantizer\.calibraton'.*mode"),
        ({"layers": {"*": {"bits": [8]}}}, r"unknown key 'layers\.\*\.bits'.*weight_bits"),
        ({"budget": {"trails": 5}}, r"'budget\.trails'; allowed here: trials, timeout"),
        ({"constraints": {"max_drop": 1}}, r"allowed here: max_accuracy_drop"),
        ({"quantizer": {"calibration": [{"percentil": 99}]}}, r"quantizer\.calibration"),
        ({"layers": {"*": {"weight_bits": [3]}}}, r"layers\.\*\.weight_bits\.0.*8 or 4, not 3"),
        ({"layers": {"*": {"weight_bits": "8"}}}, r"weight_bits.*list, not '8'"),
        ({"layers": {"*": {"weight_bits": []}}}, "at least 1 item"),
        ({"budget": {"trials": "many"}}, r"budget\.trials.*integer"),
        ({"budget": {"trials": 0}}, r"budget\.trials"),
        ({"budget": {"timeout": "soon"}}, "write 90s, 30m or 2h"),
        ({"objectives": []}, "objectives"),
        ({"objectives": ["speed"]}, r"objectives\.0.*'speed'"),
        ({"objectives": ["size", "size"]}, "named twice"),
        ({"quantizer": {"mode": ["magic"]}}, r"quantizer\.mode\.0.*'ptq' or 'qat'"),
        ({"quantizer": {"qat": {"epochs": [4]}}}, r"quantizer: .*without 'qat'.*'mode'"),
        (
            {"quantizer": {"mode": ["qat"], "qat": {"epoch": [4]}}},
            r"'quantizer\.qat\.epoch'; allowed here: epochs, learning_rate",
        ),
        ({"quantizer": {"mode": ["qat"], "qat": {"distillation": [2]}}}, r"qat\.distillation"),
        ({"quantizer": {"calibration": [{"percentile": 120}]}}, "percentile"),
        ({"version": 2}, "version"),
        ({"task": 7}, r"task.*string, not 7"),
    ],
)
def test_bad_spaces_name_the_key_and_its_path(change: dict, message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        parse_space(GOOD | change, "my.yaml")
    assert str(caught.value).startswith("my.yaml: ")
    assert "\n" not in str(caught.value)


def test_missing_key_is_named() -> None:
    with pytest.raises(SpaceError, match="'task' is missing"):
        parse_space({"version": 1}, "my.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: [1", "line"),
        ("- a\n- b", "mapping"),
        ("", "mapping"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_files_that_are_no_spaces(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(SpaceError, match=message):
        load_space(path)


def test_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(SpaceError, match="digits"):
        find_space("nonsense")


def test_empty_option_is_an_empty_space() -> None:
    config = parse_space(GOOD | {"quantizer": {"calibration": []}}, "my.yaml")
    with pytest.raises(SpaceError, match="'calibration' has no allowed value"):
        config.to_space(["conv1"])


def test_definition_leaves_the_budget_out() -> None:
    one = parse_space(GOOD | {"budget": {"trials": 5}}, "a")
    other = parse_space(GOOD | {"budget": {"trials": 50, "timeout": "1h"}}, "b")
    assert one.definition() == other.definition()
    assert parse_space(one.definition(), "c").definition() == one.definition()
