"""Multi-object tracking from frame to frame: ByteTrack, from the package `trackers`.

Source: Zhang et al., ByteTrack: Multi-Object Tracking by Associating Every Detection Box, 2022.
"""

from dataclasses import replace

import numpy as np

from detector.detections import Detections
from detector.errors import MissingPackageError

_START_SCORE = 0.4
"""Score from which a detection starts a track; detections with lower scores only continue one."""

_MIN_LOST_FRAMES = 5
"""Smallest number of frames after which a lost track ends; usually a track ends after one second."""

_NOMINAL_FRAME_RATE = 30
"""At this rate, `ByteTrackTracker` takes `lost_track_buffer` as a number of frames, without rescaling it."""


class Tracker:
    """Tracks the objects of one video with ByteTrack; it ignores classes, so the class may change along a track.

    Args:
        frame_rate: number of frames per second of video that are passed to `update`.

    Raises:
        MissingPackageError: the package trackers is not installed.
    """

    def __init__(self, frame_rate: float) -> None:
        try:
            from trackers import ByteTrackTracker
        except ImportError:
            raise MissingPackageError(
                "tracking needs the package trackers: pip install 'trackers>=2.1,<2.2' 'supervision>=0.30'"
            ) from None
        self._tracker = ByteTrackTracker(
            lost_track_buffer=max(round(frame_rate), _MIN_LOST_FRAMES),
            frame_rate=_NOMINAL_FRAME_RATE,
            track_activation_threshold=_START_SCORE,
            high_conf_det_threshold=_START_SCORE,
        )
        self._track_ids: dict[int, int] = {}

    def update(self, found: Detections) -> Detections:
        """Return the detections of the next frame with `track_ids`: 1, 2, ... in the order in which tracks start.

        An object gets its track id in the second consecutive frame in which it is detected. Until then, and as long as
        its score has never been high enough to start a track, its id is -1.

        Args:
            found: detections of the next frame. Pass frames without detections too, so that lost tracks end in time.
        """
        rows = found.to_supervision()
        rows.data["row"] = np.arange(len(found))
        # ByteTrackTracker changes the order of the rows, and some versions omit detections without a track.
        tracked = self._tracker.update(rows)
        track_ids = np.full(len(found), -1, dtype=np.int64)
        for row, number in zip(tracked.data.get("row", ()), tracked.tracker_id, strict=True):
            if number >= 0:  # `trackers` may continue its count from one video to the next, so ids are renumbered
                track_ids[row] = self._track_ids.setdefault(int(number), len(self._track_ids) + 1)
        return replace(found, track_ids=track_ids)
