"""The schema of configs: every key with its type and range, and the rules between keys.

Notable here:
- no torch: a wrong key or value fails with an error within a second, before any data is read;
- `types`, `sections` and `agreement` say what is allowed, `checking` checks it, `keys` finds the key that was meant.
"""

from vmp.config.checking import check, check_evaluate, check_start
from vmp.config.keys import suggest
from vmp.config.sections import (
    AnyPrompts,
    Config,
    ConstantPrompts,
    CustomBackbone,
    CustomDataset,
    CustomPrompts,
    Evaluate,
    FixedPrompts,
    FoldersDataset,
    ListDataset,
    Logger,
    MotionsDataset,
    NoPrompts,
    OraclePrompts,
    PreparedDataset,
    Prompts,
    TimeSformerConfig,
)
from vmp.config.types import parse_views
