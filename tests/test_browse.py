"""What the app needs below its pages."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml

from autoquant.browse import draft, process
from autoquant.browse.draft import Draft, layer_rows, quantizer_choices, read_draft, to_yaml
from autoquant.browse.errand import follow_errand
from autoquant.browse.estimate import describe_budget
from autoquant.browse.handout import compare_layers, compare_recipes, export_command, report_command
from autoquant.browse.library import Library, StudyView
from autoquant.browse.overlay import overlay_studies
from autoquant.browse.pace import find_costs, find_failures, find_growth, find_left, find_pace
from autoquant.browse.process import find_process, read_log, start_search, stop_search
from autoquant.browse.table import Filter, build_table, find_ranges, shape_rows
from autoquant.config import LayerConfig, load_space, parse_space, shipped_spaces
from autoquant.core.analysis import Cell
from autoquant.core.hypervolume import find_mode_yields
from autoquant.errors import InputError, SpaceError, StorageError, StudyError
from autoquant.report.explore_figure import AXES, explore_figure
from autoquant.report.progress_figure import drift_figure, growth_figure, loss_curves_figure
from autoquant.report.strip_figure import strip_figure
from autoquant.search.storage import Location
from tests.journals import failed, measured_trials, rejected, write_study
from tests.loss_trials import TRAINING, cell_trial, hits_with


def view_of(results: Path, name: str = "s", count: int = 40) -> StudyView:
    write_study(results, name, measured_trials(count))
    return Library(results).view(name)


# Studies


def test_a_study_is_read_again_only_when_it_has_changed(tmp_path: Path) -> None:
    write_study(tmp_path, "s", measured_trials(8))
    library = Library(tmp_path)
    first = library.view("s")
    assert library.view("s") is first
    write_study(tmp_path, "s", measured_trials(9))
    assert len(library.view("s").snapshot.trials) == 9


def test_studies_of_a_task_are_found_without_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path, "a", measured_trials(8))
    write_study(tmp_path, "b", measured_trials(8), task="other")
    write_study(tmp_path, "c", measured_trials(8))
    (tmp_path / "c" / "journal.log").write_text("junk\n" * 99)
    monkeypatch.setattr("autoquant.browse.library.StudyReader.read", lambda _: pytest.fail("read"))
    assert Library(tmp_path).keys_of("digits") == ["a"]


def test_cards_say_what_studies_do(tmp_path: Path) -> None:
    write_study(tmp_path, "done", measured_trials(8))
    write_study(tmp_path, "stopped", measured_trials(8), target=20)
    write_study(tmp_path, "newer", measured_trials(8), version=7)
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "journal.log").write_text("junk\n")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "space.yaml").write_text("version: 1\n")
    (tmp_path / "half" / "search.log").write_text("loading\nerror: unknown task 'x'\n")
    (tmp_path / "no study").mkdir()
    cards = {card.name: card for card in Library(tmp_path).cards()}
    states = {name: card.state for name, card in cards.items()}
    assert states == {"done": "done", "stopped": "stopped", "newer": "done",
                      "junk": "unreadable", "half": "not begun"}  # fmt: skip
    assert "unknown task 'x'" in (cards["half"].problem or "")
    assert "update autoquant" in (cards["newer"].problem or "")
    assert cards["done"].age == "now"


@pytest.mark.parametrize("name", ["..", "../s", "/etc", "a/b", "", "x" * 65, "a\0b"])
def test_names_that_could_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StudyError, match="no study name"):
        Library(tmp_path).view(name)


# The table


def test_filters_keep_what_is_within_and_baselines(tmp_path: Path) -> None:
    table = view_of(tmp_path).table
    kept = table[Filter(max_drop=1.0, max_size=0.06, modes=("ptq",)).mask(table)]
    others = kept[~kept["is_baseline"]]
    assert len(kept[kept["is_baseline"]]) == 5
    assert 0 < len(others) < len(table) - 5
    assert (others["drop"] <= 1.0).all()
    assert (others["size"] <= 0.06).all()
    assert (others["mode"] == "ptq").all()


def test_ends_of_the_sliders_leave_nothing_out(tmp_path: Path) -> None:
    table = view_of(tmp_path).table
    for column, (low, high) in find_ranges(table).items():
        assert table[column].between(low, high).all()
    assert find_ranges(table.head(1)) == {}


def test_rows_follow_the_selection(tmp_path: Path) -> None:
    view = view_of(tmp_path)
    shown, title = shape_rows(view.table, [])
    assert len(shown) == len(view.front.members)
    assert "The front" in title
    shown, title = shape_rows(view.table, [("s", 7), ("s", 9), ("other", 3)])
    assert sorted(shown["#"]) == [7, 9]
    assert title == "2 selected"
    assert "±" in shown["drop (points)"].iloc[0]


def test_an_empty_study_has_an_empty_table() -> None:
    table = build_table("s", [], [])
    assert not len(table)
    assert explore_figure(table).data
    assert not len(shape_rows(table, [])[0])


# Figures


@pytest.mark.parametrize("x", AXES)
@pytest.mark.parametrize("y", AXES)
def test_any_two_objectives_make_a_figure(tmp_path: Path, x: str, y: str) -> None:
    views = [view_of(tmp_path), view_of(tmp_path, "t", 20)]
    table = overlay_studies(views).table
    figure = explore_figure(table, x, y, size_by="size", color_by="study", selected=[("s", 6)])
    drawn = sum(len(trace.x) for trace in figure.data if trace.name not in ("chosen", "baseline"))
    expected = int((table[x].notna() & table[y].notna()).sum())
    assert drawn == expected
    assert figure.layout.xaxis.title.text == AXES[x]


def test_few_traces_however_many_trials(tmp_path: Path) -> None:
    figure = explore_figure(view_of(tmp_path, count=200).table, color_by="calibration")
    assert len(figure.data) < 20


def test_far_baselines_do_not_press_the_rest_together(tmp_path: Path) -> None:
    table = view_of(tmp_path).table.copy()
    table.loc[table["name"] == "ort-dynamic", "latency"] = 16.0
    low, high = explore_figure(table, "latency", "accuracy").layout.xaxis.range
    assert high < 2
    assert low < table["latency"].min()


def test_figures_of_a_running_search(tmp_path: Path) -> None:
    view = view_of(tmp_path)
    assert len(growth_figure(find_growth(view.snapshot)).data[0].x) == 40
    assert drift_figure(view.snapshot.trials).data
    assert not loss_curves_figure(view.snapshot.trials).data
    cell = Cell(4, "per_channel", "qat", training=TRAINING)
    learned, held_out = loss_curves_figure([cell_trial(1, cell, hits_with(1))]).data
    assert list(learned.x) == [1.0, 2.0]
    assert list(held_out.x) == [0.0, 1.0, 2.0], "from before the first step on"


def test_the_strip_shows_every_layer_in_order(tmp_path: Path) -> None:
    trials = measured_trials(8)
    heat = strip_figure([trials[0], trials[3], trials[6]]).data[0]
    assert list(heat.x) == [f"conv{index}" for index in range(8)]
    assert [set(row) for row in heat.text[:2]] == [{"f"}, {"8"}]
    widths = ["f" if bits is None else str(bits) for bits in trials[6].recipe.layers.values()]
    assert list(heat.text[2]) == widths


# How it goes


def test_hypervolume_grows_to_what_the_modes_gained(tmp_path: Path) -> None:
    snapshot = view_of(tmp_path).snapshot
    growth = [volume for _, volume in find_growth(snapshot)]
    assert growth == sorted(growth)
    yields = find_mode_yields(snapshot.trials, snapshot.header.objectives, snapshot.header.bounds)
    assert growth[-1] == pytest.approx(sum(item.gained for item in yields))


def test_failures_are_grouped_by_what_they_share(tmp_path: Path) -> None:
    trials = measured_trials(10)
    bad = [failed(trial, f"layer {trial.number} diverged") for trial in trials[7:]]
    write_study(tmp_path, "s", [*trials[:6], rejected(trials[6]), *bad])
    groups = find_failures(Library(tmp_path).view("s").snapshot)
    assert groups[0] == ("failed", "layer N diverged", [7, 8, 9])
    assert groups[1][0] == "rejected"


def test_the_pace_leaves_pauses_out(tmp_path: Path) -> None:
    snapshot = view_of(tmp_path, count=8).snapshot
    assert find_pace(snapshot).per_minute is None  # all ended at once
    ends = np.cumsum([0, 2, 2, 2, 50_000, 2, 2, 2])
    first = min(snapshot.ended.values())
    from dataclasses import replace
    from datetime import timedelta

    ended = {i: first + timedelta(seconds=float(s)) for i, s in enumerate(ends)}
    paused = replace(snapshot, ended=ended)
    pace = find_pace(paused)
    assert pace.per_minute == pytest.approx(30)
    walls = [cost.wall_s for cost in find_costs(paused)]
    assert walls == [None, 2, 2, 2, None, 2, 2, 2]
    plain = tuple(trial for trial in snapshot.trials if not trial.recipe.is_trained)
    header = replace(snapshot.header, trials=len(plain) + 30)
    longer = replace(paused, header=header, trials=plain)
    assert 30 < find_pace(longer).left.seconds < 75, (
        "thirty trials of two seconds, some turned away"
    )
    assert find_left(longer, find_pace(longer)) is None, "they ended months ago"


# Drafts


# rules that say only a part, and keep what an earlier one says of the rest
PARTIAL = {
    "version": 1,
    "task": "digits",
    "layers": {
        "*": {"weight_bits": [8, 4], "exclude": [True, False], "activation": ["static"]},
        "conv1": {"weight_bits": [8]},
        "fc": {"activation": ["dynamic", "float"]},
        "_conv_stem": {"exclude": [True]},
    },
}


def test_a_space_goes_through_the_form_unchanged() -> None:
    for config in [*map(load_space, shipped_spaces().values()), parse_space(PARTIAL, "partial")]:
        chosen = config.quantizer.model_dump()
        quantizer = {
            choice.name: [choice.show(value) for value in chosen[choice.name] or ()]
            for choice in quantizer_choices()
        }
        drop = config.constraints.max_accuracy_drop
        qat = config.quantizer.qat
        built = Draft(
            config.task, config.task_options, config.objectives, layer_rows(config), quantizer,
            None if drop is None else drop * 100, None, None, config.budget.trials,
            str(config.budget.timeout or ""), qat.model_dump(exclude_none=True) if qat else None,
        ).to_config()  # fmt: skip
        again = parse_space(yaml.safe_load(to_yaml(built)), "again")
        layers = ["conv1", "fc", "a_depthwise_conv", "_conv_stem"]
        able = dict.fromkeys(layers, ("8", "4", "8:dynamic", "4:dynamic", "8:float", "4:float"))
        assert again.budget == config.budget
        assert again.quantizer == config.quantizer
        found = again.to_space(layers, able=able).layers
        assert found == config.to_space(layers, able=able).layers


def blank(**changes) -> Draft:
    rows = [{"pattern": "*", "bits": [8, 4], "float": "may"}]
    told = {"task": "digits", "task_options": None, "objectives": ["accuracy"], "layers": rows,
            "quantizer": {}, "max_drop": None, "max_latency_ms": None, "max_size_mb": None,
            "trials": 9, "timeout": ""}  # fmt: skip
    return Draft(**{**told, **changes})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"objectives": []}, "objectives"),
        ({"layers": []}, "at least one pattern"),
        ({"layers": [{"pattern": "*"}]}, "says nothing"),
        ({"layers": 2 * [{"pattern": "*", "bits": [8]}]}, "two rows"),
        ({"quantizer": {"calibration_images": ["²"]}}, "no whole number"),
        ({"quantizer": {"calibration_images": ["1" * 5000]}}, "no whole number"),
        ({"timeout": "soon"}, "no duration"),
        ({"quantizer": {"calibration_images": ["many"]}}, "no whole number"),
        ({"quantizer": {"calibration": ["percentile:9"]}}, "percentile"),
        ({"trials": 0}, "trials"),
    ],
)
def test_a_form_that_is_filled_in_wrongly_says_where(changes, word: str) -> None:
    with pytest.raises(SpaceError, match=word):
        blank(**changes).to_config()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"x" * 70_000, "larger than 64 kB"),
        (b"\xff\xfe", "not YAML"),
        (b"- 1", "mapping"),
        (b"!!python/object/apply:os.system ['true']", "not YAML"),
        (b"a: &a [1]\nb: *a\n", "aliases"),
        (b"version: 1\ntask: t\ntask_options: {data: /etc}\n", "command line"),
        (b"version: 1\ntask: t\ncolour: red\n", "unknown key 'colour'"),
    ],
)
def test_files_of_visitors_are_data_or_refused(content: bytes, word: str) -> None:
    with pytest.raises(SpaceError, match=word):
        read_draft(content)


def test_a_pattern_decides_on_a_layer_if_it_is_the_last_to_say_something() -> None:
    both, one = LayerConfig(weight_bits=[8, 4], exclude=[True]), LayerConfig(weight_bits=[8])
    found = draft.match_patterns({"*": both, "conv*": both, "fc": one}, ["conv1", "fc", "head"])
    assert found == {"*": ["fc", "head"], "conv*": ["conv1"], "fc": ["fc"]}


def test_the_size_of_the_space_and_the_time_are_told(tmp_path: Path) -> None:
    config = blank().to_config()
    names = ["a", "b"]
    text = describe_budget(config, [], names)
    assert text.startswith(f"{config.to_space(names).size:,} recipes over 2 layers; 9 trials")
    rows = [{"pattern": "zz", "bits": [8], "float": "may"}]
    other = blank(layers=rows).to_config()
    with pytest.raises(SpaceError, match="matches no layer"):
        describe_budget(other, [], names)


# Processes

_SLEEPER = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
print("begun", sys.argv[1:], flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("\\x1b[31minterrupted\\x1b[0m; kept", flush=True)
"""


def wait_for(condition, seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_search_is_begun_found_and_interrupted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(process, "_ENTRY", _SLEEPER)
    location = Location(tmp_path, "s")
    start_search(location, "version: 1\n", ["--seed", "3"], Path("tasks.py"))
    wait_for(lambda: read_log(location, 1))
    (line,) = read_log(location, 5)
    assert "'--study', 's', '--seed', '3'" in line
    assert "'--tasks-from', 'tasks.py'" in line
    assert find_process(location) is not None
    assert Library(tmp_path).card("s").state == "starting"
    with pytest.raises(StudyError, match="already"):
        start_search(location, "version: 1\n")
    stop_search(location)
    wait_for(lambda: find_process(location) is None)
    assert read_log(location, 1) == ["interrupted; kept"]
    with pytest.raises(StudyError, match="Ctrl-C"):
        stop_search(location)


def test_two_windows_begin_a_search_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(process, "_ENTRY", _SLEEPER)
    location = Location(tmp_path, "s")
    began = process.subprocess.Popen
    both = threading.Barrier(2)

    def begin(*arguments, **options):
        time.sleep(0.2)  # between the look and the note of which process it is
        return began(*arguments, **options)

    monkeypatch.setattr(process.subprocess, "Popen", begin)

    def click(_: int) -> object:
        both.wait()
        try:
            return start_search(location, "version: 1\n")
        except StudyError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(click, range(2)))
    wait_for(lambda: read_log(location, 1))
    stop_search(location)
    wait_for(lambda: find_process(location) is None)
    assert sum(isinstance(item, int) for item in found) == 1
    assert sum("already" in str(item) for item in found) == 1


def test_a_number_that_belongs_to_another_process_now_is_left_alone(tmp_path: Path) -> None:
    location = Location(tmp_path, "s")
    location.create_folder()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        known = {"process": child.pid, "began": "12345"}
        (location.folder / "process.json").write_text(json.dumps(known))
        assert find_process(location) is None
        with pytest.raises(StudyError):
            stop_search(location)
        assert child.poll() is None
        child.kill()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"process": "x", "began": "1"}'])
def test_what_is_no_process_is_none(tmp_path: Path, text: str) -> None:
    location = Location(tmp_path, "s")
    location.create_folder()
    (location.folder / "process.json").write_text(text)
    assert find_process(location) is None


def test_a_search_that_cannot_begin_says_why(tmp_path: Path) -> None:
    location = Location(tmp_path, "s")
    start_search(location, "version: 1\ntask: nonsense\n")
    wait_for(lambda: find_process(location) is None)
    card = Library(tmp_path).card("s")
    assert card.state == "not begun"
    assert "unknown task 'nonsense'" in (card.problem or "")


def test_nothing_is_gone_on_with_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="any more"):
        process.resume_search(Location(tmp_path, "s"))


# Errands and what is handed out


def test_an_errand_that_cannot_be_done_says_why() -> None:
    with pytest.raises(InputError, match="unknown task 'nonsense'"):
        follow_errand("layers", {"task": "nonsense"})


def test_layers_are_read_by_another_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom autoquant import Task, register_task\nprint('hello')\n"
        "data = [(torch.zeros(3), 0)] * 4\n"
        "@register_task('mine')\n"
        "def mine():\n"
        "    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))\n"
        "    return Task(net, torch.zeros(1, 3), data, data)\n"
    )
    told = {"task": "mine", "tasks_from": str(tmp_path / "mine.py")}
    assert follow_errand("layers", told) == ["0", "1"]


def test_what_differs_between_recipes() -> None:
    trials = measured_trials(30)
    trained = next(trial for trial in trials if trial.recipe.is_trained)
    plain = next(t for t in trials if not t.recipe.is_trained and t.name is None)
    rows = {row["what"]: row for row in compare_recipes([plain, trained])}
    assert rows["mode"][f"trial {trained.number}"] == "qat"
    assert rows["mode"][f"trial {plain.number}"] == "ptq"
    assert not compare_recipes([plain, plain])


def test_layers_of_files_stand_beside_each_other() -> None:
    layer = {"name": "a", "kind": "conv", "kernel": "QLinearConv", "integer_kernel": True,
             "time_share": 0.5, "sqnr_db": 41.0}  # fmt: skip
    rows = compare_layers({3: [layer], 4: [{**layer, "name": "b", "sqnr_db": None}]})
    assert rows[0]["trial 3"] == "50% of the time, QLinearConv (integer), SQNR 41 dB"
    assert rows[0]["trial 4"] == "-"


def test_commands_name_the_folder_where_it_is_not_the_usual_one() -> None:
    usual, other = Location(Path("results"), "s"), Location(Path("of the night"), "s")
    assert export_command(usual, 3, "m.onnx") == "autoquant export s --trial 3 -o m.onnx"
    assert "--results 'of the night'" in export_command(other, 3, "m.onnx")


def test_commands_name_a_database_without_its_password() -> None:
    location = Location(Path("results"), "s", "postgresql://aq:se@me@host/db?password=se@me")
    for command in (export_command(location, 3, "m.onnx"), report_command(location)):
        assert "--storage 'postgresql://aq:***@host/db'" in command
        assert "se@me" not in command
