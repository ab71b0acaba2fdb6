"""What a model file may hold, checked before torch opens it.

A file names code to run as soon as one lets it, and torch lets it in both of its formats:

- `torch.export.load` (2.13) unpickles tensor subclasses, opaque objects and constants with
  `weights_only=False`, falls back to that for example inputs, loads native libraries that
  AOTInductor has packed in, resolves the operators of a graph by attribute access on `torch`
  (`torch.os.system` is one), hands symbolic expressions to `sympy.sympify`, which evaluates
  them, and writes names of the file into generated Python code;
- `torch.jit.load` runs no Python, but TorchScript of the file itself, and TorchScript can save
  files and create objects of any registered C++ class.

So nothing here is a list of what is bad: of a program each text must be of a known harmless
form, and an archive may hold nothing but what a classifier needs.
"""

import io
import json
import re
from typing import Any

import torch

from autoquant.errors import TaskError

__all__ = ["audit_program", "audit_script"]

_PROGRAM_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/\w+|\.format_version"
    r"|\.storage_alignment|extra/.*|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/(weight_\d+|tensor_\d+|model_(weights|constants)_config\.json)"
)
_WORD = re.compile(r"[A-Za-z0-9_.@+-]*")
# What torch keeps as text: it is shown, compared or quoted, never evaluated where the program
# is turned into a module without its guards.
_TEXTS = {
    "as_string", "as_strings", "custom", "from_node", "guards_code", "nn_module_stack",
    "source_fn_stack", "stack_trace", "torch_fn",
}  # fmt: skip
# `Mul(Integer(2), Symbol('s77', positive=True, integer=True))`
_SYMBOL = re.compile(r"'[suz]\d+'")
_EXPRESSION = re.compile(r"[A-Za-z0-9_+\-*/(), =]{0,500}")
_FUNCTIONS = {
    "Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod",
    "FloorDiv", "CeilDiv", "CleanDiv", "IntTrueDiv", "ModularIndexing", "PowByNatural",
    "Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan",
    "positive", "nonnegative", "integer", "True", "False",
}  # fmt: skip
_PLAIN_TARGETS = {
    *(f"_operator.{name}" for name in (
        "getitem", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "neg",
        "eq", "ne", "lt", "le", "gt", "ge", "and_", "or_",
    )),
    *(f"math.{name}" for name in ("ceil", "floor", "trunc")),
    *(f"torch.sym_{name}" for name in ("int", "float", "max", "min", "not", "ite", "sqrt")),
}  # fmt: skip
_FILE_OPERATORS = {"from_file", "save"}
_TREE_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}

_SCRIPT_SUSPECTS = re.compile(
    r"\b(?:save|from_file|getattr)\b"  # operators on files, and names made up at run time
    r"|(?<!\.)\bops\b(?!\s*\.\s*prim\s*\.)"  # operators that libraries have registered
    r"|\btorch\s*\.\s*classes\b"  # C++ objects
    r"|\btorch\b(?!\s*\.)"  # another name for any of these
)
# reading a member whose name stands there, as in getattr(self.layer1, "0")
_MEMBER = re.compile(r'\(?\bgetattr\([\w.]+, "(?!(?:save|from_file|ops|classes)")\w+"\)\)?')


def audit_program(reader: torch._C.PyTorchFileReader) -> None:
    """Check an ExportedProgram archive (.pt2).

    Raises:
        TaskError: it holds anything else than the graph and the tensors of one model, or a text
            that torch might execute.
    """
    records = reader.get_all_records()
    for record in records:
        if not _PROGRAM_RECORDS.fullmatch(record):
            raise TaskError(f"it holds '{record}', which no exported classifier needs")
    for record in records:
        if record.endswith("_config.json"):
            _audit_payloads(_read_json(reader, record))
        elif record.endswith(".pt"):
            _audit_tensors(reader.get_record(record))
    _audit_value(_read_json(reader, "models/model.json"), "")


def _read_json(reader: torch._C.PyTorchFileReader, record: str) -> Any:
    try:
        return json.loads(reader.get_record(record))
    except (RuntimeError, ValueError) as error:
        raise TaskError(f"its '{record}' is missing or damaged") from error


def _audit_payloads(content: Any) -> None:
    """Tensors must be raw bytes: neither pickles nor objects."""
    _audit_value(content, "")
    for name, payload in content["config"].items():
        if payload["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", payload["path_name"]):
            raise TaskError(f"its tensor '{name}' is stored as a pickle, which could run code")


def _audit_tensors(content: bytes) -> None:
    """Refuse what torch would not read with `weights_only`, which it tries first."""
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # torch raises several unrelated classes here
        raise TaskError("its example inputs are pickles of more than tensors") from error


def _audit_value(value: Any, key: str) -> None:
    """Walk through JSON; `key` is where a value stands."""
    if isinstance(value, dict):
        for name, below in value.items():
            _audit_text(name, "")
            _audit_value(below, name)
    elif isinstance(value, list):
        for below in value:
            _audit_value(below, key)
    elif isinstance(value, str):
        _audit_text(value, key)


def _audit_text(text: str, key: str) -> None:
    if key in _TEXTS:
        return
    if key in ("target", "as_operator"):
        _audit_target(text)
    elif key == "expr_str":
        _audit_expression(text)
    elif key in ("in_spec", "out_spec"):
        _audit_tree(json.loads(text)[1])
    elif not _WORD.fullmatch(text):
        raise TaskError(f"it holds the name {text[:60]!r}, which is none")


def _audit_target(target: str) -> None:
    """Operators of ATen and arithmetic on sizes."""
    if target in _PLAIN_TARGETS:
        return
    found = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", target)
    if found is not None and found[1] not in _FILE_OPERATORS:
        packet = getattr(torch.ops.aten, found[1], None)
        if isinstance(getattr(packet, found[2], None), torch._ops.OpOverload):
            return
    raise TaskError(f"it calls '{target}', which is no operator of ATen")


def _audit_expression(text: str) -> None:
    without_symbols = _SYMBOL.sub("0", text)
    names = set(re.findall(r"[A-Za-z_]\w*", without_symbols))
    if not (names <= _FUNCTIONS and _EXPRESSION.fullmatch(without_symbols)):
        raise TaskError(f"it holds the size {text[:60]!r}, which is no arithmetic on sizes")


def _audit_tree(tree: Any) -> None:
    """Structure of inputs and outputs: tuples, lists and dicts alone."""
    context = tree["context"]
    is_plain = context in (None, "null") or isinstance(json.loads(context), list)
    if tree["type"] not in _TREE_TYPES or not is_plain or "__enum__" in str(context):
        raise TaskError(f"its inputs or outputs are of type {tree['type']!r}")
    for below in tree["children_spec"]:
        _audit_tree(below)


def audit_script(reader: torch._C.PyTorchFileReader) -> None:
    """Check a TorchScript archive.

    Raises:
        TaskError: its code calls operators on files, other operators than torch's own, or makes
            C++ objects.
    """
    for record in reader.get_all_records():
        content = reader.get_record(record)
        if record.endswith(".py"):
            _audit_code(record, content.decode(errors="replace"))
        elif record.endswith(".pkl") and b"torch.classes" in content:
            raise TaskError(f"its '{record}' holds C++ objects")


def _audit_code(record: str, code: str) -> None:
    # comments and texts are searched as well: where they end is for another parser to say
    for number, line in enumerate(_without_getattr(code).splitlines(), start=1):
        found = _SCRIPT_SUSPECTS.search(line)
        if found is not None:
            raise TaskError(f"its '{record}', line {number}, uses '{found[0]}'")


def _without_getattr(code: str) -> str:
    """Code without the members that it reads by a name that stands there, nested ones too."""
    shorter = _MEMBER.sub("_", code)
    while shorter != code:
        code, shorter = shorter, _MEMBER.sub("_", shorter)
    return code
