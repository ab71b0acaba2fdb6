"""The passport: what a file is, what it was measured to do, on what."""

import json
from collections.abc import Mapping
from typing import Any

from autoquant.core.artifact import Artifact
from autoquant.errors import ArtifactError
from autoquant.export.formats import format_of

__all__ = ["KEY", "from_text", "seal", "to_text"]

KEY = "autoquant.passport"
# Room for the figures, so that a file keeps its size when they are written into it.
_ROOM = 2048
_SHIFT = 512
# What a reader finds in the file itself, what only the search needs, and what is true elsewhere.
_UNSEALED = {"float_layers", "seconds", "partial", "training", "targets"}


def to_text(passport: Mapping[str, Any]) -> str:
    """A passport as it stands in a file.

    Padded with blanks, so that the file's size does not depend on the figures.
    """
    text = json.dumps(dict(passport), sort_keys=True, separators=(",", ":"))
    without_figures = {key: value for key, value in passport.items() if key != "measurement"}
    fixed = len(json.dumps(without_figures, sort_keys=True, separators=(",", ":")))
    return text.ljust((fixed // _SHIFT + 1) * _SHIFT + _ROOM)


def from_text(text: str) -> dict[str, Any]:
    """A passport as `to_text` wrote it.

    Raises:
        ArtifactError: it is damaged.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtifactError("the passport in this file is damaged") from error
    if isinstance(value, dict):
        return value
    raise ArtifactError("the passport in this file is damaged")


def seal(
    artifact: Artifact, measurement: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> Artifact:
    """Write figures into the passport of a file, and what they were measured on.

    The file keeps its size, unless the description of another machine is longer.

    Args:
        artifact: the file, with a passport.
        measurement: its figures.
        fingerprint: what they were measured on; what it leaves out stays as the passport has it.
    """
    figures = {name: value for name, value in measurement.items() if name not in _UNSEALED}
    origin = _origin(artifact.passport, fingerprint)
    passport = {**artifact.passport, **origin, "measurement": figures}
    content = format_of(artifact.content).write_passport(artifact.content, passport)
    return Artifact(content, artifact.precisions, passport)


def _origin(passport: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What a passport says on where its figures come from, as a fingerprint has it."""
    protocol = fingerprint.get("latency_protocol", passport["conditions"].get("latency_protocol"))
    return {
        "machine": fingerprint.get("machine", passport["machine"]),
        "versions": fingerprint.get("versions", passport["versions"]),
        "conditions": {**passport["conditions"], "latency_protocol": protocol},
    }
