"""Trackers: copies of a run's records in wandb or TensorBoard. The files in the run's folder have precedence.

Notes:
- a tracker never stops training: any failure in it costs one warning and ends the tracking;
- at the first row of a session the tracker catches up with metrics.jsonl: it sends what is missing, and nothing twice.
  So a run that was killed, or whose tracking began half-way, is complete in the end. tracked.json says that it has the
  result, too; without it, the command that trained the run sends the result when it is called again;
- wandb and tensorboard are imported only for runs that use them.
"""

from vmp.tracking.tracker import Tracker, check_tracker, resend_result, start_tracker
