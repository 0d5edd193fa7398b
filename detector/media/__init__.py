"""Sources of images and videos: files, folders, globs, URLs, cameras and streams."""
