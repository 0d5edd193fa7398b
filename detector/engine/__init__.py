"""The verbs: train, evaluate, detect."""
