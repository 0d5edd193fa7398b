"""Tracks objects from frame to frame with ByteTrack, as implemented in the package `trackers`.

Source: Zhang et al., ByteTrack: Multi-Object Tracking by Associating Every Detection Box, 2022.
"""

from dataclasses import replace

import numpy as np

from detector.detections import Detections
from detector.errors import MissingPackageError

_START_SCORE = 0.4
"""A detection with at least this score can start a track. A detection with a lower score can only continue a track."""

_MIN_LOST_FRAMES = 5
"""A track ends when its object was not detected for one second of video, and not for at least this many frames."""

_NOMINAL_FRAME_RATE = 30
"""For this frame rate, `lost_track_buffer` of `ByteTrackTracker` is the number of frames, without rescaling."""


class Tracker:
    """Assigns track ids to the detections of one video with ByteTrack.

    ByteTrack does not use the classes of detections, so the class of an object may change from frame to frame.

    Args:
        frame_rate: number of frames per second of video for which `update` is called.

    Raises:
        MissingPackageError: the package `trackers` is not installed.
    """

    def __init__(self, frame_rate: float) -> None:
        try:
            from trackers import ByteTrackTracker
        except ImportError:
            raise MissingPackageError(
                "tracking needs the package trackers: pip install 'grid-detector[track]'"
            ) from None
        self._tracker = ByteTrackTracker(
            lost_track_buffer=max(round(frame_rate), _MIN_LOST_FRAMES),
            frame_rate=_NOMINAL_FRAME_RATE,
            track_activation_threshold=_START_SCORE,
            high_conf_det_threshold=_START_SCORE,
        )
        self._track_ids: dict[int, int] = {}

    def update(self, found: Detections) -> Detections:
        """Return a copy of the detections of the next frame with `track_ids`: 1, 2, ... in the order of track starts.

        An object gets a track id in the second consecutive frame in which it is detected. The track id of a detection
        without a track is -1.

        Args:
            found: detections of the next frame. Call `update` also for a frame without detections, because a track ends
                after a number of frames without its object.
        """
        rows = found.to_supervision()
        rows.data["row"] = np.arange(len(found))
        # ByteTrackTracker changes the order of the rows, and some versions do not return detections without a track.
        tracked = self._tracker.update(rows)
        track_ids = np.full(len(found), -1, dtype=np.int64)
        for row, number in zip(tracked.data.get("row", ()), tracked.tracker_id, strict=True):
            if number >= 0:  # ids are renumbered, because `trackers` may continue to count from the previous video
                track_ids[row] = self._track_ids.setdefault(int(number), len(self._track_ids) + 1)
        return replace(found, track_ids=track_ids)
