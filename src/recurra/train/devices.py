"""What training asks of Lightning Fabric: a device, a precision, and the batch brought to both."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from recurra.errors import ArgumentError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def quiet_fabric(accelerator: str = "auto", devices: int | str = 1, precision: Any = "32-true") -> Fabric:
    """A launched Fabric without its start-up messages. Raises ArgumentError for what this machine has not."""
    from lightning_fabric import Fabric

    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision)
            fabric.launch()
    except (ValueError, RuntimeError, ModuleNotFoundError) as error:
        received = f"accelerator={accelerator!r}, devices={devices!r}, precision={precision!r}"
        raise ArgumentError(f"devices: this machine cannot use {received}: {error}") from error
    finally:
        logger.setLevel(level)
    return fabric


class Box:
    """Carries a batch through Fabric, which would otherwise take frozen dataclasses apart."""

    __slots__ = ("batch",)

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class Objective(nn.Module):
    """The network's loss as a forward, so that Fabric's precision and its strategies apply to it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, box: Box) -> Tensor:
        return cast(Tensor, self.network.loss(box.batch))  # type: ignore[operator]


def placer(fabric: Fabric) -> Callable[[Any], Any]:
    """What brings a batch's tensors to the device and the precision; nothing to do on the CPU in float32."""
    precision = fabric.strategy.precision
    if fabric.device.type == "cpu" and precision.convert_input(torch.zeros(1)).dtype == torch.float32:
        return lambda batch: batch

    def place(batch: Any) -> Any:
        if isinstance(batch, Tensor):
            return precision.convert_input(batch.to(fabric.device, non_blocking=True))
        if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
            fields = dataclasses.fields(batch)
            return dataclasses.replace(
                batch, **{item.name: place(getattr(batch, item.name)) for item in fields}
            )
        if isinstance(batch, tuple):
            items = [place(item) for item in batch]
            return type(batch)(*items) if hasattr(batch, "_fields") else tuple(items)
        if isinstance(batch, list):
            return [place(item) for item in batch]
        if isinstance(batch, dict):
            return {key: place(item) for key, item in batch.items()}
        return batch

    return place
