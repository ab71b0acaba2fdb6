"""The passport: what a file is, what it was measured to do, on what."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import onnx

from autoquant.core.artifact import Artifact
from autoquant.errors import ArtifactError

__all__ = ["KEY", "graph_digest", "load_model", "read_passport", "seal", "write_passport"]

KEY = "autoquant.passport"
# Room for the figures, so that a file keeps its size when they are written into it.
_ROOM = 2048
_SHIFT = 512
# What a reader finds in the file itself, what only the search needs, and what is true elsewhere.
_UNSEALED = {"float_layers", "seconds", "partial", "training", "targets"}


def load_model(content: bytes) -> onnx.ModelProto:
    """Parse an ONNX file.

    Raises:
        ArtifactError: truncated, or not ONNX at all.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker share no base class
        raise ArtifactError("not a whole ONNX file (truncated, or of another format)") from error
    return model


def graph_digest(model: onnx.ModelProto) -> str:
    """SHA-256 of the file without its metadata, hexadecimal."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def write_passport(model: onnx.ModelProto, passport: Mapping[str, Any]) -> bytes:
    """The file with a passport in its metadata.

    The text is padded with blanks so that the file's size does not depend on the figures.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = [entry for entry in copy.metadata_props if entry.key != KEY]
    del copy.metadata_props[:]
    copy.metadata_props.extend(kept)
    text = json.dumps(dict(passport), sort_keys=True, separators=(",", ":"))
    without_figures = {key: value for key, value in passport.items() if key != "measurement"}
    fixed = len(json.dumps(without_figures, sort_keys=True, separators=(",", ":")))
    length = (fixed // _SHIFT + 1) * _SHIFT + _ROOM
    copy.metadata_props.add(key=KEY, value=text.ljust(length))
    return bytes(copy.SerializeToString(deterministic=True))


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
    content = write_passport(load_model(artifact.content), passport)
    return Artifact(content, artifact.precisions, passport)


def _origin(passport: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What a passport says on where its figures come from, as a fingerprint has it."""
    protocol = fingerprint.get("latency_protocol", passport["conditions"].get("latency_protocol"))
    return {
        "machine": fingerprint.get("machine", passport["machine"]),
        "versions": fingerprint.get("versions", passport["versions"]),
        "conditions": {**passport["conditions"], "latency_protocol": protocol},
    }


def read_passport(model: onnx.ModelProto) -> dict[str, Any]:
    """The passport of a model, empty if it carries none.

    Raises:
        ArtifactError: a passport that is damaged.
    """
    for entry in model.metadata_props:
        if entry.key == KEY:
            try:
                value = json.loads(entry.value)
            except json.JSONDecodeError as error:
                raise ArtifactError("the passport in this file is damaged") from error
            if isinstance(value, dict):
                return value
            raise ArtifactError("the passport in this file is damaged")
    return {}
