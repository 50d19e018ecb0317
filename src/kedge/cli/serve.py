"""``kedge serve``."""

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from kedge.cli.screen import console, quiet
from kedge.errors import KedgeError


def serve(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="A run, model folder or hub id; none: --reward-model alone."),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is everywhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where as well.")] = 8000,
    name: Annotated[str | None, typer.Option(help="As clients ask for the model. Default: the folder's.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="Keys, one a line, of which a client sends one.")] = None,
    admin_key_file: Annotated[Path | None, typer.Option(help="Keys for kedge deploy; without, nobody may.")] = None,
    reward_model: Annotated[
        list[str] | None,
        typer.Option(help="Reward model of /v1/score; several: where they disagree, people look first."),
    ] = None,
    feedback: Annotated[
        str | None, typer.Option(help="Keep answers and feedback: a file of SQLite, or SQLAlchemy's URL.")
    ] = None,
    guard: Annotated[Path | None, typer.Option(help="Rules on prompts and answers, a .toml file.")] = None,
    audit: Annotated[Path | None, typer.Option(help="Keep what the guard does: a file in which changes show.")] = None,
    max_waiting: Annotated[int, typer.Option(min=1, help="Answers at a time; beyond, clients hear 429.")] = 256,
    time_limit: Annotated[float, typer.Option(min=0.001, help="Seconds an answer may take.")] = 300.0,
    prefix_cache: Annotated[
        int, typer.Option(min=0, metavar="MIB", help="For what prompts begin with, computed once; a version. 0: off.")
    ] = 256,
    dtype: Annotated[
        str, typer.Option(help="Of the weights: float32, or bfloat16 in half the memory. auto: float32.")
    ] = "auto",
    quantization: Annotated[
        str | None, typer.Option(help="int8 (or nf4, on a GPU): linear layers in eight or four bits a weight.")
    ] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run the model's own code.")] = False,
) -> None:
    """Answer over HTTP, as OpenAI's API does; or score what others write, with reward models alone."""
    quiet()
    try:
        from kedge.serving.http.app import create_app
        from kedge.serving.http.run import Held, Limits, load_panel, load_service, name_of, read_keys
        from kedge.serving.http.run import serve as listen
        from kedge.serving.http.scoring import create_scoring_app
    except ModuleNotFoundError as error:
        raise KedgeError(f"kedge serve: {error.name} is not installed; pip install 'kedge[serve]'") from None
    from kedge.models.loading import DType
    from kedge.models.quantized import Quantization

    keys = [] if api_key_file is None else read_keys(api_key_file)
    admin_keys = [] if admin_key_file is None else read_keys(admin_key_file, "--admin-key-file")
    if not keys and host not in ("127.0.0.1", "localhost", "::1"):
        raise KedgeError(f"--host: {host} is reached by others; give --api-key-file, so that not everybody is answered")
    if dtype not in get_args(DType):
        raise KedgeError(f"--dtype: one of {', '.join(get_args(DType))}, not {dtype!r}")
    if quantization not in (None, *get_args(Quantization)):
        raise KedgeError(f"--quantization: one of {', '.join(get_args(Quantization))}, not {quantization!r}")
    held = Held(
        dtype=cast(DType, dtype), quantization=cast(Quantization | None, quantization),
        prefix_bytes=prefix_cache * 2**20, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    at = f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def tell(name: str) -> None:
        line = f"{name} answers at {at}/v1 ; Ctrl-C ends it"
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    if run is None:
        if not reward_model:
            raise KedgeError("kedge serve: RUN is missing, a run, model folder or hub id; or --reward-model")
        given = {"--admin-key-file": admin_key_file, "--feedback": feedback, "--guard": guard, "--audit": audit}
        for option, value in given.items():
            if value is not None:
                raise KedgeError(f"{option}: is for a policy's answers, and there is none; name RUN")
        name = name or name_of(reward_model[0])
        app = create_scoring_app(name, load_panel(reward_model, trust_remote_code=trust_remote_code), keys=keys)
        listen(app, host=host, port=port, tell=lambda: tell(name))
        return
    limits = Limits(waiting=max_waiting, seconds=time_limit)
    service = load_service(
        run, name=name, reward_model=reward_model or (), feedback=feedback, guard=guard, audit=audit, limits=limits,
        held=held,
    )  # fmt: skip
    app = create_app(service, keys=keys, admin_keys=admin_keys)
    listen(app, host=host, port=port, tell=lambda: tell(service.name))
