"""PTQ or QAT, in words: what the verdicts say to who has a deadline, data and a width."""

import math
from collections.abc import Sequence
from itertools import pairwise

from autoquant.core.gain import Gain, find_gain
from autoquant.core.rehearsal import REHEARSED_SAMPLES
from autoquant.report.grid import LossPoint, describe_seconds
from autoquant.report.verdict import ImageNeed, Verdict, find_verdicts

__all__ = ["advise_on_training"]


def advise_on_training(points: Sequence[LossPoint]) -> list[str]:
    """One paragraph a width, and one on what the narrower width costs and saves.

    Differences inside the paired interval are told as none.

    Args:
        points: of the grid, in its order.
    """
    verdicts = find_verdicts(points)
    paragraphs = [_describe(verdict) for verdict in verdicts]
    paragraphs += [
        text
        for wide, narrow in pairwise(verdicts)
        if (text := _compare_widths(wide, narrow)) is not None
    ]
    return paragraphs


def _describe(verdict: Verdict) -> str:
    sentences = [
        _describe_plain(verdict),
        _describe_training(verdict),
        *_describe_needs(verdict.needs),
        _decide(verdict),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _describe_plain(verdict: Verdict) -> str:
    plain = verdict.plain
    if plain is None:
        return f"At {verdict.weight_bits} bits, nothing was measured without training."
    where = f"At {verdict.weight_bits} bits, PTQ ({_name(plain)})"
    time = f"after {_seconds(plain)}"
    if verdict.loss is None:
        return f"{where} is {_points(-(plain.trial.accuracy_drop or 0.0))} float, {time}."
    size = f"{_points(verdict.loss.value)} float"
    if verdict.loss.is_worse:
        text = f"{where} loses: {size} ({_ends(verdict.loss)}), {time}"
    elif verdict.loss.is_better:
        text = f"{where} is {size} ({_ends(verdict.loss)}), {time}"
    else:
        text = f"{where} cannot be told from float: {size} ({_ends(verdict.loss)}), {time}"
    simpler = verdict.simpler
    if simpler is None or simpler.trial.accuracy_drop is None:
        return f"{text}."
    return f"{text}; {simpler.cell.method} alone is {_points(-simpler.trial.accuracy_drop)}."


def _describe_training(verdict: Verdict) -> str:
    trained, gain = verdict.trained, verdict.gain
    if trained is None:
        return _explain_no_training(verdict)
    spent = f"{_seconds(trained)} and {_describe_data(trained)}"
    if verdict.plain is None:
        drop = trained.trial.accuracy_drop or 0.0
        return f"QAT ({_granularity(trained)}) is {_points(-drop)} float after {spent}."
    if gain is None:
        return f"QAT took {spent}; the record does not tell whether it is better."
    ends = f"{gain.value * 100:+.2f} points, {_ends(gain)}"
    if gain.is_better:
        return f"QAT ({_granularity(trained)}) is better than that ({ends}) after {spent}" + (
            _describe_passing(verdict.passed_after_min)
        )
    if gain.is_worse:
        return f"QAT ({_granularity(trained)}) is worse than that ({ends}) after {spent}."
    return f"QAT, {spent}, buys nothing that can be told from chance ({ends})."


def _explain_no_training(verdict: Verdict) -> str:
    if verdict.failed:
        trial = verdict.failed[0].trial
        why = trial.error or (None if trial.partial is None else trial.partial.reason)
        return f"QAT has no figures: {why or trial.state}."
    if verdict.loss is not None and not verdict.loss.is_worse:
        return "QAT was not measured; there is no loss beyond chance to win back."
    return "QAT was not measured."


def _describe_passing(minutes: float | None) -> str:
    if minutes is None:
        return "."
    return (
        f"; between epochs it was first above that after {describe_seconds(minutes * 60)} (a "
        f"proxy, on the first {REHEARSED_SAMPLES} search images)."
    )


def _describe_data(trained: LossPoint) -> str:
    curve, training = trained.trial.training, trained.cell.training
    if curve is None or curve.images is None or training is None:
        return "training data"
    return f"{training.epochs} epochs over {curve.images:,} training images"


def _describe_needs(needs: Sequence[ImageNeed]) -> list[str]:
    """One sentence for all methods that need the same number of images."""
    by_finding: dict[tuple[int, int, int], list[str]] = {}
    for need in needs:
        key = need.enough, need.fewest, need.most
        by_finding.setdefault(key, []).append(need.method)
    return [
        _describe_need(*finding, " and ".join(methods)) for finding, methods in by_finding.items()
    ]


def _describe_need(enough: int, fewest: int, most: int, method: str) -> str:
    if enough == most:
        return f"More calibration images still helped at {most:,}, the most tried ({method})."
    few = ", the fewest tried," if enough == fewest else ""
    return (
        f"Calibration ({method}): {enough:,} images{few} are enough; more of them, up to "
        f"{most:,}, change nothing that can be told from chance."
    )


def _decide(verdict: Verdict) -> str:
    """What to do, given time and data."""
    plain, trained, gain = verdict.plain, verdict.trained, verdict.gain
    if plain is None:
        return ""
    if trained is not None and gain is not None and gain.is_better:
        minutes = math.ceil(sum(trained.trial.seconds.values()) / 60)
        return (
            f"So: with less than {_count(minutes, 'minute')} or no training data, PTQ "
            f"({_name(plain)}); otherwise QAT."
        )
    return f"So: PTQ ({_name(plain)})." if trained is not None or _is_enough(verdict) else ""


def _is_enough(verdict: Verdict) -> bool:
    return verdict.loss is not None and not verdict.loss.is_worse


def _compare_widths(wide: Verdict, narrow: Verdict) -> str | None:
    """What the narrower width costs and saves, each by its best method."""
    one, other = _best(wide), _best(narrow)
    if one is None or other is None:
        return None
    sizes = one.trial.size_bytes, other.trial.size_bytes
    if sizes[0] is None or sizes[1] is None:
        return None
    saved = (
        f"From {wide.weight_bits} to {narrow.weight_bits} bits the file shrinks to "
        f"{sizes[1] / sizes[0]:.0%}"
    )
    gain = find_gain(other.trial, one.trial)
    if gain is None:
        return f"{saved}."
    ends = f"{gain.value * 100:+.2f} points, {_ends(gain)}"
    if gain.is_worse:
        return f"{saved} and loses accuracy ({ends}), each width by its best method."
    if gain.is_better:
        return f"{saved} and gains accuracy ({ends}), each width by its best method."
    return f"{saved} and loses nothing that can be told from chance ({ends})."


def _best(verdict: Verdict) -> LossPoint | None:
    is_trained = verdict.gain is not None and verdict.gain.is_better
    return verdict.trained if is_trained or verdict.plain is None else verdict.plain


def _name(point: LossPoint) -> str:
    return f"{point.cell.method}, {_granularity(point)}"


def _granularity(point: LossPoint) -> str:
    return point.cell.granularity.replace("_", " ")


def _points(gain: float) -> str:
    return f"{abs(gain) * 100:.2f} points {'above' if gain > 0 else 'below'}"


def _ends(gain: Gain) -> str:
    return f"95 % interval {gain.low * 100:+.2f} to {gain.high * 100:+.2f}"


def _seconds(point: LossPoint) -> str:
    """Of making the file: without judging it, which a search does anyway."""
    seconds = point.trial.seconds
    return describe_seconds(seconds.get("quantize", 0.0) + seconds.get("train", 0.0))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
