"""The schema of configs: every key with its type and range, and the rules between keys.

Notes:
- no torch: a wrong key or value fails with an error within a second, before any data is read;
- `sections`, with `datasets`, `backbones`, `prompts` and `types`, and `agreement` say what is allowed, `checking`
  checks it, `keys` finds the key that was meant.
"""

from vmp.config.backbones import CustomBackbone, TimeSformerConfig
from vmp.config.checking import check, check_evaluate, check_start
from vmp.config.datasets import (
    CustomDataset,
    FoldersDataset,
    ListDataset,
    ManifestDataset,
    MotionsDataset,
    PreparedDataset,
)
from vmp.config.keys import suggest
from vmp.config.prompts import (
    AnyPrompts,
    ConstantPrompts,
    CustomPrompts,
    FixedPrompts,
    NoPrompts,
    OraclePrompts,
    Prompts,
)
from vmp.config.sections import Config, Evaluate, Logger
from vmp.config.types import parse_views
