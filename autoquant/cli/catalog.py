"""Commands that list what there is: tasks, spaces."""

from autoquant.cli.options import FormatOption, TasksFromOption
from autoquant.cli.output import print_json, print_rows
from autoquant.config import load_space, shipped_spaces
from autoquant.tasks import load_task_file, task_names

_NEEDS = {
    "digits": "nothing: trained on first use",
    "cifar10-resnet8": "AUTOQUANT_DATA",
    "cifar10-resnet20": "AUTOQUANT_DATA",
    "cifar10-resnet44": "AUTOQUANT_DATA",
    "imagefolder": "options data and model; the extra 'models' for timm and torchvision",
    "imagenet-sample-efficientnet-lite0": "AUTOQUANT_DATA and the extra 'zoo'",
}


def tasks(tasks_from: TasksFromOption = None, format_: FormatOption = "table") -> None:
    """List the tasks and what each needs.

    Example:
      autoquant tasks --tasks-from my_tasks.py
    """
    if tasks_from is not None:
        load_task_file(tasks_from)
    rows = [{"task": name, "needs": _NEEDS.get(name, "")} for name in task_names()]
    if format_ == "json":
        print_json({"tasks": rows})
    else:
        print_rows(["task", "needs"], [list(row.values()) for row in rows], format_)


def spaces(format_: FormatOption = "table") -> None:
    """List the search spaces that come with autoquant.

    Example:
      autoquant spaces
    """
    rows = []
    for name, path in shipped_spaces().items():
        config = load_space(path)
        budget = config.budget
        minutes = "-" if budget.timeout is None else f"{budget.timeout / 60:.0f} min"
        rows.append([name, config.task, ", ".join(config.objectives), str(budget.trials), minutes])
    columns = ["space", "task", "objectives", "trials", "timeout"]
    if format_ == "json":
        print_json({"spaces": [dict(zip(columns, row, strict=True)) for row in rows]})
    else:
        print_rows(columns, rows, format_)
