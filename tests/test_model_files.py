"""TorchScript and ExportedProgram files: what they compute, and what is refused unopened."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoquant.errors import TaskError
from autoquant.tasks.model_file import open_model_file
from autoquant.tasks.model_source import count_outputs
from tests.picture_folders import SIDE, ColourNet, colour_net, save_program
from tests.torchvision_import import import_torchvision

EXAMPLE = torch.zeros(1, 3, SIDE, SIDE)


def save_script(model: nn.Module, path: Path) -> Path:
    torch.jit.script(model).save(path)
    return path


def save_trace(model: nn.Module, path: Path) -> Path:
    torch.jit.trace(model, EXAMPLE).save(path)
    return path


def save_frozen(model: nn.Module, path: Path) -> Path:
    torch.jit.freeze(torch.jit.script(model)).save(path)
    return path


SAVERS = {
    "program": save_program,
    "fixed batch": lambda model, path: save_program(model, path, batch=1),
    "script": save_script,
    "trace": save_trace,
    "frozen": save_frozen,
}


def build(path: Path) -> nn.Module:
    return open_model_file(path).build(EXAMPLE).float().eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit, on itself
@pytest.mark.parametrize("kind", list(SAVERS))
def test_file_computes_what_the_model_does(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = ColourNet(5).eval()
    loaded = build(SAVERS[kind](model, tmp_path / "net.pt2"))
    inputs = torch.randn(3, 3, SIDE, SIDE)
    torch.testing.assert_close(loaded(inputs), model(inputs))
    assert count_outputs(loaded, EXAMPLE, "net") == 5


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", list(SAVERS))
def test_file_is_traced_and_its_layers_are_found(tmp_path: Path, kind: str) -> None:
    from autoquant.build import TaskBuilder
    from autoquant.core.recipe import Recipe
    from autoquant.core.task import Task

    loaded = build(SAVERS[kind](colour_net(), tmp_path / "net.pt2"))
    data = [(torch.randn(3, SIDE, SIDE), index % 3) for index in range(8)]
    builder = TaskBuilder(Task(loaded, EXAMPLE, data, data, name="net"))
    names = [layer.name for layer in builder.layers]
    assert len(names) == 3
    if kind != "frozen":  # freezing throws names away
        assert names == ["body.0", "hidden", "head"]
    artifact = builder.build(Recipe.uniform(names, 8)).artifact
    assert set(artifact.precisions.values()) == {"int8"}


def test_program_knows_its_image_size(tmp_path: Path) -> None:
    source = open_model_file(save_program(colour_net(), tmp_path / "net.pt2"))
    assert source.known == {"image_size": (SIDE, SIDE)}


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "module", "state", "text", "empty"])
def test_files_that_are_no_networks(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "net.pt"
    match kind:
        case "pickle":
            path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
        case "module":
            torch.save({"model": colour_net(), "more": Bomb(tmp_path / "exploded")}, path)
        case "state":
            torch.save(colour_net().state_dict(), path)
        case _:
            path.write_text("junk" * (kind == "text"))
    with pytest.raises(TaskError, match=r"net.pt' is refused: .*torch\.export\.save") as caught:
        open_model_file(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def test_missing_file_says_how_a_name_is_written(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"cannot read .*a model by name is timm:resnet18"):
        open_model_file(tmp_path / "resnet18")


class TwoOutputs(ColourNet):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = super().forward(x)
        return y, y


def test_several_outputs_and_training_mode_are_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="gives several outputs"):
        open_model_file(save_program(TwoOutputs().eval(), tmp_path / "two.pt2"))
    with pytest.raises(TaskError, match="exported in training mode"):
        open_model_file(save_program(ColourNet().train(), tmp_path / "train.pt2"))


def rewrite(path: Path, record: str, change: Callable[[Any], Any]) -> None:
    """Change one record of an archive."""
    with zipfile.ZipFile(path) as archive:
        contents = {item.filename: archive.read(item) for item in archive.infolist()}
    root = next(iter(contents)).partition("/")[0]
    known = contents.get(f"{root}/{record}")
    contents[f"{root}/{record}"] = change(known)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)


def in_json(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        loaded = json.loads(content)
        change(loaded)
        return json.dumps(loaded).encode()

    return changed


def _call_the_system(program: dict[str, Any]) -> None:
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"


def _load_a_library(program: dict[str, Any]) -> None:
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.load_library"


def _map_a_file(program: dict[str, Any]) -> None:
    program["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.from_file.default"


def _evaluate(program: dict[str, Any]) -> None:
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "expr_str" in value:
                value["expr_str"] = "__import__('os').system('true')"
            for below in value.values():
                walk(below)
        elif isinstance(value, list):
            for below in value:
                walk(below)

    walk(program)


def _inject(program: dict[str, Any]) -> None:
    graph = program["graph_module"]["graph"]
    graph["inputs"][0]["as_tensor"]["name"] = "x):\n    import os"


def _import_a_factory(program: dict[str, Any]) -> None:
    call = program["graph_module"]["module_call_graph"][0]["signature"]
    tree = json.loads(call["in_spec"])
    tree[1]["type"] = "collections.defaultdict"
    call["in_spec"] = json.dumps(tree)


def _no_tree(program: dict[str, Any]) -> None:
    program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = "3"


PROGRAM_ATTACKS = {
    "system": ("models/model.json", in_json(_call_the_system), "calls 'torch.os.system'"),
    "library": ("models/model.json", in_json(_load_a_library), "calls 'torch.ops.load_library'"),
    "file": ("models/model.json", in_json(_map_a_file), "from_file"),
    "expression": ("models/model.json", in_json(_evaluate), "no arithmetic on sizes"),
    "name": ("models/model.json", in_json(_inject), "holds the name"),
    "tree": ("models/model.json", in_json(_import_a_factory), "collections.defaultdict"),
    "native": ("data/aotinductor/model/net.so", lambda _: b"", "holds 'data/aotinductor"),
    "opaque": ("data/constants/opaque_obj_0", lambda _: b"", "holds 'data/constants/opaque"),
    "legacy": ("data/weights/model.pt", lambda _: b"", "holds 'data/weights/model.pt'"),
    "no tree": ("models/model.json", in_json(_no_tree), "it is damaged"),
    "damage": ("models/model.json", lambda content: content[:50], "missing or damaged"),
}


@pytest.mark.parametrize("attack", list(PROGRAM_ATTACKS))
def test_program_that_could_run_code_is_refused(tmp_path: Path, attack: str) -> None:
    record, change, message = PROGRAM_ATTACKS[attack]
    path = save_program(colour_net(), tmp_path / "net.pt2")
    rewrite(path, "archive_format", lambda content: content)
    open_model_file(path)  # a rewritten archive as such is read
    rewrite(path, record, change)
    with pytest.raises(TaskError, match=r"net.pt2' is refused: ") as caught:
        open_model_file(path)
    assert message in str(caught.value)


def test_pickled_tensors_and_examples_are_refused(tmp_path: Path) -> None:
    path = save_program(colour_net(), tmp_path / "net.pt2")
    torch.save(Bomb(tmp_path / "exploded"), tmp_path / "bomb.pt")
    bomb = (tmp_path / "bomb.pt").read_bytes()
    rewrite(path, "data/sample_inputs/model.pt", lambda _: bomb)
    with pytest.raises(TaskError, match="example inputs are pickles"):
        open_model_file(path)
    path = save_program(colour_net(), tmp_path / "other.pt2")

    def as_pickle(config: dict[str, Any]) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    rewrite(path, "data/weights/model_weights_config.json", in_json(as_pickle))
    with pytest.raises(TaskError, match="stored as a pickle"):
        open_model_file(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('torch.save(x, "stolen")', "save"),
        ("t = torch", "torch"),
        ('ops.custom.run("x")', "ops"),
        ('getattr(x, "sa" "ve")(x)', "getattr"),
        ('torch.from_file("a", True, 1)', "from_file"),
        ("x = __torch__.torch.classes.some.Thing()", "torch.classes"),
    ],
)
def test_script_that_could_touch_files_is_refused(tmp_path: Path, line: str, word: str) -> None:
    path = save_script(colour_net(), tmp_path / "net.pt")
    with zipfile.ZipFile(path) as archive:
        codes = [name for name in archive.namelist() if name.endswith(".py")]
        name = next(name for name in codes if b"class ColourNet" in archive.read(name))
    record = name.partition("/")[2]
    rewrite(path, record, lambda content: content + f"    {line}\n".encode())
    with pytest.raises(TaskError, match=r"is refused: its 'code.*line \d+, uses") as caught:
        open_model_file(path)
    assert f"'{word}'" in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrong_image_size_is_one_line(tmp_path: Path) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * SIDE * SIDE, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.flatten(x, 1))

    loaded = build(save_program(Flat().eval(), tmp_path / "flat.pt2"))
    with pytest.raises(TaskError, match=r"does not take two images of \(3, 20, 20\)") as caught:
        count_outputs(loaded, torch.zeros(1, 3, 20, 20), "flat.pt2")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.long
def test_trace_of_a_published_architecture_is_read(tmp_path: Path) -> None:
    """Members by number, classes that live in a package `ops`, convolutions of one kind."""
    import_torchvision()
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v3_small().eval()
    torch.jit.trace(model, torch.zeros(1, 3, 64, 64)).save(tmp_path / "net.pt")
    loaded = open_model_file(tmp_path / "net.pt").build(torch.zeros(1, 3, 64, 64)).eval()
    inputs = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(loaded(inputs), model(inputs))
