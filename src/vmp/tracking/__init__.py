"""Trackers: mirrors of a run's records in wandb or TensorBoard. The files in the run's folder are the truth.

Notable here:
- a tracker never stops training: whatever fails in it costs one warning, and then it is silent;
- the first row of a sitting makes it catch up with metrics.jsonl: what it lacks is sent, what it has is not sent
  again, so a run that was killed, or one whose tracking began half way, is whole in the end;
- wandb and tensorboard are imported only where they were asked for.
"""

from vmp.tracking.tracker import Tracker, check_tracker, start_tracker

__all__ = ["Tracker", "check_tracker", "start_tracker"]
