"""Objects followed from frame to frame: the bridge to ByteTrack in the package `trackers`.

Source: Zhang et al., ByteTrack: Multi-Object Tracking by Associating Every Detection Box, 2022.
"""

from dataclasses import replace

import numpy as np

from detector.detections import Detections
from detector.errors import InputError

_SURE = 0.4
"""Score from which a detection begins a track; weaker ones only carry one on."""

_FEWEST_LOST = 5
"""Frames for which an object that is not found is remembered, at least; else for a second."""


class Tracker:
    """Follows the objects of one video; classes are not asked for, so a track may change its class.

    Args:
        frame_rate: frames per second that `update` will get.

    Raises:
        InputError: the package trackers is not installed.
    """

    def __init__(self, frame_rate: float) -> None:
        try:
            from trackers import ByteTrackTracker
        except ImportError:
            raise InputError("tracking needs the package trackers: pip install 'trackers>=2.1,<2.2'") from None
        self._tracker = ByteTrackTracker(
            lost_track_buffer=max(round(frame_rate), _FEWEST_LOST),
            frame_rate=30,  # the rate for which it takes the line above as frames
            track_activation_threshold=_SURE,
            high_conf_det_threshold=_SURE,
        )
        self._numbers: dict[int, int] = {}

    def update(self, found: Detections) -> Detections:
        """Return what was found in the next frame with track ids, from 1 on in the order in which they were given.

        An object gets its id in the second frame in a row that shows it. Until then, and as long as it was never found
        with a good score, it has -1.

        Args:
            found: in the next frame; of one without objects too, so that time goes on.
        """
        given = found.to_supervision()
        given.data["row"] = np.arange(len(found))
        followed = self._tracker.update(given)  # in another order, and some versions leave out what they do not follow
        ids = np.full(len(found), -1, dtype=np.int64)
        for row, number in zip(followed.data.get("row", ()), followed.tracker_id, strict=True):
            if number >= 0:  # theirs may go on counting from one video to the next
                ids[row] = self._numbers.setdefault(int(number), len(self._numbers) + 1)
        return replace(found, track_ids=ids)
