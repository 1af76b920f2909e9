"""Files of weights -> named tensors, without running anything that is in them.

A pickle can run code when it is loaded: torch files are read with `weights_only=True`, those of caffe2 and flax by an
unpickler that knows numpy arrays and nothing else.
"""

import collections
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vmp.backbones.download import container
from vmp.errors import RunError, WeightsError, first_line, shortlist
from vmp.files import read_json
from vmp.transfer import sha256_of

State = dict[str, Tensor]


def find_file(path: Path) -> tuple[Path, str]:
    """The file to read for a path, and a note that says which of several it is."""
    if path.is_file():
        return path, ""
    if not path.is_dir():
        raise WeightsError(f"{path}: no such file or folder")
    for folder in (
        path,
        *_newest_first(path / "checkpoints"),
        *_newest_first(path),
        *sorted((path / "checkpoints").glob("best_*"), reverse=True),
    ):
        # the second: an older folder of the Hugging Face hub
        names = ("model.safetensors", "pytorch_model.bin")
        file = next((folder / name for name in names if (folder / name).is_file()), None)
        if file is None:
            continue
        meta = folder / "meta.json"
        if meta.is_file():
            try:
                expected = read_json(meta)["sha256"][file.name]
            except (RunError, KeyError, TypeError):
                raise WeightsError(f"{meta}: damaged; name another checkpoint of the run") from None
            if sha256_of(file) != expected:
                raise WeightsError(
                    f"{file}: damaged, its SHA-256 is not the one in meta.json; name another checkpoint of the run"
                )
        return file, "" if folder == path else f"checkpoint {folder.name} of {path}"
    raise WeightsError(
        f"{path}: no weights in this folder. Expected model.safetensors, checkpoints/best_<epoch> or "
        "checkpoints/step_<n>, or pass a file"
    )


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*"), reverse=True)


def read_tensors(file: Path) -> tuple[State, dict[str, Any]]:
    """The named tensors of a file and its metadata: that of safetensors, {"caffe2": True}, or {"flax": True} for nested
    dicts of arrays, whose keys are joined by slashes."""
    with open(file, "rb") as stream:
        head = stream.read(64)
    kind = container(head)
    if kind == "safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise WeightsError(f"{file}: damaged or not whole ({error})") from None
    if kind in ("zip", "torch"):
        return _named(_torch_load(file), file), {}
    if head.lstrip().startswith(b"<"):
        raise WeightsError(
            f"{file}: a web page, not weights. Fetch the file again, for instance in a browser"
        )
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{file}: a pointer of Git LFS, not weights. `git lfs pull` fetches the file")
    content = _restricted_load(file)
    if isinstance(content, dict) and isinstance(content.get("blobs"), dict):
        return {str(name): _tensor(v) for name, v in content["blobs"].items() if _is_numeric(v)}, {
            "caffe2": True
        }
    if isinstance(content, dict) and isinstance(content.get("params"), dict):
        try:
            return dict(_flatten(content)), {"flax": True}
        except RecursionError:
            raise WeightsError(f"{file}: nested too deeply for weights") from None
    return _named(content, file), {}


def _torch_load(file: Path) -> Any:
    with torch.serialization.safe_globals(_NUMPY_FOR_TORCH), warnings.catch_warnings():
        # sparse tensors are refused anyway
        warnings.filterwarnings("ignore", "Validating sparse tensor", UserWarning)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
                raise _refused(file, found[1]) from None
            raise WeightsError(
                f"{file}: not a file of tensors, nothing in it was run ({first_line(error)})"
            ) from None
        except _RefusedGlobal as error:
            raise _refused(file, str(error)) from None
        except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            if re.search(r"TorchScript|locating file data\.pkl|hasRecord", str(error)):
                raise WeightsError(
                    f"{file}: an archive without a dict of tensors, such as an exported program (TorchScript, "
                    "torch.export). Name the run or the weights that it was made from"
                ) from None
            raise WeightsError(f"{file}: damaged or not whole ({first_line(error)})") from None


def _restricted_load(file: Path) -> Any:
    try:
        with open(file, "rb") as stream:
            return _ArraysOnly(stream, encoding="latin1").load()
    except _RefusedGlobal as error:
        raise _refused(file, str(error)) from None
    except MemoryError:
        raise WeightsError(f"{file}: damaged: it would need more memory than there is") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise WeightsError(
            f"{file}: not weights, or damaged ({type(error).__name__}: {first_line(error)}). Safetensors, files "
            "of torch.save and pickles of numpy arrays (caffe2, flax) can be read"
        ) from None


def _refused(file: Path, name: str) -> WeightsError:
    return WeightsError(
        f"{file}: refused, the file asks for {name}, which is not needed for tensors; nothing in it was run. "
        "If you trust its author, save only its tensors (safetensors.torch.save_file) where it can be loaded, and "
        "pass that file"
    )


class _RefusedGlobal(Exception):
    pass


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """What numpy's pickles use _codecs.encode for."""
    if encoding not in ("latin1", "latin-1"):
        raise _RefusedGlobal(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def _dtype(code: str, *_: object) -> np.dtype:
    """Numeric types only: an array of objects made from bytes would hold forged addresses."""
    dtype = np.dtype(code) if isinstance(code, str) else None
    if dtype is None or dtype.kind not in "biuf":
        raise _RefusedGlobal(f"numpy.dtype({code!r})")
    return dtype


def _reconstruct(*_: object) -> np.ndarray:
    return np.empty(0, np.int8)  # shape, type and content follow


def _frombuffer(data: Any, dtype: np.dtype, shape: tuple[int, ...], order: Any = "C") -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape, order=order)


_SCALAR = {
    f"{core}.multiarray.scalar": np.float64(0).__reduce__()[0] for core in ("numpy.core", "numpy._core")
}
_ALLOWED: dict[str, Any] = {  # pickled name, before and after numpy 2 -> what stands in for it
    "numpy.ndarray": "numpy.ndarray",  # only ever handed to _reconstruct
    "numpy.dtype": _dtype,
    "_codecs.encode": _latin1,
    "collections.OrderedDict": collections.OrderedDict,
    **_SCALAR,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray._reconstruct"] = _reconstruct
    _ALLOWED[f"{_core}.numeric._frombuffer"] = _frombuffer
# numpy's scalars, which torch does not allow by itself: learning rates in the state of an optimizer
_NUMPY_FOR_TORCH: list[Any] = [(value, name) for name, value in _SCALAR.items()]
_NUMPY_FOR_TORCH += [(_dtype, "numpy.dtype"), *(type(np.dtype(code)) for code in "?bBhHiIlLqQefd")]


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _ALLOWED:
            raise _RefusedGlobal(full)
        return _ALLOWED[full]


def _named(content: Any, file: Path) -> State:
    """Tensors of a checkpoint: at its top, or under one of the usual names."""
    if isinstance(content, Mapping):
        for key in ("model_state", "state_dict", "model_state_dict", "model"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
        found = {str(name): _tensor(value) for name, value in content.items() if _is_numeric(value)}
        if found:
            return found
        keys = shortlist([str(key) for key in content], 5)
        raise WeightsError(f"{file}: no tensors in it. It has:\n{keys}")
    raise WeightsError(f"{file}: holds a {type(content).__name__}, not named tensors")


def _flatten(content: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{path}{name}/")
        elif _is_numeric(value):
            yield f"{path}{name}", _tensor(value)


def _is_numeric(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.dtype.kind in "fiub")


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    return torch.from_numpy(np.array(value, order="C", dtype=value.dtype.newbyteorder("=")))
