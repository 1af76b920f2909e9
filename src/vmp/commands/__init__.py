"""The installed command: `vmp NAME ...` calls vmp.commands.NAME, as the scripts of a checkout do.

Notes:
- a command is looked up before anything heavy is imported, so that `vmp --help` answers at once;
- sys.argv[0] becomes the command's file, so that torchrun and the jobs of a sweep can start it as a script.
"""

import sys
from difflib import get_close_matches
from importlib import import_module

COMMANDS = {
    "train": "train or continue a run, or a sweep of runs",
    "evaluate": "test a run again, for instance on another split or with other views",
    "prepare": "make the manifests of a dataset from its videos and annotations",
    "predict": "print the most probable classes of videos",
    "visualize": "draw the frames, differences, attention and prompts of a video",
    "report": "write one HTML page about runs",
    "compare": "show how two runs differ, and whether chance explains it",
    "figure": "draw the paper's figures from runs and clips",
    "convert": "convert weights of any known layout to safetensors",
    "export": "export a trained model as torch.export, ONNX or TorchScript",
    "push": "share a run's model on the Hugging Face Hub, or as a folder",
    "upload": "send a finished run to wandb",
}
_USAGE = "usage: vmp COMMAND ...    (vmp COMMAND --help explains a command)\n\n"


def main() -> None:
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_USAGE + "\n".join(f"  {command:<10} {what}" for command, what in COMMANDS.items()))
        return
    if name == "--version":
        from vmp import __version__

        print(__version__)
        return
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"error: vmp {name}: no such command; {hint}", file=sys.stderr)
        sys.exit(2)
    try:
        from vmp.cli import friendly

        with friendly():
            module = import_module(f"vmp.commands.{name}")
            sys.argv = [str(module.__file__), *rest]
            sys.exit(module.main())
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "vmp":
            raise
        print(
            f"error: vmp {name}: needs {error.name}, which is not installed. The extras of the package bring what the "
            "commands need: pip install 'video-motion-prompts[train]'; [wandb] and [tensorboard] are the trackers, "
            "[onnx] is for vmp export, [hub] for vmp push, [optuna] for searches",
            file=sys.stderr,
        )
        sys.exit(2)
