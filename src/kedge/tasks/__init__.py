"""What there is to learn, in one shape: rows, prompts, a reward, metrics and a baseline; and what to begin with."""

from typing import TYPE_CHECKING

from kedge.lazy import lazily

if TYPE_CHECKING:
    from kedge.tasks.found import find_task, task_names
    from kedge.tasks.starting import new_desk, new_model
    from kedge.tasks.task import Task

__all__ = ["Task", "find_task", "new_desk", "new_model", "task_names"]

_HOMES = {
    "Task": "kedge.tasks.task",
    "find_task": "kedge.tasks.found",
    "new_desk": "kedge.tasks.starting",
    "new_model": "kedge.tasks.starting",
    "task_names": "kedge.tasks.found",
}

__getattr__, __dir__ = lazily(__name__, _HOMES)
