"""quick_train.py under a submitit that signals a local job 12 seconds after its start, not 30 seconds before its limit
of one minute."""

import runpy
from pathlib import Path

from submitit.local import local

real = local.start_controller
local.start_controller = lambda **options: real(**options | {"signal_delay_s": 48})
if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("quick_train.py")), run_name="__main__")
