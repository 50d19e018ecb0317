"""``kedge export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kedge.cli.screen import console, quiet
from kedge.errors import KedgeError

if TYPE_CHECKING:
    from kedge.data.records import Text

OWN = "samples"


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run of sft, reward or ppo, or a model folder.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write it.")],
    to: Annotated[
        str, typer.Option(metavar="hf|gguf", help="A folder for transformers, or one with a file for llama.cpp in it.")
    ] = "hf",
    merge: Annotated[
        bool, typer.Option("--merge", help="An adapter becomes a part of the weights, and is needed no more.")
    ] = False,
    certify: Annotated[
        str | None,
        typer.Option(
            metavar="PROMPTS",
            help="Ask the export what the trained model is asked: a file, or 'samples': the run's own.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder that is there.")] = False,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")] = False,
) -> None:
    """Write a run's model as a folder of its own: as it was trained, or merged."""
    quiet()
    if to not in ("hf", "gguf"):
        raise KedgeError(f"--to: hf or gguf, not {to!r}")
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]) and not overwrite:
        raise KedgeError(f"{folder}: there is something already; choose another folder, or --overwrite")
    from kedge.models.adapters import adapter_of
    from kedge.models.gguf import FILE, refuse_unwritable, write_gguf
    from kedge.models.language_model import LanguageModel, load_language_model
    from kedge.models.loading import holds_model
    from kedge.models.reward_loading import load_reward_model
    from kedge.models.reward_model import adapted_part
    from kedge.models.role import Role
    from kedge.storage.writing import whole_folder

    how: dict[str, Any] = {"device": "cpu", "trust_remote_code": trust_remote_code}
    prompts = None if certify is None else prompts_of(Path(run), certify)
    role: Role
    if holds_model(Path(run) / "reward_model"):
        scorer = load_reward_model(run, merged=merge, **how)
        role, adapted = scorer, adapter_of(adapted_part(scorer)) is not None
    else:
        lm = load_language_model(run, merged=merge, **how)
        role, adapted = lm, adapter_of(lm.model) is not None
    if merge and adapted:
        raise KedgeError("--merge: a prefix is no part of any weight, and cannot be merged; leave --merge out")
    if to == "gguf":
        if not isinstance(role, LanguageModel):
            raise KedgeError("--to gguf: of policies alone; llama.cpp has no reward models of this kind")
        refuse_unwritable(role)
    with whole_folder(folder) as aside:
        if isinstance(role, LanguageModel) and to == "gguf":
            aside.mkdir(parents=True, exist_ok=True)
            write_gguf(role, aside / FILE)
        else:
            role.save(aside)
    what = "the adapter alone; --merge makes it a whole model" if adapted else "a whole model"
    console.print(f"{folder}: {what}", highlight=False, markup=False)
    if prompts is not None:
        # Loaded anew and not merged: as it was trained.
        trained: Role
        if isinstance(role, LanguageModel):
            trained = load_language_model(run, merged=False, **how)
        else:
            trained = load_reward_model(run, merged=False, **how)
        _certify(trained, folder, prompts)


def prompts_of(run: Path, named: str) -> "list[Text]":
    """Those in a file; or those of which the run kept its samples.

    Raises:
        KedgeError: there are none.
    """
    from kedge.data.records import read_prompts
    from kedge.serving.certificate import PROMPTS

    if named == OWN and not (run / "samples.jsonl").is_file():
        raise KedgeError(f"--certify: {run} has kept no samples; name a file with a column 'prompt'")
    found: list[Text] = []
    for prompt in read_prompts(run / "samples.jsonl" if named == OWN else named):
        if prompt.text not in found:
            found.append(prompt.text)
    return found[:PROMPTS]


def _certify(trained: Any, folder: Path, prompts: "list[Text]") -> None:
    """Write the certificate into the export, and end with 1 where something differs."""
    from kedge.models.language_model import LanguageModel
    from kedge.serving.certificate import FILE, certify_policy, certify_reward_model, is_equal
    from kedge.storage.writing import strict_json, write_text

    certified = certify_policy if isinstance(trained, LanguageModel) else certify_reward_model
    certificate = certified(trained, folder, prompts)
    write_text(folder / FILE, strict_json(certificate, indent=2) + "\n")
    for name, way in certificate["ways"].items():
        if name != "memory":
            said = "the same" if way["equal"] else f"differs for {len(way['differences'])} prompts"
            console.print(f"{name}: {said}", highlight=False, markup=False)
    if not is_equal(certificate):
        raise typer.Exit(1)
