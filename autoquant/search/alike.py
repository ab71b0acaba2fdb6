"""Whether figures of two studies compare."""

from autoquant.search.header import StudyHeader

__all__ = ["find_difference"]


def find_difference(one: StudyHeader, other: StudyHeader) -> str | None:
    """What keeps the fronts of two studies from being laid over each other; None if nothing does.

    Their runtimes may differ, and so may their machines.
    """
    if one.task != other.task:
        return f"are of different tasks ({one.task}, {other.task})"
    ours, theirs = dict(one.task_options), dict(other.task_options)
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            return f"differ in {name} of the task ({ours.get(name)}, {theirs.get(name)})"
    for name in ("threads", "batch"):
        values = getattr(one, name), getattr(other, name)
        if values[0] != values[1]:
            return f"were timed with different --{name} ({values[0]}, {values[1]})"
    if not set(one.objectives) & set(other.objectives):
        return "have no objective in common"
    return None
