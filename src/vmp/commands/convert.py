"""Convert weights of any known layout to safetensors with our names, or a TimeSformer's to the names of Hugging Face.

examples:
  vmp convert TimeSformer_divST_8x32_224_HowTo100M.pyth howto100m.safetensors
  vmp convert SLOWFAST_8x8_R50.pkl slowfast.safetensors
  vmp convert outputs/motions-static/tiny-motions/none/seed0 tiny.safetensors
  vmp convert howto100m.safetensors model.safetensors --to hf

Use the result with backbone.weights=howto100m.safetensors. The class names of a run, or those in
FILE.classes.txt beside FILE, are copied to OUT.classes.txt, since a head is loaded only for a dataset with the same
classes. No code of the source is executed.
"""

import re
from pathlib import Path

from vmp.cli import parser_of
from vmp.errors import WeightsError
from vmp.files import replacing, write_tensors


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "source", type=Path, help="a file of weights, a checkpoint's folder or a run's folder"
    )
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    parser.add_argument(
        "--backbone", help="check that everything but the head fits this backbone, such as x3d_m"
    )
    parser.add_argument(
        "--to", choices=("ours", "hf"), default="ours", help="names of the tensors (default: ours)"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing OUT")
    options = parser.parse_args()
    print(convert(options.source, options.out, backbone=options.backbone, to=options.to, force=options.force))


def convert(source: Path, out: Path, *, backbone: str | None, to: str, force: bool) -> str:
    """Write `out` and return a summary of a few lines.

    Raises:
        WeightsError: the source cannot be read or does not fit the backbone, or `out` exists or cannot be written.
    """
    if out.suffix != ".safetensors":
        raise WeightsError(f"{out}: must end in .safetensors")
    if (replaced := out.exists()) and not force:
        raise WeightsError(f"{out}: exists already. Choose another name, or replace it with --force")
    from safetensors import SafetensorError

    from vmp.backbones.layouts import read, to_huggingface
    from vmp.data.manifest import write_classes
    from vmp.runs.heads import classes_of, names_beside
    from vmp.transfer import sha256_of

    foreign = read(source)
    checked = _check(foreign.state, foreign.file, backbone) if backbone else ""
    prompts = foreign.prompts if to == "ours" else {}
    if to == "hf":
        state = to_huggingface(foreign.state)
    else:
        state = foreign.state
    metadata = {
        "format": "pt",  # required by Hugging Face
        "source": foreign.file.name,
        "source_layout": foreign.layout,
        "source_sha256": sha256_of(foreign.file),
    }
    if to == "ours":
        metadata["vmp_backbone"] = backbone or ""
    try:
        with replacing(out) as temporary:
            write_tensors(temporary, {**state, **prompts}, metadata)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{out}: cannot be written ({error})") from None
    if classes := classes_of(source):
        write_classes(names_beside(out), classes)
    elif replaced:  # the names are those of the file that was there
        names_beside(out).unlink(missing_ok=True)
    count = sum(value.numel() for value in state.values())
    lines = [f"{foreign.file} ({foreign.layout})" + (f", {foreign.note}" if foreign.note else "")]
    lines.append(f"  {len(state)} tensors, {count:,} numbers -> {out}")
    if classes:
        lines.append(f"  names of its {len(classes)} classes -> {names_beside(out)}")
    elif names_beside(out).is_file():
        lines.append(f"  names of its classes: {names_beside(out)}, which was there already")
    if foreign.prompts:
        kept = "kept" if to == "ours" else "left out: Hugging Face has no names for them"
        values = ", ".join(f"{name} = {value:.5g}" for name, value in foreign.scalars.items())
        lines.append(f"  prompts {kept}: {values}")
    return "\n".join([*lines, checked] if checked else lines)


def _check(state: dict, file: Path, backbone: str) -> str:
    from vmp.backbones import build_backbone
    from vmp.backbones.weights import load_weights

    heads = [
        value
        for name, value in state.items()
        if re.fullmatch(r"(blocks\.\d+\.proj|head|logits)\.weight", name)
    ]
    report = load_weights(
        build_backbone(backbone, num_classes=len(heads[-1]) if heads else 1),
        file,
        backbone=backbone,
        progress=False,
    )
    return f"  fits {backbone}: {len(report.matched)} tensors, {len(report.unexpected)} that it does not have"
