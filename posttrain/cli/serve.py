"""``posttrain serve``: rewards over HTTP."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.errors import UserError

if TYPE_CHECKING:
    from posttrain.rewards.on_error import BaseRewardConfig
    from posttrain.rewards.service.config import ServerConfig

SERVER = "server."


def serve(
    rewards: Annotated[
        list[str],
        typer.Argument(
            metavar="REWARD.yaml... [KEY=VALUE...]",
            help="Reward files, served under their names (the first by default); changes to the reward "
            "(variant=sacrebleu; with several files math.workers=4), and to the server (server.max_wait_ms=5).",
        ),
    ],
    host: Annotated[str, typer.Option(help="Where to listen; other than loopback only with API keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free port.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes of each reward.")] = 1,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="API keys, one a line; else those in POSTTRAIN_API_KEYS.")
    ] = None,
) -> None:
    """Serve rewards over HTTP until SIGTERM: /docs says how they are called."""
    files = [argument for argument in rewards if "=" not in argument]
    overrides = [argument for argument in rewards if "=" in argument]
    server = [override.removeprefix(SERVER) for override in overrides if override.startswith(SERVER)]
    config = _server_config({"host": host, "port": port, "workers": workers}, server)
    configs = _reward_configs(files, [override for override in overrides if not override.startswith(SERVER)])
    try:
        import asyncio

        import uvicorn

        from posttrain.rewards.service.guard import read_keys
        from posttrain.rewards.service.server import serve as serve_rewards
    except ModuleNotFoundError as error:
        raise UserError(f"posttrain serve needs {error.name}: pip install 'posttrain[serve]'") from None
    with asyncio.Runner(loop_factory=uvicorn.Config("posttrain").get_loop_factory()) as runner:
        runner.run(serve_rewards(configs, config, read_keys(api_key_file)))


def _server_config(values: dict[str, object], overrides: list[str]) -> "ServerConfig":
    from posttrain.config_file import ConfigFile, parse_yaml
    from posttrain.rewards.service.config import ServerConfig

    given = {name: parse_yaml(value) for name, _, value in (override.partition("=") for override in overrides)}
    return ConfigFile(Path("server"), values | given).validate(ServerConfig)


def _reward_configs(files: list[str], overrides: list[str]) -> "dict[str, BaseRewardConfig]":
    """The reward of each file by its stem. With several files an override starts with the name of one."""
    from posttrain.rewards.scoring.reward_file import load_reward_config

    names = [Path(file).stem for file in files]
    if not files:
        raise UserError("name a reward file: posttrain serve reward_models/math.yaml")
    if len(set(names)) < len(names):
        raise UserError(f"two reward files of one name: {', '.join(names)}; a request could not choose")
    if len(files) > 1:
        for override in overrides:
            if override.partition(".")[0] not in names:
                raise UserError(f"override {override!r}: of which reward? Start it with one of {', '.join(names)}")
    configs = {}
    for name, file in zip(names, files, strict=True):
        own = [override.removeprefix(f"{name}.") for override in overrides if override.startswith(f"{name}.")]
        configs[name] = load_reward_config(file, overrides if len(files) == 1 else own)
    return configs
