"""Models on the Hugging Face Hub, through its own library, whose HF_ENDPOINT and HF_TOKEN work."""

from pathlib import Path
from types import ModuleType

from vmp.errors import WeightsError, first_line
from vmp.runs.sharing import FILES

PREFIX = "hf:"


def fetch(name: str) -> Path:
    """The folder of a shared model, hf:OWNER/NAME or hf:OWNER/NAME@REVISION, in the Hub's cache; nothing else of the
    repository is fetched.

    Raises:
        WeightsError: it cannot be fetched.
    """
    library = _library(name)
    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    try:
        return Path(library.snapshot_download(repo, revision=revision or None, allow_patterns=list(FILES)))
    except Exception as error:  # the library has many kinds, of several packages
        raise WeightsError(f"{name}: cannot be fetched ({first_line(error)})") from error


def _library(name: str) -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsError(
            f"{name}: the library huggingface_hub cannot be imported ({error}): pip install huggingface_hub"
        ) from error
    return huggingface_hub


def upload(folder: Path, repo: str, *, private: bool) -> str:
    """Upload the files of a shared model to OWNER/NAME, which is made if it is new; returns the address of the commit.

    Raises:
        WeightsError: it cannot be uploaded.
    """
    api = _library(repo).HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=list(FILES), commit_message="Upload by vmp push"
        )
    except Exception as error:
        raise WeightsError(
            f"{repo}: cannot be uploaded ({first_line(error)}). Log in with `hf auth login`, or set HF_TOKEN"
        ) from error
    return str(done.commit_url)
