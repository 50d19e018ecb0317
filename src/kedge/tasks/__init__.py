"""What there is to learn, in one shape: rows, prompts, a reward, metrics and a baseline; and what to begin with."""

from kedge.tasks.found import find_task, task_names
from kedge.tasks.task import Task

__all__ = ["Task", "find_task", "task_names"]
