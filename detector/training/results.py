"""The results of a training run: the best AP, the rows of results.csv, config.json, and the facts in weights files."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from detector.metrics.average_precision import AveragePrecision
from detector.training import schedule
from detector.training.environment import environment_facts
from detector.training.optimizer import peak_learning_rate
from detector.training.run_inputs import RunInputs
from detector.training.run_state import Progress
from detector.weights_info import WeightsInfo


def update_best(progress: Progress, ap: AveragePrecision | None) -> bool:
    """Record the AP of an evaluation in `progress`; return True if the evaluated weights are the best so far.

    If several evaluations have the highest AP, the last of them is the best. Without an evaluation, the last weights
    are the best.

    Args:
        progress: progress of the run; `best` and `without_better` are updated.
        ap: average precision on val; None without a val split.
    """
    best = None if progress.best is None else progress.best["AP"]
    is_best = ap is None or best is None or best <= ap.AP
    is_better = ap is None or best is None or best < ap.AP
    progress.best = ap.to_json() if ap is not None and is_best else progress.best
    progress.without_better = 0 if is_better else progress.without_better + 1
    return is_best


def results_row(
    inputs: RunInputs, progress: Progress, losses: Mapping[str, float], ap: AveragePrecision | None
) -> dict[str, Any]:
    """Return the row of results.csv for the current step: step, epoch, learning rate, losses and AP.

    Args:
        inputs: inputs of the run.
        progress: progress of the run.
        losses: name of a loss term → its mean since the last evaluation.
        ap: average precision on val; None without a val split.
    """
    config, steps_per_epoch = inputs.config, inputs.steps_per_epoch
    step = progress.step - 1
    factor = schedule.learning_rate_factor(step, progress.plan.length_at(step), config, steps_per_epoch)
    row = {
        "step": progress.step,
        "epoch": round(progress.step / steps_per_epoch, 2),
        "lr": float(f"{peak_learning_rate(config) * factor:.4g}"),
    }
    numbers = {} if ap is None else {key: value for key, value in ap.to_json().items() if key != "per_class"}
    values = {f"loss_{name}": value for name, value in losses.items()} | numbers
    return row | {name: round(value, 4) for name, value in values.items()}


def weights_info(inputs: RunInputs, progress: Progress, seconds: float, ap: AveragePrecision | None) -> WeightsInfo:
    """Return the information that is saved with the weights of a run.

    Args:
        inputs: inputs of the run.
        progress: progress of the run, with the current step and the planned number of steps.
        seconds: wall time since the start of the run.
        ap: average precision of the weights on val; None if they were not evaluated.
    """
    ledger = inputs.dataset.ledger
    return WeightsInfo(
        model=inputs.config.model,
        class_names=inputs.split.class_names,
        category_ids=inputs.split.category_ids,
        input_hw=inputs.dataset.input_hw,
        config=asdict(inputs.config),
        facts={
            "step": progress.step,
            "steps": progress.steps,
            "batch": inputs.batch_size,
            "input_size": list(inputs.dataset.input_hw),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "data": inputs.description,
            "images": len(inputs.dataset),
            "boxes": ledger.used + ledger.clipped,
            "seconds": round(seconds, 1),
            "val": None if ap is None else {"AP": ap.AP, "AP50": ap.AP50},
            **({} if inputs.unlabeled is None else {"unlabeled_images": len(inputs.unlabeled.dataset)}),
            **({} if inputs.dataset.transform is None else {"transform": inputs.dataset.transform.fact}),
            **inputs.start_facts,
        },
        image_hashes=inputs.image_hashes,
        trained_classes=inputs.trained_classes,
    )


def resolved_settings(inputs: RunInputs, progress: Progress, dtype: torch.dtype) -> dict[str, object]:
    """Return the content of config.json: all settings, with the values chosen for "auto", and the environment.

    If the length is given in minutes, `plan_changes` lists when the run got which number of steps; see `StepPlan`.

    Args:
        inputs: inputs of the run.
        progress: progress of the run, with the planned steps and evaluations.
        dtype: floating-point type of the forward pass.
    """
    resolved: dict[str, object] = {
        "steps": progress.steps,
        "evaluations": progress.evaluations,
        "batch": inputs.batch_size,
        "input_size": list(inputs.dataset.input_hw),
        "lr": peak_learning_rate(inputs.config),
        "lr_backbone": schedule.backbone_factor(progress.steps, progress.steps, inputs.config),
        "precision": "bf16" if dtype == torch.bfloat16 else "fp32",
    }
    if inputs.config.minutes is not None:
        resolved["plan_changes"] = progress.plan_changes
    if inputs.dataset.transform is not None:
        resolved["transform"] = inputs.dataset.transform.fact
    return asdict(inputs.config) | resolved | environment_facts(inputs.device)
