"""Experiment trackers: TensorBoard, MLflow and Weights & Biases, each in a process of its own."""
