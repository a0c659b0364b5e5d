"""Training: one loop, on Lightning Fabric, that can be killed at any moment and resumed bitwise.

`loop.py` is the loop, `state.py` what survives, `devices.py` and `log.py` what stands around it.
"""

from recurra.train.devices import quiet_fabric
from recurra.train.log import csv_log
from recurra.train.loop import SCHEDULES, History, Schedule, fit, rate_factor
from recurra.train.state import Row

__all__ = ["SCHEDULES", "History", "Row", "Schedule", "csv_log", "fit", "quiet_fabric", "rate_factor"]
