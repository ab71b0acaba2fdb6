"""`Fingerprint`: the machine and the versions that a figure was measured with."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["Fingerprint", "fingerprint_digest"]

Fingerprint = Mapping[str, Any]  # `machine`, `versions`, `latency_protocol`

_LENGTH = 12


def fingerprint_digest(fingerprint: Fingerprint) -> str:
    """A short name for a fingerprint, hexadecimal: records repeat the name, not the thing."""
    text = json.dumps(dict(fingerprint), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]
