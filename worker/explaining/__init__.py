"""One connection's story in words, from what is known of it. Pure: no clock, no database, no terminal."""

from worker.explaining.ahead import Prospect, against, ahead
from worker.explaining.past import Entry, timeline
from worker.explaining.standing import standing

__all__ = ["Entry", "Prospect", "against", "ahead", "standing", "timeline"]
