"""autoquant: search for the quantized model that is fast, small and right on your machine.

Nothing heavy is imported until it is used: `import autoquant` loads no torch.
"""

from autoquant.core.recipe import PtqOptions, Recipe
from autoquant.core.space import SearchSpace
from autoquant.core.task import Task
from autoquant.tasks.registry import register_task

__all__ = ["PtqOptions", "Recipe", "SearchSpace", "Task", "register_task"]
