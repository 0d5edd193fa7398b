"""The trainer: one optimizer step at a time. Knows nothing about files, clocks or plans."""

from collections.abc import Mapping

import torch
from torch import Tensor

from detector.config import Config
from detector.loader.batch import Batch
from detector.loss.criterion import detection_loss
from detector.loss.terms import LossTerms
from detector.model.network import GridNetwork
from detector.training import schedule
from detector.training.ema import EmaWeights
from detector.training.optimizer import clip_gradients, make_optimizers
from detector.training.regularize import add_penalties, limit_norms, set_dropout


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or NaN.

    Attributes:
        step: the step at which this happened.
        image_ids: of the images of the batch.
        terms: the terms of the loss.
    """

    def __init__(self, step: int, image_ids: tuple[int, ...], terms: LossTerms) -> None:
        super().__init__(f"the loss is not finite at step {step}")
        self.step, self.image_ids, self.terms = step, image_ids, terms


class Trainer:
    """Does optimizer steps.

    Args:
        network: the network to train; it is moved to `device`.
        config: optimizer, schedules, regularization and loss.
        device: where to compute.
        dtype: floating-point type of the forward pass of the network; the loss is always float32.
        steps_per_epoch: for the settings that are given in epochs.

    Attributes:
        network: as given.
        ema: the moving average of the weights, which is the result of the training.
    """

    def __init__(
        self,
        network: GridNetwork,
        config: Config,
        device: torch.device,
        dtype: torch.dtype,
        steps_per_epoch: float = 100.0,
    ) -> None:
        self.network = network.to(device).train()
        self.ema = EmaWeights(self.network)
        self._optimizers = make_optimizers(self.network, config)
        self._config, self._device, self._dtype = config, device, dtype
        self._steps_per_epoch = steps_per_epoch

    def step(self, step: int, steps: int, batch: Batch) -> LossTerms:
        """Do step number `step` of `steps`; return the loss before it, detached.

        Raises:
            NonFiniteLossError: the network is unchanged.
        """
        config, epoch = self._config, step / self._steps_per_epoch
        factor = schedule.learning_rate_factor(step, steps, config, self._steps_per_epoch)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.zero_grad()
        set_dropout(self.network, config, epoch, step)
        if config.qat_start < 1:
            self.network.set_fake_quant(step >= config.qat_start * steps)
        terms = self._loss(batch.to(self._device), schedule.min_quality(step, steps))
        if not torch.isfinite(terms.total):
            raise NonFiniteLossError(step, batch.image_ids, terms.detach())
        terms.total.backward()  # type: ignore[no-untyped-call]
        add_penalties(self.network, config, epoch)
        clip_gradients(self.network, config.clip_norm, config.clip_value)
        for optimizer in self._optimizers:
            optimizer.step()
        limit_norms(self.network, config, epoch)
        self.ema.update(schedule.ema_decay(step, steps, config))
        return terms.detach()

    def state(self) -> dict[str, Tensor]:
        """Return every tensor that training changes, by name."""
        tensors: dict[str, Tensor] = {}
        for prefix, network in (("network", self.network), ("ema", self.ema.network)):
            # The batch counters of batch norm are not needed: its momentum is fixed.
            tensors |= {f"{prefix}.{k}": t for k, t in network.state_dict().items() if t.is_floating_point()}
        for index, optimizer in enumerate(self._optimizers):
            for slot, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{index}.{slot}.{k}": t for k, t in values.items() if t is not None}
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the tensors that `state` returned."""
        for prefix, network in (("network", self.network), ("ema", self.ema.network)):
            for name, tensor in network.state_dict().items():
                if tensor.is_floating_point():
                    tensor.copy_(tensors[f"{prefix}.{name}"])
        for index, optimizer in enumerate(self._optimizers):
            slots: dict[int, dict[str, Tensor]] = {}
            own = f"optimizer.{index}."
            for name in filter(lambda name: name.startswith(own), tensors):
                slot, _, key = name.removeprefix(own).partition(".")
                # The memory layout is that of the weights; the file does not store it.
                layout = torch.channels_last if tensors[name].ndim == 4 else torch.contiguous_format
                slots.setdefault(int(slot), {})[key] = tensors[name].contiguous(memory_format=layout)
            optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})

    def _loss(self, batch: Batch, min_quality: float) -> LossTerms:
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            predictions = self.network(batch.images)
        return detection_loss(predictions, batch, self._config, min_quality)
