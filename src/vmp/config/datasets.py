"""The section `dataset`: a class for each kind of dataset, with its own keys."""

from typing import Annotated, Any, Literal

from pydantic import Field

from vmp.choices import MOST_FPS, Camera, Clock, MotionClasses
from vmp.config.types import Count, File, Fraction, NotNegative, Rate, Section, Target, Word


class DatasetConfig(Section):
    """The keys that every dataset has."""

    name: Word
    flip: Fraction


class PreparedDataset(DatasetConfig):
    """A folder of manifests that `vmp prepare` wrote."""

    kind: Literal["prepared"]
    folder: File
    root: File | None
    # descriptions: the files that have these keys
    split: Annotated[int, Field(ge=1, le=3)] | None = Field(None, description="hmdb51 or ucf101")
    set: Annotated[int, Field(ge=1, le=2)] | None = Field(None, description="ut_interaction")
    fold: Count | None = Field(None, description="surv_fight or ut_interaction or handwash12")


class MotionsDataset(DatasetConfig):
    """Generated videos (vmp.data.motions)."""

    kind: Literal["motions"]
    classes: MotionClasses
    camera: Camera
    train: Count
    val: Count
    test: Count
    frames: Annotated[int, Field(ge=2)]
    size: Annotated[int, Field(ge=32)]
    fps: Annotated[int, Field(ge=1, lt=MOST_FPS)]
    noise: NotNegative
    crf: Annotated[int, Field(ge=0, le=51)]
    seed: Annotated[int, Field(ge=0)]


class ListDataset(DatasetConfig):
    """Videos of the user's own, with one list per split."""

    kind: Literal["list"]
    root: File
    train: File
    val: File
    test: File | None
    classes: File | None
    clock: Clock
    fps: Rate | None


class FoldersDataset(DatasetConfig):
    """Videos in one folder per class, or named by a CSV with the columns path,label[,group][,split]."""

    kind: Literal["folders"]
    root: File
    csv: File | None
    ratio: tuple[Fraction, Fraction, Fraction] | None  # shares of train, val and test
    folds: Annotated[int, Field(ge=2)] | None
    fold: Count | None  # the fold that is tested
    seed: Annotated[int, Field(ge=0)]
    fps: Rate | None


class ManifestDataset(DatasetConfig):
    """A folder of manifests: classes.txt, train.csv, and val.csv or test.csv (or both)."""

    kind: Literal["manifest"]
    folder: File
    root: File | None


class CustomDataset(DatasetConfig):
    """Videos whose list is written by a function of the user's, with a column `split` (docs/extending.md)."""

    kind: Literal["custom"]
    target: Target
    options: dict[str, Any]
    root: File
    clock: Clock
    fps: Rate | None
