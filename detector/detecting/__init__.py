"""The command `detect`: detections on images and videos, written to files."""
