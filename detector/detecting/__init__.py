"""The command `detect`: detections in images, videos, cameras and streams, written to files."""
