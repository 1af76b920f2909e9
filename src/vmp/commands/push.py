"""Share a finished run's model: weights, config, classes, accuracies and a model card; never data or predictions.

examples:
  vmp push run=outputs/.../seed0 repo=OWNER/NAME        upload to the Hugging Face Hub (add --private)
  vmp push run=outputs/.../seed0 to=FOLDER              only write the folder

vmp.load("hf:OWNER/NAME") and vmp.load("FOLDER") open it, from any machine.
"""

import tempfile
from pathlib import Path

from vmp.cli import parser_of
from vmp.errors import UserError
from vmp.targets import take_trust


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("what", nargs="+", help="run=FOLDER, and repo=OWNER/NAME or to=FOLDER")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    options = parser.parse_intermixed_args()
    given = dict(word.partition("=")[::2] for word in take_trust(options.what))
    if wrong := [key for key in given if key not in ("run", "repo", "to")]:
        raise UserError(f"{wrong[0]}: no such key; there are run, repo, to and trust")
    run, repo, to = (given.get(key, "") for key in ("run", "repo", "to"))
    if not run or bool(repo) == bool(to):
        raise UserError("name a run and where it goes: run=FOLDER repo=OWNER/NAME, or run=FOLDER to=FOLDER")
    if repo and repo.count("/") != 1:
        raise UserError(f"repo={repo}: must be OWNER/NAME, as in repo=me/my-model")

    from vmp.runs.folder import check_writable
    from vmp.runs.hub import upload
    from vmp.runs.sharing import write_shared

    if to:
        check_writable(Path(to).expanduser(), "choose another with to=FOLDER")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(to).expanduser() if to else Path(temporary)
        files = write_shared(Path(run).expanduser(), folder, name=repo or folder.resolve().name)
        for file in files:
            print(f"{file.name:20} {file.stat().st_size:>12,} bytes")
        print(f"-> {upload(folder, repo, private=options.private) if repo else folder}")
