"""`evaluate --folds`: train on all folds but one, and detect in the images of that one; also used by `review`."""
