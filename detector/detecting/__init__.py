"""The command `detect`: detects objects in images, videos, cameras and streams, and writes the detections to files."""
