"""The trainer: does single optimizer steps. It is independent of files, time and the plan of the run."""

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor

from detector.arrays import Doubles
from detector.config import Config
from detector.loader.batch import Batch
from detector.loss.criterion import detection_loss
from detector.loss.terms import LossTerms
from detector.model.network import GridNetwork
from detector.training import schedule
from detector.training.distributed import ALONE, Processes
from detector.training.ema import EmaWeights
from detector.training.optimizer import clip_gradients, make_optimizers
from detector.training.regularize import add_penalties, limit_norms, set_dropout


class NonFiniteLossError(ArithmeticError):
    """The loss of a training step is infinite or NaN.

    Attributes:
        step: index of the step, from 0.
        image_ids: ids of the images in the batch.
        terms: terms of the loss.
    """

    def __init__(self, step: int, image_ids: tuple[int, ...], terms: LossTerms) -> None:
        super().__init__(f"the loss is not finite at step {step}")
        self.step, self.image_ids, self.terms = step, image_ids, terms


class Trainer:
    """A network in training, with its optimizers, schedules and averaged weights. `step` does one optimizer step.

    Args:
        network: the network to train. It is moved to `device` and set to training mode.
        config: settings of optimizers, schedules, regularization and loss.
        device: device that trains the network.
        dtype: floating-point type of the forward pass of the network; the loss is always computed in float32.
        steps_per_epoch: number of steps per epoch, for the settings that are given in epochs.
        processes: the processes that train the network together, each with its part of every batch. Before the first
            step, `sync_batch_norm.synchronize` must be called for the network.
        class_weights: weight of each class in the loss; see `compute_loss`. None: all are 1.

    Attributes:
        network: the network in training.
        ema: the averaged weights, which are the result of the training.
    """

    def __init__(
        self,
        network: GridNetwork,
        config: Config,
        device: torch.device,
        dtype: torch.dtype,
        steps_per_epoch: float = 100.0,
        processes: Processes = ALONE,
        class_weights: Doubles | None = None,
    ) -> None:
        self.network = network.to(device).train()
        self.ema = EmaWeights(self.network)
        self._optimizers = make_optimizers(self.network, config)
        self._config, self._device, self._dtype = config, device, dtype
        self._steps_per_epoch, self._processes = steps_per_epoch, processes
        self._class_weights = (
            None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32, device=device)
        )

    def step(self, step: int, steps: float, batch: Batch) -> LossTerms:
        """Do one optimizer step; return the loss before the step, of the whole batch, without gradient.

        Args:
            step: index of the step, from 0.
            steps: number of steps of the run, for the schedules; see `StepPlan.length_at`.
            batch: the training samples of this step; with several processes, the part of this process.

        Raises:
            NonFiniteLossError: the loss is infinite or NaN. The weights are unchanged.
        """
        config, epoch = self._config, step / self._steps_per_epoch
        factor = schedule.learning_rate_factor(step, steps, config, self._steps_per_epoch)
        backbone_factor = schedule.backbone_factor(step, steps, config)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor * (backbone_factor if group["is_backbone"] else 1)
            optimizer.zero_grad()
        set_dropout(self.network, config, epoch, step)
        if config.qat_start < 1:
            self.network.set_fake_quant(config.qat_weight_bits if step >= config.qat_start * steps else None)
        own_terms = self._loss(batch.to(self._device), schedule.min_quality(step, steps))
        terms = self._of_all_processes(own_terms.detach())
        if not torch.isfinite(terms.total):
            image_ids = tuple(chain(*self._processes.gather(batch.image_ids)))
            raise NonFiniteLossError(step, image_ids, terms)
        own_terms.total.backward()  # type: ignore[no-untyped-call]
        self._add_gradients()
        add_penalties(self.network, config, epoch)
        clip_gradients(self.network, config.clip_norm, config.clip_value)
        for optimizer in self._optimizers:
            optimizer.step()
        limit_norms(self.network, config, epoch)
        self.ema.update(schedule.ema_decay(step, steps, config))
        return terms

    def learning_rates(self) -> dict[str, float]:
        """Return name of an optimizer → learning rate of the last step; that of the backbone is apart if it differs."""
        rates: dict[str, float] = {}
        for optimizer in self._optimizers:
            name = type(optimizer).__name__.lower()
            for group in optimizer.param_groups:
                rates[f"{name}_backbone" if group["is_backbone"] else name] = float(group["lr"])
        return rates

    def state(self) -> dict[str, Tensor]:
        """Return name → tensor, for every tensor that training changes: weights, averaged weights, optimizer states."""
        tensors: dict[str, Tensor] = {}
        for prefix, network in (("network", self.network), ("ema", self.ema.network)):
            # The integer batch counters of batch norm are left out: with a fixed momentum, they have no effect.
            tensors |= {f"{prefix}.{k}": t for k, t in network.state_dict().items() if t.is_floating_point()}
        for index, optimizer in enumerate(self._optimizers):
            for slot, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{index}.{slot}.{k}": t for k, t in values.items() if t is not None}
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Set all tensors that training changes to the values that `state` returned."""
        for prefix, network in (("network", self.network), ("ema", self.ema.network)):
            for name, tensor in network.state_dict().items():
                if tensor.is_floating_point():
                    tensor.copy_(tensors[f"{prefix}.{name}"])
        for index, optimizer in enumerate(self._optimizers):
            slots: dict[int, dict[str, Tensor]] = {}
            own = f"optimizer.{index}."
            for name in filter(lambda name: name.startswith(own), tensors):
                slot, _, key = name.removeprefix(own).partition(".")
                # The file does not store the memory layout. It must be the layout of the weights.
                layout = torch.channels_last if tensors[name].ndim == 4 else torch.contiguous_format
                slots.setdefault(int(slot), {})[key] = tensors[name].contiguous(memory_format=layout)
            optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})

    def _loss(self, batch: Batch, min_quality: float) -> LossTerms:
        """Return the loss of a batch on the device; `min_quality` is the lower bound of the target scores."""
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            predictions = self.network(batch.images)
        return detection_loss(predictions, batch, self._config, min_quality, self._processes.add, self._class_weights)

    def _of_all_processes(self, terms: LossTerms) -> LossTerms:
        """Return the terms of the whole batch, from those of the part of this process."""
        if self._processes.size == 1:
            return terms
        total = self._processes.add(torch.stack([*terms.parts.values(), terms.total.new_tensor(terms.positives)]))
        return LossTerms(dict(zip(terms.parts, total, strict=False)), int(total[-1]))

    def _add_gradients(self) -> None:
        """Replace the gradients by those of the whole batch: the sum over all processes."""
        if self._processes.size == 1:
            return
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        assert len(gradients) == len(list(self.network.parameters()))  # so that all processes add the same tensors
        flat = self._processes.add(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = flat.split_with_sizes([gradient.numel() for gradient in gradients])
        for gradient, values in zip(gradients, parts, strict=True):
            gradient.copy_(values.view(gradient.shape))
