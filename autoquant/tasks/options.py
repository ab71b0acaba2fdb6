"""`TaskOptions`: what a task may be told, from a space file, the command line or a passport."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from autoquant.errors import TaskError

__all__ = ["TaskOptions", "is_name", "merge_options"]

# one letter before the colon is a drive
_NAMED = re.compile(r"[A-Za-z][\w-]+:")


class TaskOptions(BaseModel):
    """Options of a task: subclass it and hand it to `register_task`.

    Values are those of JSON, since they travel in studies and passports. Unknown keys, wrong
    types and numbers that are not finite are errors.

    Attributes:
        paths: keys whose text names a file or a folder. A relative one is taken from the
            folder of the file that it stands in; text such as `timm:resnet18` is no path.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    paths: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def parse(cls, given: Mapping[str, Any], task: str) -> Self:
        """Validate options.

        Args:
            given: as read from YAML or JSON.
            task: whose options they are, for messages.

        Raises:
            TaskError: names the option and what would be right.
        """
        try:
            return cls.model_validate(dict(given))
        except ValidationError as error:
            raise TaskError(f"task '{task}': {_explain(error, cls)}") from None

    @classmethod
    def anchor(cls, given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """The same options, with paths that hold anywhere."""
        return {
            key: _anchor(value, folder) if key in cls.paths and isinstance(value, str) else value
            for key, value in given.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, defaults included; the inverse of `parse`."""
        return self.model_dump(mode="json", exclude_none=True)


def merge_options(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Options of two sources; the second goes first, key by key also one level down."""
    merged = dict(first)
    for key, value in second.items():
        known = merged.get(key)
        both = isinstance(known, Mapping) and isinstance(value, Mapping)
        merged[key] = {**known, **value} if both else value  # type: ignore[dict-item]
    return merged


def is_name(text: str) -> bool:
    """Whether text is a name such as `timm:resnet18` rather than a path."""
    return _NAMED.match(text) is not None


def _anchor(text: str, folder: Path) -> str:
    if is_name(text) or not text:
        return text
    return str((folder / Path(text).expanduser()).absolute())


def _explain(error: ValidationError, kind: type[TaskOptions]) -> str:
    details = error.errors()
    first = next((item for item in details if item["type"] == "extra_forbidden"), details[0])
    if not first["loc"]:  # options that do not go together
        return str(first["msg"]).removeprefix("Value error, ")
    # between the keys of a nested mapping pydantic names the alternatives that it tried
    key, *rest = first["loc"]
    inner = _fields(kind).get(str(key), {})
    where = ".".join([str(key), *(str(part) for part in rest if part in inner)])
    if first["type"] == "extra_forbidden":
        known = inner if rest else _fields(kind)
        extra = ".".join(map(str, first["loc"]))
        return f"unknown option '{extra}'; there are {', '.join(known)}"
    if first["type"] == "missing":
        return (
            f"option '{where}' is missing: give it under task_options in the space file, or as "
            f"--task-option {where}=VALUE"
        )
    reasons = dict.fromkeys(item["msg"] for item in details if item["loc"][:1] == (key,))
    return f"option '{where}': {', or '.join(reasons)}; not {first['input']!r}"


def _fields(kind: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """Names of the options, each with the names that lie below it."""
    return {
        name: _fields(field.annotation)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        else {}
        for name, field in kind.model_fields.items()
    }
