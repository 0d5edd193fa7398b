"""Search for better settings with one or many workers, then compare the best with the defaults, with new seeds.

Every trial is a training process, as in `comparing/`: a crash ends one trial, and the processes end with their worker.
What the workers share is in the storage of the study; each has an output folder of its own for its runs.
"""

import logging
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from detector.comparing.compare import check_has_val, describe_base
from detector.comparing.processes import (
    ActiveRun,
    InitialWeights,
    check_run_folders,
    choose_start,
    data_checksums,
    read_halves,
    record_if_ended,
    remove_run,
    remove_weights,
    run_name,
    start_process,
    threads_per_run,
)
from detector.comparing.table import Conditions, RunRecord
from detector.comparing.variations import Variation
from detector.config import PLANNING_STEPS, Config, override
from detector.errors import ConfigError, FileError, LabelError
from detector.files import local_path, read_json
from detector.graceful_shutdown import sigterm_as_keyboard_interrupt
from detector.output_folder import OutputFolder, claim_folder
from detector.tuning.budget import RUNGS, Spent, fits, run_minutes, rung_steps
from detector.tuning.report import BEST, REPORT, TABLE, TuneResult, summarize_study, to_csv, to_yaml
from detector.tuning.space import Dimension, default_values, read_space, settings_of
from detector.tuning.storage import Storage, quiet_optuna, require_optuna, sqlite_url
from detector.tuning.study import BEAT_SECONDS, LostTrialError, Study, Trial
from detector.version import VERSION
from detector.wording import UNDEFINED, metric, plural

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.3
"""Pause between two looks at a training process, or at the trials of other workers, in seconds."""

_MOST_FAILURES = 3
"""A worker stops after so many trials in a row that failed: then the machine, not the settings, is the reason."""

_FEW_TRIALS = 8
"""A search with fewer trials is reported."""

_DATABASE = "study.db"
"""File in the output folder with the study, if no storage is given."""


def tune(
    data: str | Path,
    base: Config | None = None,
    *,
    minutes_total: float,
    vary: Sequence[str] | None = None,
    out: str | Path = "runs/tune",
    storage: str | None = None,
    study: str = "detector",
    seeds: int = 5,
    trials: int | None = None,
    weights: str | Path | None = "auto",
    reuse_backbone: bool = False,
    overwrite: bool = False,
) -> TuneResult:
    """Search for settings with a higher AP on val, and compare the best of them with the base settings.

    A call with the same `storage` and `study` joins: several processes, also on several machines, work on one study. A
    call after an interruption continues. The trials use one training seed; the final comparison trains the best
    settings and the base settings again, with new seeds, because the AP of the best of many trials is too high.

    Writes to the folder `out`: trials.csv (one line per trial of all workers), tune.md (the final comparison),
    best.yaml (the settings, only if they are better), and one folder per run of this worker.

    Args:
        data: the dataset, in any form that `open_data` accepts. AP is measured on its val split, or on training images
            that are held back; see the setting `val_fraction`.
        base: the base settings, here called the defaults. With `steps` or `epochs`, this is the length of each trial;
            without, it is planned from `minutes_total`.
        minutes_total: length of the whole search with its final comparison, as the sum over all workers.
        vary: what to vary, as `KEY=A..B`, `KEY=log:A..B` or `KEY={A,B}`; None: `space.SPACE`.
        out: output folder of this worker.
        storage: database URL (`sqlite:///tune.db`), or path of a journal file, which the workers share; None: a file in
            `out`.
        study: name of the study in the storage.
        seeds: number of seeds of the final comparison, at least 2.
        trials: largest number of trials with other settings than the defaults; None: only the time limits it.
        weights: initial weights of all runs, as for `compare`.
        reuse_backbone: as for `train`.
        overwrite: whether to replace files in `out` that this package did not write, or that were changed since.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM. The trial of this worker is repeated by another one, or by the same call.
        InputError: an argument is invalid, optuna is not installed, the data has no val split, the study in the storage
            was made with other data or settings, or the runs fail.
    """
    require_optuna()
    base = base or Config()
    _check(base, minutes_total, seeds, trials)
    base = replace(base, evaluations=1) if base.evaluations == "auto" else base
    space = read_space(vary, base)
    start = choose_start(weights, reuse_backbone, [base, *_corners(space, base)])
    check_has_val(data, base)
    conditions = Conditions(str(data), " ".join([describe_base(base), *start.description]), threads_per_run(1))
    with (
        sigterm_as_keyboard_interrupt(),
        quiet_optuna(),
        claim_folder(local_path(out), "tuning", names=[TABLE, REPORT, BEST], overwrite=overwrite) as folder,
    ):
        if storage is None:
            if _DATABASE in folder.names:
                folder.vouch(_DATABASE)  # it has changed since it was written
            else:
                folder.write(_DATABASE, b"")  # a SQLite file may be empty
        place = Storage(storage or sqlite_url(folder.path / _DATABASE))
        worker = _Worker(space, base, start, conditions, folder, minutes_total, seeds, trials)
        with place.errors():
            return worker.work(Study(place, study, f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}", base.seed))


def _check(base: Config, minutes_total: float, seeds: int, trials: int | None) -> None:
    """Raise ConfigError if an argument of `tune` is invalid."""
    if not 0 < minutes_total < float("inf"):
        raise ConfigError(f"minutes_total: must be above 0, got {minutes_total}")
    if seeds < 2:
        raise ConfigError(f"seeds: must be at least 2, got {seeds}: one seed gives no interval")
    if trials is not None and trials < 1:
        raise ConfigError(f"trials: must be at least 1, got {trials}")
    if base.minutes is not None:
        raise ConfigError(
            "minutes: leave it out; all trials must do the same number of steps. Set the number with steps, or let "
            "--minutes-total plan it"
        )
    if base.patience:
        raise ConfigError("patience: leave it out; all trials must do the same number of steps")


def _corners(space: Sequence[Dimension], base: Config) -> list[Config]:
    """Return settings with each value of a list: the initial weights must fit all of them."""
    return [override(base, [own.setting(choice)]) for own in space for choice in own.choices]


@dataclass(frozen=True)
class _Worker:
    """One process that works on the study.

    Attributes:
        space: the settings that vary.
        base: the base settings, perhaps without a length.
        start: the initial weights of all runs.
        conditions: the conditions of all runs.
        folder: output folder.
        minutes_total: sum of the minutes of all workers.
        seeds: number of seeds of the final comparison.
        trials: largest number of trials of the search; None: only the time limits it.
    """

    space: tuple[Dimension, ...]
    base: Config
    start: InitialWeights
    conditions: Conditions
    folder: OutputFolder
    minutes_total: float
    seeds: int
    trials: int | None

    def work(self, study: Study) -> TuneResult:
        """Join or create the study, do trials until it is finished, and write the result."""
        self._remove_left_weights()
        self._join(study)
        waits, failures = False, 0
        while True:
            self._repeat_dead(study)
            trials = study.trials()
            searching = study.winner is None and self._has_time(study, trials)
            if (trial := study.take(self.space, search=searching)) is not None:
                error = self._do(study, trial)
                failures = failures + 1 if error else 0
                if failures == _MOST_FAILURES:
                    raise ConfigError(
                        f"the worker stops, because its runs fail: {error}; the log is in {self.folder.path}"
                    )
                self._write_table(study)
                waits = False
            elif any(not own.ended for own in study.trials()):
                if not waits:
                    log.info("waiting for the runs of other workers")
                waits = True
                time.sleep(_POLL_SECONDS)
            elif study.winner is None:
                self._plan_final(study)
            else:
                return self._finish(study)

    def _remove_left_weights(self) -> None:
        """Remove the weights of runs that were killed with an earlier worker in this folder."""
        for run in sorted((self.folder.path / "runs").glob("*/")):
            remove_weights(run, self.folder.overwrite)

    def _join(self, study: Study) -> None:
        """Load the study, or plan and create it.

        Raises:
            FileError: the study was made with other data, settings or weights, or by another version.
        """
        identity = {
            "version of detector": VERSION,
            "settings": describe_base(self.base),
            "seed": self.base.seed,
            "initial weights": " ".join(self.start.description) or "random",
            "settings to vary": [own.text for own in self.space],
            "minutes in total": self.minutes_total,
            "number of seeds": self.seeds,
            "number of trials": self.trials,
        }
        before = study.load()
        if before is None:
            log.info("the study is new; planning it, unless another worker does so")
            with study.storage.lock():
                if (before := study.load()) is None:
                    plan = self._plan()
                    study.create(identity, plan, plan["defaults"])
                    before = study.load() or {}
        if changed := [name for name in identity if before.get(name) != identity[name]]:
            raise FileError(
                f"{study.storage.name}: this study was made with other conditions, so its trials cannot be compared; "
                "repeat the command with the same, or use another --study, --storage or --out:",
                *(f"  {name}: {before.get(name)} before, {identity[name]} now" for name in changed),
            )
        plan = study.plan
        trials = study.trials()
        done = f", {plural(sum(own.ended for own in trials), 'trial')} of the study done" if len(trials) > 1 else ""
        steps = " or ".join(map(str, rung_steps(plan["steps"])))
        log.info(
            f"{steps} steps per trial, {plural(len(self.space), 'setting')} to vary, "
            f"{self.minutes_total:g} minutes of all workers together{done}; threads per run: {self.conditions.threads}"
        )

    def _plan(self) -> dict[str, Any]:
        """Plan the length of a trial: start a run with the defaults, and end it when it has planned its steps.

        Returns:
            steps: number of steps of the full run of a trial; seconds: planned length, 0 if the user has set the steps;
            defaults: values of the defaults in the search space; spent: seconds that planning took.
        """
        started = time.monotonic()
        config, seconds = self.base, 0.0
        if config.steps is None and config.epochs is None:
            minutes = max(run_minutes(self.minutes_total, self.seeds), 0.05)
            config, seconds = replace(config, minutes=minutes), minutes * 60
            log.info(f"planning runs of {minutes:.2f} min; it takes a moment")
        run = self._start(Variation((), config), config.seed)
        try:
            record = None
            while record is None and data_checksums(run.folder) is None:
                time.sleep(_POLL_SECONDS)
                record = record_if_ended(run, self.conditions, self.folder)
            if record is not None and record.error:
                raise ConfigError(f"the defaults cannot be trained: {record.error}")
            resolved = read_json(run.folder / "config.json")
        finally:
            run.kill()
            remove_run(run, self.folder)
        steps = int(resolved["steps"])
        if seconds and steps <= 2 * PLANNING_STEPS:
            raise ConfigError(
                f"minutes_total: too short: in {seconds:.0f} s, a run would do only {plural(steps, 'step')} on this "
                "machine, and learn nothing; increase it, or set the steps of a run (--steps)"
            )
        defaults = default_values(self.space, self.base, resolved)
        return {
            "steps": steps,
            "seconds": seconds,
            "defaults": defaults,
            "spent": round(time.monotonic() - started, 2),
        }

    def _has_time(self, study: Study, trials: Sequence[Trial]) -> bool:
        """Return whether another trial fits into the total, and into the number of trials."""
        tried = sum(own.kind == "search" and own.state != "failed" for own in trials)
        if self.trials is not None and tried >= self.trials:
            return False
        plan = study.plan
        spent = [Spent(own.seconds, own.ended, own.state == "complete") for own in trials]
        return fits(spent, self.minutes_total, self.seeds, plan["seconds"], plan["spent"])

    def _start(self, variation: Variation, seed: int) -> ActiveRun:
        """Start the process of a run, in a new folder."""
        check_run_folders([run_name(variation.name, seed)], self.folder)
        return start_process(variation, seed, self.conditions, self.start, self.folder)

    def _do(self, study: Study, trial: Trial) -> str:
        """Do a trial, and record its result in the study; return the reason why it failed, else an empty text."""
        is_final = trial.kind == "final"
        settings = trial.settings if is_final else settings_of(self.space, trial.values)
        settings = () if trial.kind == "defaults" else settings
        variation = Variation(settings, override(_with_steps(self.base, study.plan["steps"]), settings))
        seed = int(trial.attributes["seed"]) if is_final else self.base.seed
        name = {"defaults": "the defaults", "search": variation.name}.get(trial.kind)
        name = name or f"final, {trial.attributes['side']}, seed {seed}"
        started = time.monotonic()
        try:
            study.note(settings=list(settings), seed=seed)
            outcome, error = self._do_runs(study, trial, variation, seed)
        except LostTrialError:
            log.warning(f"trial {trial.number}: another worker repeats it, because this process was stopped for long")
            return ""
        except BaseException:
            with suppress(Exception):  # if the storage fails, the trial is repeated after a minute
                study.give_back(failed=False)
            raise
        log.info(f"trial {trial.number}, {time.monotonic() - started:.0f} s, {name}: {outcome}")
        return error

    def _do_runs(self, study: Study, trial: Trial, variation: Variation, seed: int) -> tuple[str, str]:
        """Do the runs of a trial, the short one first, and record its result in the study.

        Args:
            study: the study.
            trial: the trial.
            variation: its settings, with the number of steps of the full run.
            seed: its seed.

        Returns:
            The result in a few words, and the reason why the trial failed, else an empty text.

        Raises:
            ConfigError: the defaults cannot be trained.
            LabelError: val has no objects.
            LostTrialError: see there.
        """
        is_final, started = trial.kind == "final", time.monotonic()
        steps = study.plan["steps"]
        for own in [steps] if is_final else rung_steps(steps):
            is_last = own == steps
            run = self._start(replace(variation, config=replace(variation.config, steps=own)), seed)
            try:
                record = self._follow(run, study, started)
                halves = read_halves(run.folder, record.AP) if is_final and not record.error else None
            finally:
                run.kill()
                with suppress(FileError):  # a file was changed meanwhile; it stays
                    remove_weights(run.folder, self.folder.overwrite)
            study.beat(time.monotonic() - started)
            if record.error:
                return self._record_failure(study, trial, record, killed=run.process.returncode < 0)
            if record.AP == UNDEFINED:
                raise LabelError(f"{self.conditions.data}: the val split has no objects, so its AP is not available")
            ends_early = study.report(len(RUNGS) if is_last else 1, record.AP) and trial.kind != "defaults"
            if not is_last:
                remove_run(run, self.folder)
            if ends_early:
                study.end("pruned")
                return f"ended after {plural(own, 'step')}, AP {metric(record.AP)}", ""
        values = {name: value for name, value in asdict(record).items() if name not in asdict(self.conditions)}
        study.note(result=values, **({} if halves is None else {"halves": halves.to_json()}))
        study.end("complete", record.AP)
        return f"AP {metric(record.AP)}", ""

    def _record_failure(self, study: Study, trial: Trial, record: RunRecord, *, killed: bool) -> tuple[str, str]:
        """Record that a run of a trial has failed; return the result in a few words, and the reason.

        Args:
            study: the study.
            trial: the trial.
            record: result of the run.
            killed: whether a signal ended the process; then the trial is repeated.

        Raises:
            ConfigError: the defaults cannot be trained.
        """
        study.note(error=record.error)
        if killed:
            study.give_back(failed=True)
        elif trial.kind == "defaults":
            raise ConfigError(f"the defaults cannot be trained: {record.error}")
        else:
            study.end("failed")
        return f"failed: {record.error}", record.error

    def _follow(self, run: ActiveRun, study: Study, started: float) -> RunRecord:
        """Wait for the end of a run, and return its result.

        Args:
            run: the run.
            study: the study.
            started: `time.monotonic()` at the start of the trial.

        Raises:
            FileError: the run has used other data than the earlier trials.
            LostTrialError: see there.
        """
        checked, beat = False, time.monotonic()
        while True:
            record = record_if_ended(run, self.conditions, self.folder)
            if not checked and (checksums := data_checksums(run.folder)) is not None:
                checked = True
                if not study.check_data(*checksums):
                    raise FileError(
                        f"{run.folder}: this run has other images, labels or classes than the trials of the study "
                        "before, so it is not recorded; the data has changed since, or differs between the machines. "
                        "Restore the data, or use another --study"
                    )
            if record is not None:
                return record
            if time.monotonic() - beat > BEAT_SECONDS:
                beat = time.monotonic()
                study.beat(beat - started)
                self._repeat_dead(study)
            time.sleep(_POLL_SECONDS)

    def _repeat_dead(self, study: Study) -> None:
        """Let the trials of killed workers be repeated."""
        for number in study.give_back_dead():
            log.warning("trial %d: its worker was killed; the trial is repeated", number)

    def _plan_final(self, study: Study) -> None:
        """Choose the best trial, and enqueue the final comparison if it is better than the defaults."""
        complete = [own for own in study.trials() if own.state == "complete"]
        tried = sum(own.kind == "search" and own.ended for own in study.trials())
        if tried < _FEW_TRIALS and self.trials is None:
            log.warning(
                f"only {plural(tried, 'trial')} fit into the total, too few for a search: use fewer steps (--steps), "
                "or increase --minutes-total"
            )
        best = max((own for own in complete if own.kind == "search"), key=lambda own: own.AP or 0.0, default=None)
        defaults = max((own.AP or 0.0 for own in complete if own.kind == "defaults"), default=0.0)
        if best is None or (best.AP or 0.0) <= defaults:
            study.plan_final(-1, (), ())
            return
        seeds = [self.base.seed + 1 + index for index in range(self.seeds)]
        log.info(
            f"best trial: {best.number}, AP {metric(best.AP or 0.0)}, the defaults {metric(defaults)}; comparing them "
            f"again with {plural(self.seeds, 'new seed')}"
        )
        study.plan_final(best.number, best.settings, seeds)

    def _write_table(self, study: Study) -> None:
        """Write trials.csv."""
        self.folder.write(TABLE, to_csv(study.trials()))

    def _finish(self, study: Study) -> TuneResult:
        """Write the files with the result, and return it."""
        self._write_table(study)
        result = summarize_study(
            study.trials(), study.winner, _with_steps(self.base, study.plan["steps"]), self.conditions, self.folder.path
        )
        result = replace(result, importances=study.importances(self.space))
        if result.is_better:
            base = replace(self.base, steps=None, epochs=None, evaluations="auto")
            result = replace(result, best=override(base, result.settings))
            self.folder.write(BEST, to_yaml(result, self.conditions.data))
        minutes = (study.plan["spent"] + sum(own.seconds for own in result.trials)) / 60
        log.info(
            f"the runs of all workers took {minutes:.1f} of {self.minutes_total:g} minutes; see {self.folder.path}"
        )
        self.folder.write(REPORT, result.to_markdown(self.conditions, self.minutes_total).encode())
        return result


def _with_steps(base: Config, steps: int) -> Config:
    """Return the base settings with the length of the trials."""
    return replace(base, epochs=None, steps=steps)
