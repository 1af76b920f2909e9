"""Export a trained model, from uint8 clips to logits, to one file that runs without this project, for any batch size.

examples:
  vmp export run=outputs/.../seed0 format=onnx
  vmp export run=outputs/.../seed0 format=torch_export out=model.pt2 --checkpoint best
  vmp export backbone=i3d_inception weights=k400 format=torchscript out=i3d.pt

The formats are torch_export, onnx and torchscript. The file is read again and compared with the model before it is
kept; FILE.json beside it has the input's shape and the classes.
"""

import sys
from pathlib import Path

from vmp.cli import parser_of, print_notes
from vmp.errors import UserError
from vmp.overrides import model_source
from vmp.runs.folder import check_file


def main() -> None:
    parser = parser_of(__doc__)
    what = "run=FOLDER, or backbone=NAME weights=NAME|FILE; format=NAME; out=FILE (default: model.SUFFIX)"
    parser.add_argument("what", nargs="+", help=what)
    parser.add_argument(
        "--checkpoint", choices=("last", "best"), help="of a run (default: the one that was tested)"
    )
    options = parser.parse_intermixed_args()
    own = {"format": "", "out": ""}
    words = []
    for word in options.what:
        key, sign, value = word.partition("=")
        if sign and key in own:
            own[key] = value
        else:
            words.append(word)
    source = model_source(words)
    if source.rest:
        raise UserError(f"{source.rest[0]}: settings are written KEY=VALUE, as in run=FOLDER format=onnx")

    from vmp.exporting import SUFFIXES, export
    from vmp.trained import load_named

    if own["format"] not in SUFFIXES:
        raise UserError(f"format={own['format']}: must be one of {', '.join(SUFFIXES)}")
    out = Path(own["out"] or f"model{SUFFIXES[own['format']]}").expanduser()
    check_file(out, "out=")
    trained = load_named(source, checkpoint=options.checkpoint, device="cpu")
    print_notes(trained.notes, sys.stderr)
    print(export(trained, out, format=own["format"]))
