"""Types of config values (numbers in a range, words, paths, devices, test views), and the base of every section."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from vmp.choices import MOST_FPS
from vmp.slope_shift import Start
from vmp.targets import MISSING, fault_of_target

PerChannel = float | tuple[float, float, float]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, lt=MOST_FPS)]  # frames per second
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
IS_PATH = object()  # marks the keys that hold a path


def _number_as_text(value: Any) -> Any:
    """A number as text: YAML and Hydra read 2026 as one."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _check_word(value: str) -> str:
    if not re.fullmatch(r"\w[\w.+-]*", value):
        short = re.sub(r"[^\w.+-]+", "-", value).strip("-.+") or "word"
        raise ValueError(
            f"must be one word of letters, digits and (not at its start) . + - _, as {short}, since it names a folder"
        )
    return value


def _check_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        meant = {"gpu": "cuda", "nvidia": "cuda"}.get(value.lower(), value.lower())
        hint = f"; did you mean {meant}?" if re.fullmatch(r"auto|cpu|cuda(:\d+)?", meant) else ""
        raise ValueError(f"must be auto, cpu, cuda or cuda:N, with N the number of a device{hint}")
    return value


def _check_condition(value: str) -> str:
    if not re.fullmatch(r"[\w -]+[=<>].+", value):
        raise ValueError(
            "must be TAG=WORD, TAG>NUMBER or TAG<NUMBER, in quotes for the shell: 'where=speed>0.9'"
        )
    return value


def _check_target(value: str) -> str:
    if fault := fault_of_target(value):
        raise ValueError(fault)
    return value


def _expand_home(value: Any) -> Any:
    """A path with its leading ~ expanded, as in a shell. An empty one, as of an unset variable, would mean the current
    folder."""
    text = _number_as_text(value)
    if text == "":
        raise ValueError("must not be empty")
    return str(Path(text).expanduser()) if isinstance(text, str) and text.startswith("~") else text


def _check_level(value: Any) -> Any:
    if isinstance(value, int | float) and not 0 < value <= 1:
        raise ValueError(
            "must be greater than 0 and at most 1, or a run's folder, whose mean attention is used"
        )
    return value if isinstance(value, int | float) else _expand_home(value)


# part of a folder's name
Word = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_check_word)]
File = Annotated[str, BeforeValidator(_expand_home), IS_PATH]  # or a folder
Level = Annotated[float | str, BeforeValidator(_check_level), IS_PATH]  # or a run's folder
Target = Annotated[str, AfterValidator(_check_target)]  # a class or function of the user's
Device = Annotated[str, AfterValidator(_check_device)]
TagCondition = Annotated[str, AfterValidator(_check_condition)]
Text = Annotated[str, BeforeValidator(_number_as_text), Field(min_length=1, max_length=128)]


def parse_views(value: Any) -> Any:
    """`10x3` as [10, 3]."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+)x(\d+)", value)):
        return int(match[1]), int(match[2])
    if isinstance(value, list | tuple) and len(value) == 2:
        return value
    raise ValueError("must be TEMPORALxSPATIAL, clips along the video and crops of each, as 10x3")


def _check_start(value: Any, read: Any) -> Any:
    try:
        return read(value)
    except ValidationError:  # one message for the whole union
        raise ValueError("must be a number, or draw for a draw from N(1e-5, 1)") from None


StartValue = Annotated[Start | None, WrapValidator(_check_start)]  # None: not set here
Views = Annotated[tuple[Count, Count], BeforeValidator(parse_views)]  # temporal, spatial

ABSENT = PydanticCustomError("absent", "must be given")
NOT_BOOLEAN = PydanticCustomError("boolean", "must not be true or false")


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True, strict=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_placeholders_and_booleans(cls, values: Any) -> Any:
        """Hydra's ??? is a value that must be given; pydantic would take true for 1, and the text '1' for true."""
        if not isinstance(values, Mapping):
            return values
        faults: list[InitErrorDetails] = []
        for name, field in cls.model_fields.items():
            value = values.get(key := field.alias or name)
            if value == MISSING:
                faults.append({"type": ABSENT, "loc": (key,), "input": value})
            elif isinstance(value, bool) and bool not in (field.annotation, *get_args(field.annotation)):
                faults.append({"type": NOT_BOOLEAN, "loc": (key,), "input": value})
            elif isinstance(value, str) and bool in (
                kinds := (field.annotation, *get_args(field.annotation))
            ):
                words = [word for kind in kinds for word in get_args(kind) if isinstance(word, str)]
                if value not in words:
                    *others, last = "true", "false", *words
                    allowed = f"{', '.join(others)} or {last}"
                    fault = PydanticCustomError("text", "must be {allowed}", {"allowed": allowed})
                    faults.append({"type": fault, "loc": (key,), "input": value})
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return values
