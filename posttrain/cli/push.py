"""``posttrain push``: a trained model with its card to the hub, or to a folder."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from posttrain.errors import UserError


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The model's name on the hub.")],
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write what would be uploaded here, and upload nothing.")
    ] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="Of a repository that is made now.")] = True,
) -> None:
    """Upload a run's model with a card that says how it was made and how good it is."""
    from posttrain.report.model_card import write_model_folder

    if folder is not None:
        print(write_model_folder(run, repository, folder))
        return
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    with TemporaryDirectory() as temporary:
        prepared = write_model_folder(run, repository, Path(temporary) / "model")
        try:
            HfApi().create_repo(repository, private=private, exist_ok=True)
            print(HfApi().upload_folder(repo_id=repository, folder_path=prepared).commit_url)
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
            raise UserError(f"{repository} was not uploaded: {error}. Log in with: hf auth login") from error
