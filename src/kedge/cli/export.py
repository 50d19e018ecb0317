"""``kedge export``."""

from pathlib import Path
from typing import Annotated

import typer

from kedge.cli.screen import console, quiet
from kedge.errors import KedgeError


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run of sft, reward or ppo, or a model folder.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write it.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="An adapter becomes a part of the weights, and is needed no more.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder that is there.")] = False,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")] = False,
) -> None:
    """Write a run's model as a folder of its own: as it was trained, or merged."""
    quiet()
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]) and not overwrite:
        raise KedgeError(f"{folder}: there is something already; choose another folder, or --overwrite")
    from kedge.models.adapters import adapter_of
    from kedge.models.language_model import load_language_model
    from kedge.models.loading import holds_model
    from kedge.models.reward_loading import load_reward_model
    from kedge.models.reward_model import adapted_part
    from kedge.models.role import Role
    from kedge.storage.writing import whole_folder

    role: Role
    if holds_model(Path(run) / "reward_model"):
        scorer = load_reward_model(run, device="cpu", trust_remote_code=trust_remote_code, merged=merge)
        role, adapted = scorer, adapter_of(adapted_part(scorer)) is not None
    else:
        lm = load_language_model(run, device="cpu", trust_remote_code=trust_remote_code, merged=merge)
        role, adapted = lm, adapter_of(lm.model) is not None
    if merge and adapted:
        raise KedgeError("--merge: a prefix is no part of any weight, and cannot be merged; take it out")
    with whole_folder(folder) as aside:
        role.save(aside)
    what = "the adapter alone; --merge makes it a whole model" if adapted else "a whole model"
    console.print(f"{folder}: {what}", highlight=False, markup=False)
