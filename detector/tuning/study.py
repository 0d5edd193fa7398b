"""The study as one worker sees it: take a trial, report its AP, end it, and give back the trials of killed workers.

Each worker changes a counter of its trial in the storage every few seconds. A trial whose counter another worker has
not seen change for a minute belongs to a worker that was killed: it becomes failed and is repeated. (The heartbeat of
optuna needs a database, and does not work with `ask` and `tell`. A counter needs no clocks that agree.)
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from detector.errors import FileError
from detector.tuning.budget import RUNGS
from detector.tuning.space import Dimension, Value
from detector.tuning.storage import Storage, require_optuna

BEAT_SECONDS = 10.0
"""Time between two signs of life of a worker, in seconds."""

DEAD_SECONDS = 60.0
"""A worker without a sign of life for so long is taken for dead, in seconds."""

ATTEMPTS = 3
"""How often a trial is tried whose worker or training process is killed."""

_PLAN_SECONDS = 10.0
"""How long to wait for another worker that has created a study to store its plan, in seconds."""

_IDENTITY, _PLAN, _WINNER = "identity", "plan", "winner"
"""Attributes of the study: on what it depends, its plan, and the number of the best trial (-1: no trial is better)."""

_REDUCTION = 2
"""One of so many trials does the next run, the better one."""

State = Literal["waiting", "running", "complete", "pruned", "failed"]
Kind = Literal["defaults", "search", "final"]


class LostTrialError(Exception):
    """Another worker has taken the trial for dead, because this process was stopped for long."""


@dataclass(frozen=True)
class Trial:
    """One training run of the study.

    Attributes:
        number: number of the trial, from 0.
        state: pruned: it has ended after its short run, because others had a higher AP.
        kind: the defaults, a trial of the search, or a run of the final comparison.
        values: the values that the search has chosen: name of a setting → value.
        AP: AP after the last step of its last run; None before the end of the first.
        attributes: everything else that a worker has recorded: settings, seed, worker, seconds, steps, error, ...
    """

    number: int
    state: State
    kind: Kind
    values: Mapping[str, Value]
    AP: float | None
    attributes: Mapping[str, Any] = field(repr=False)

    @property
    def settings(self) -> tuple[str, ...]:
        """Settings that differ from the base settings, each as `key=value`; none for the defaults."""
        return tuple(self.attributes.get("settings", ()))

    @property
    def seconds(self) -> float:
        """Wall time in seconds; while it runs, and after its worker was killed, up to the last sign of life."""
        return float(self.attributes.get("seconds", 0.0))

    @property
    def ended(self) -> bool:
        """Whether the trial has ended."""
        return self.state in ("complete", "pruned", "failed")


class Study:
    """A study in its storage.

    Args:
        storage: the storage.
        name: name of the study.
        worker: name of this worker, which no other worker has.
        seed: seed of the search.
    """

    def __init__(self, storage: Storage, name: str, worker: str, seed: int) -> None:
        self.storage, self._name, self._worker, self._seed = storage, name, worker, seed
        self._study: Any = None
        self._trial: Any = None
        self._beats: dict[int, tuple[object, float]] = {}

    def load(self) -> dict[str, Any] | None:
        """Load the study and return its identity; None: it does not exist yet, or has no plan."""
        patience = time.monotonic() + _PLAN_SECONDS
        while self._open():
            attributes: dict[str, Any] = self._study.user_attrs
            if _IDENTITY in attributes:
                return dict(attributes[_IDENTITY])
            if _PLAN not in attributes and (attributes or self._study.get_trials(deepcopy=False)):
                raise FileError(
                    f"{self.storage.name}: the study {self._name} was made by another program; use another --study"
                )
            if time.monotonic() > patience:
                break
            time.sleep(0.5)
        return None

    def _open(self) -> bool:
        """Open the study; return False if it does not exist."""
        optuna = require_optuna()
        try:
            self._study = optuna.load_study(
                study_name=self._name,
                storage=self.storage.backend,
                sampler=optuna.samplers.TPESampler(seed=self._seed),
                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=_REDUCTION),
            )
        except KeyError:
            return False
        return True

    def create(self, identity: Mapping[str, Any], plan: Mapping[str, Any], defaults: Mapping[str, Value]) -> None:
        """Create the study, unless another worker has just done so.

        Args:
            identity: on what the study depends; see `load`.
            plan: the plan, which all workers follow.
            defaults: values of the defaults in the search space, for the first trial.
        """
        optuna = require_optuna()
        try:
            optuna.create_study(storage=self.storage.backend, study_name=self._name, direction="maximize")
        except optuna.exceptions.DuplicatedStudyError:
            if self.load() is not None:
                return
        self._open()
        self._study.set_user_attr(_PLAN, dict(plan))
        self._study.enqueue_trial(dict(defaults), user_attrs={"kind": "defaults", "queued": True})
        self._study.set_user_attr(_IDENTITY, dict(identity))

    @property
    def plan(self) -> dict[str, Any]:
        """The plan, which all workers follow."""
        return dict(self._study.user_attrs[_PLAN])

    @property
    def winner(self) -> int | None:
        """Number of the trial that is compared with the defaults; -1: none; None: the search has not ended."""
        winner = self._study.user_attrs.get(_WINNER)
        return None if winner is None else int(winner)

    def check_data(self, key: str, checksums: str) -> bool:
        """Return False if a run has used other data than the earlier runs of all workers.

        Args:
            key: settings that decide which pixels are read.
            checksums: checksums of the data.
        """
        before = self._study.user_attrs.get(f"data {key}")
        if before is None:
            self._study.set_user_attr(f"data {key}", checksums)
        return before in (None, checksums)

    def trials(self) -> list[Trial]:
        """Return all trials, of all workers."""
        return [_trial_of(own) for own in self._study.get_trials(deepcopy=False) if "unused" not in own.user_attrs]

    def take(self, space: Sequence[Dimension], *, search: bool) -> Trial | None:
        """Take a trial that waits, or make a new one; None: nothing waits, and there shall be no new one.

        Args:
            space: the settings that vary.
            search: whether to make a new trial if none waits.
        """
        optuna = require_optuna()
        with self.storage.lock():
            if not search and not self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)):
                return None
            trial = self._study.ask()
            trial.set_user_attr("worker", self._worker)
        attributes = trial.user_attrs
        if not search and "queued" not in attributes:  # another worker has taken the last one that waited
            self._drop(trial)
            return None
        own = _kind_and_seed(attributes)
        if own[0] == "final" and any(
            other.number < trial.number and _kind_and_seed(other.attributes) == own and other.state != "failed"
            for other in self.trials()
        ):
            self._drop(trial)  # two workers have planned the final comparison in the same moment
            return None
        self._trial = trial
        # All workers have the same seed, so without the number of the trial they would draw the same first values.
        self._study.sampler = optuna.samplers.TPESampler(seed=self._seed * 100_003 + trial.number)
        if own[0] == "search":
            for dimension in space:
                _suggest(trial, dimension)
        elif own[0] == "defaults":
            for dimension in space:
                if dimension.key in self.plan["defaults"]:
                    _suggest(trial, dimension)
        return next(row for row in self.trials() if row.number == trial.number)

    def _drop(self, trial: Any) -> None:
        """End a trial that does not count."""
        trial.set_user_attr("unused", True)
        self._study.tell(trial, state=require_optuna().trial.TrialState.FAIL)

    def note(self, **attributes: Any) -> None:
        """Record attributes of the trial that this worker has taken.

        Raises:
            LostTrialError: see there.
        """
        optuna = require_optuna()
        try:
            for name, value in attributes.items():
                self._trial.set_user_attr(name, value)
        except optuna.exceptions.UpdateFinishedTrialError:
            raise LostTrialError from None

    def beat(self, seconds: float) -> None:
        """Give a sign of life: record the time that the trial of this worker has taken so far, in seconds."""
        self.note(seconds=round(seconds, 2), beat=time.monotonic())

    def report(self, rung: int, ap: float) -> bool:
        """Record AP at the end of a run of the trial of this worker; return whether the trial shall end early.

        Args:
            rung: number of the run, from 1 to the number of `RUNGS`, after which a trial never ends early.
            ap: average precision.

        Raises:
            LostTrialError: see there.
        """
        optuna = require_optuna()
        try:
            self._trial.report(ap, rung)
            return rung < len(RUNGS) and bool(self._trial.should_prune())
        except optuna.exceptions.UpdateFinishedTrialError:
            raise LostTrialError from None

    def end(self, state: State, ap: float | None = None) -> None:
        """End the trial of this worker.

        Raises:
            LostTrialError: see there.
        """
        optuna = require_optuna()
        states = optuna.trial.TrialState
        try:
            if state == "complete":
                self._study.tell(self._trial, ap)
            else:
                self._study.tell(self._trial, state=states.PRUNED if state == "pruned" else states.FAIL)
        except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
            raise LostTrialError from None

    def give_back(self, *, failed: bool) -> None:
        """End the trial of this worker as failed, so that it is repeated: by another worker, or by the same command.

        Args:
            failed: whether the training process was killed; after `ATTEMPTS` times, the trial is not repeated.
        """
        self._repeat(self._trial.number, count=failed)

    def give_back_dead(self) -> list[int]:
        """Let the trials of killed workers be repeated; return their numbers."""
        now, dead = time.monotonic(), []
        for trial in self.trials():
            if trial.state != "running" or trial.attributes.get("worker") == self._worker:
                continue
            beat = trial.attributes.get("beat")
            before, since = self._beats.get(trial.number, (None, now))
            if trial.number not in self._beats or beat != before:
                self._beats[trial.number] = (beat, now)
            elif now - since > DEAD_SECONDS and self._repeat(trial.number, count=True):
                dead.append(trial.number)
        return dead

    def _repeat(self, number: int, *, count: bool) -> bool:
        """End a trial as failed and enqueue it again; return False if another worker has done so.

        Args:
            number: number of the trial.
            count: whether this counts as one of the `ATTEMPTS`.
        """
        optuna = require_optuna()
        try:
            ended = self._study.tell(number, state=optuna.trial.TrialState.FAIL)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            return False
        attempt = int(ended.user_attrs.get("attempt", 1)) + count
        if attempt <= ATTEMPTS:
            kept = {
                name: ended.user_attrs[name]
                for name in ("kind", "side", "seed", "settings")
                if name in ended.user_attrs
            }
            self._study.enqueue_trial(
                ended.params, user_attrs={**kept, "attempt": attempt, "queued": True, "repeats": number}
            )
        return True

    def plan_final(self, winner: int, settings: Sequence[str], seeds: Sequence[int]) -> None:
        """Enqueue the runs of the final comparison, unless another worker has done so.

        Args:
            winner: number of the best trial; -1: no trial is better than the defaults, and nothing is compared.
            settings: settings of the best trial.
            seeds: seeds of the runs.
        """
        with self.storage.lock():
            if self.winner is not None:
                return
            planned = {_kind_and_seed(trial.attributes) for trial in self.trials()}
            for seed in seeds if winner >= 0 else ():
                for side in ("defaults", "best"):
                    run = {"kind": "final", "side": side, "seed": seed}
                    if _kind_and_seed(run) not in planned:
                        own = {"settings": list(settings) if side == "best" else []}
                        self._study.enqueue_trial({}, user_attrs={**run, **own, "queued": True})
            self._study.set_user_attr(_WINNER, winner)

    def importances(self, space: Sequence[Dimension], fewest: int = 10) -> dict[str, float]:
        """Return name of a setting → how much it decides whether a trial is among the best quarter, largest first.

        The sum is 1. All trials with an AP count: those that ended early are worse than those that did all runs.
        Empty: fewer than `fewest` trials tell.

        Source: Watanabe, Bansal and Hutter, PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
        Subspaces, 2023.
        """
        optuna = require_optuna()
        keys = {dimension.key for dimension in space}
        rows = [
            row
            for row in self._study.get_trials(deepcopy=False)
            if row.state.is_finished() and row.intermediate_values and row.params.keys() == keys
        ]
        if len(rows) < max(fewest, 2):
            return {}
        copy = optuna.create_study(direction="maximize")
        for row in rows:
            value = row.last_step - len(RUNGS) + row.intermediate_values[row.last_step]
            copy.add_trial(optuna.trial.create_trial(params=row.params, distributions=row.distributions, value=value))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
        return dict(optuna.importance.get_param_importances(copy, evaluator=evaluator))


def _suggest(trial: Any, dimension: Dimension) -> None:
    """Let the sampler choose the value of a setting, or take the value with which the trial was enqueued."""
    if dimension.choices:
        trial.suggest_categorical(dimension.key, dimension.choices)
    elif dimension.is_integer:
        trial.suggest_int(dimension.key, int(dimension.low), int(dimension.high), log=dimension.log)
    else:
        trial.suggest_float(dimension.key, dimension.low, dimension.high, log=dimension.log)


def _kind_and_seed(attributes: Mapping[str, Any]) -> tuple[str, str | None, int | None]:
    """Return the kind of a trial; in the final comparison, also its settings and its seed."""
    return attributes.get("kind", "search"), attributes.get("side"), attributes.get("seed")


def _trial_of(frozen: Any) -> Trial:
    """Return a trial of optuna as an object of this module."""
    names: dict[str, State] = {"PRUNED": "pruned", "COMPLETE": "complete", "RUNNING": "running", "WAITING": "waiting"}
    values = frozen.intermediate_values
    return Trial(
        number=frozen.number,
        state=names.get(frozen.state.name, "failed"),
        kind=frozen.user_attrs.get("kind", "search"),
        values=dict(frozen.params),
        AP=values[max(values)] if values else None,
        attributes=dict(frozen.user_attrs),
    )
