"""Pictures of samples, plans, errors, chains and subsets: functions that draw on matplotlib axes and return them.

Needs matplotlib (`pip install "jsamp[plot]"`), which is imported when a picture is drawn. Each function takes `axes=`,
makes a figure of its own where none is given, and neither shows nor saves anything.
"""

from jsamp.plot._chains import chains as chains
from jsamp.plot._images import images as images
from jsamp.plot._plan import plan as plan
from jsamp.plot._subset import subset as subset
from jsamp.plot._work_precision import work_precision as work_precision

__all__ = ["chains", "images", "plan", "subset", "work_precision"]
