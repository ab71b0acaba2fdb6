"""`Evidence`: an accuracy with what is needed to compare it on the same images.

A share of right answers keeps one bit a sample. A metric of one's own has no bits; it keeps its
value on each of a fixed series of resamples of the split. Both give *draws*: the accuracy on
resamples that are the same for every model, so the difference of two models' draws is paired.
"""

import base64
import zlib
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

__all__ = ["DRAWS", "Evidence", "mcnemar_z", "resample_counts"]

DRAWS = 200
Hits = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Evidence(BaseModel):
    """What a model did on the search split.

    Attributes:
        kind: `hits` holds one bit a sample, `draws` one number a resample.
        samples: samples of the split.
        data: the values, compressed, as text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["hits", "draws"]
    samples: int
    data: str

    @classmethod
    def from_hits(cls, hits: Hits) -> "Evidence":
        """Evidence of a share: (n,) whether each sample was right."""
        return cls(kind="hits", samples=len(hits), data=_to_text(np.packbits(hits).tobytes()))

    @classmethod
    def from_draws(cls, draws: npt.ArrayLike, samples: int) -> "Evidence":
        """Evidence of any metric: (DRAWS,) its value on each resample."""
        values = np.asarray(draws, dtype=np.float32)
        return cls(kind="draws", samples=samples, data=_to_text(values.tobytes()))

    @cached_property
    def hits(self) -> Hits | None:
        """(n,) whether each sample was right; None for a metric that is no share."""
        if self.kind == "draws":
            return None
        bits = np.unpackbits(np.frombuffer(_from_text(self.data), dtype=np.uint8))
        return bits[: self.samples].astype(bool)

    @cached_property
    def draws(self) -> Floats:
        """(DRAWS,) accuracy on each resample of the split."""
        if self.hits is None:
            return np.frombuffer(_from_text(self.data), dtype=np.float32).astype(np.float64)
        return resample_counts(self.samples) @ self.hits.astype(np.float32) / self.samples


@lru_cache(maxsize=4)
def resample_counts(samples: int) -> npt.NDArray[np.float32]:
    """How often each sample is in each resample: (DRAWS, samples), seeded.

    Efron 1979, doi:10.1214/aos/1176344552.
    """
    generator = np.random.default_rng(0)
    chosen = generator.integers(samples, size=(DRAWS, samples))
    return np.stack([np.bincount(row, minlength=samples) for row in chosen]).astype(np.float32)


def mcnemar_z(ours_alone: npt.ArrayLike, theirs_alone: npt.ArrayLike) -> Floats:
    """Difference of two models on the same samples, in standard errors; positive: ours.

    McNemar 1947, doi:10.1007/BF02295996, with the continuity correction of Edwards 1948,
    doi:10.1007/BF02289261.

    Args:
        ours_alone: samples that only our model has right.
        theirs_alone: samples that only the other has right.
    """
    ours, theirs = np.asarray(ours_alone, float), np.asarray(theirs_alone, float)
    difference = ours - theirs
    corrected = np.sign(difference) * np.maximum(np.abs(difference) - 1, 0)
    return np.asarray(corrected / np.sqrt(np.maximum(ours + theirs, 1)))


def _to_text(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()


def _from_text(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
