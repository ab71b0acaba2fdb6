"""The page Layers: parts, addresses, and what it says where something is missing."""

from pathlib import Path

import pytest

pytest.importorskip("streamlit", reason="the extra 'app' is not installed")

from autoquant.browse.layers import NoiseRecord, noise_path
from autoquant.core.layer import LayerNoise
from autoquant.distribution import keep_record
from autoquant.search.storage import Location, hold_driver_lock
from tests.journals import measured_trials, write_study
from tests.layer_records import layer_names, write_layers
from tests.test_app import EVIL, Open, figures, is_fine, open_page, results, words

__all__ = ["open_page", "results"]  # fixtures

PARTS = [("layer", 2), ("all", 2), ("sensitivity", 1), ("error", 0)]  # with their figures


@pytest.fixture
def study(results: Path) -> Path:
    write_study(results, "s", measured_trials(12))
    return write_layers(results, "s", layer_names())


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize(("part", "drawn"), PARTS)
def test_each_part_shows_its_figures(open_page: Open, part: str, drawn: int) -> None:
    app = open_page("layers", study="s", show=part)
    assert is_fine(app)
    assert not app.error
    assert not app.warning
    assert len(figures(app)) == drawn
    if part == "error":
        assert "build it on the page Export first" in words(app)
    if part == "sensitivity":
        assert not [button for button in app.button if "Measure" in button.label]


@pytest.mark.usefixtures("study")
def test_the_address_restores_the_view(open_page: Open) -> None:
    app = open_page("layers", study="s", layer="conv3", bits="4", kind="symmetric", show="layer")
    assert app.selectbox(key="layer").value == "conv3"
    assert "mse, per channel" in str(app.dataframe[0].value)
    for name, value in {"layer": "conv3", "bits": "4", "kind": "symmetric"}.items():
        assert app.query_params[name] in (value, [value])
    app.selectbox(key="layer").select("conv7").run()
    assert is_fine(app)
    assert app.query_params["layer"] in ("conv7", ["conv7"])
    assert "it has no integer kernel" in words(app)
    assert len(figures(app)) == 1


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("name", [EVIL, "../../etc", "x" * 9999, "\0", "conv99", ""])
def test_a_layer_that_there_is_not_is_named_as_text(open_page: Open, name: str) -> None:
    app = open_page("layers", study="s", layer=name, bits=name, kind=name, show=name)
    assert is_fine(app)
    assert app.selectbox(key="layer").value == "conv0"
    assert "There is no layer" in words(app)
    assert "<script>" not in words(app)
    assert len(words(app)) < 2000


def test_nobody_has_looked_yet(results: Path, open_page: Open) -> None:
    write_study(results, "s", measured_trials(12))
    app = open_page("layers", study="s")
    assert "Nobody has looked" in words(app)
    assert app.button(key="do_look").label == "Look at the layers"
    app = open_page("layers", study="s", show="sensitivity")
    assert app.button(key="do_sensitivity").label == "Measure (about 17 files)"


def test_a_task_that_cannot_be_loaded_says_why(results: Path, open_page: Open) -> None:
    write_study(results, "s", measured_trials(8), task="was-here-once")
    app = open_page("layers", study="s")
    app.button(key="do_look").click().run()
    assert is_fine(app)
    assert "unknown task" in app.get("status")[0].label
    assert app.button(key="do_look")


def test_what_is_damaged_is_named_with_the_way_out(study: Path, open_page: Open) -> None:
    for path in study.iterdir():
        path.write_text('{"version": 1}')
    app = open_page("layers", study="s")
    assert is_fine(app)
    assert "what was kept of the layers cannot be read: have it made again" in words(app)
    assert app.button(key="do_look")


def test_errors_of_trials_whose_files_are_there(
    results: Path, study: Path, open_page: Open
) -> None:
    location, trial = Location(results, "s"), measured_trials(12)[6]
    (location.folder / "exports").mkdir()
    (location.folder / "exports" / f"{trial.digest}.onnx").write_bytes(b"onnx")
    app = open_page("layers", study="s", show="error", trial="6")
    assert app.button(key="do_noise").label.startswith("Compare the layers of trial 6 with")
    keep_record(NoiseRecord(layers=(LayerNoise("conv0", 40.0, 30.0),)), noise_path(location, trial))
    app.run()
    assert is_fine(app)
    assert len(figures(app)) == 1
    assert not [button for button in app.button if button.key == "do_noise"]


def test_nothing_is_measured_while_a_search_times_files(results: Path, open_page: Open) -> None:
    write_study(results, "s", measured_trials(8), target=20)
    with hold_driver_lock(Location(results, "s")):
        app = open_page("layers", study="s", show="sensitivity")
    assert app.button(key="do_sensitivity").disabled
