"""Pictures and videos in, files of detections out: what surrounds a `Detector` in the verb detect."""
