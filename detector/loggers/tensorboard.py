"""TensorBoard: event files in the folder `tensorboard` of the run, written with TensorBoard's own package.

Neither torch.utils.tensorboard nor tensorboardX is used: both import torch, which takes 220 MB of memory in the process
of the logger instead of 40 MB. TensorFlow is not imported either, where it is installed.
"""

import io
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from detector.arrays import ImageArray
from detector.loggers.messages import Row, Start, Status

FOLDER = "tensorboard"
"""Subfolder of the run with the event files."""

_WITHOUT_TENSORFLOW = "tensorboard.compat.notf"
"""Name of a module; if it can be imported, TensorBoard does not import TensorFlow."""


class TensorBoard:
    """Writes event files. After a resume, a new file replaces the steps of the earlier ones after the checkpoint.

    Args:
        start: the run.
    """

    def __init__(self, start: Start) -> None:
        sys.modules.setdefault(_WITHOUT_TENSORFLOW, ModuleType(_WITHOUT_TENSORFLOW))
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = start.folder / FOLDER
        self.place = f"tensorboard --logdir {folder}"
        self._start, self._has_hparams = start, start.resumed_after is not None
        self._writer = EventFileWriter(str(folder), filename_suffix=f".{start.run_id}")
        if start.resumed_after is not None:
            self._add(start.resumed_after + 1, time.time(), session_log=SessionLog(status=SessionLog.START))

    def settings(self, step: int, values: Mapping[str, object]) -> None:
        """Log settings and facts as text, and once as hyperparameters."""
        for name, table in (("settings", values), ("facts", self._start.facts)):
            text = json.dumps(dict(table), indent=2, default=str)
            self._add_text(step, name, "\n".join(f"    {line}" for line in text.splitlines()))  # a code block
        if not self._has_hparams:
            self._add_hparams(values)
            self._has_hparams = True
        self._writer.flush()

    def steps(self, rows: Sequence[Row]) -> None:
        """Log metrics of steps as scalars."""
        for row in rows:
            self._add_scalars(row)
        self._writer.flush()

    def evaluation(self, row: Row, images: Mapping[str, ImageArray]) -> None:
        """Log metrics and images."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._add_scalars(row)
        for name, image in images.items():
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            height, width, channels = image.shape
            shown = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=file.getvalue())
            summary = Summary(value=[Summary.Value(tag=f"val/{name}", image=shown)])
            self._add(row.step, row.time, summary=summary)
        self._writer.flush()

    def file(self, path: Path) -> None:
        """Do nothing: TensorBoard stores no files."""

    def close(self, status: Status) -> None:
        """Close the event file."""
        self._writer.close()

    def _add(self, step: int, seconds: float, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(step=step, wall_time=seconds, **content))

    def _add_scalars(self, row: Row) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
        self._add(row.step, row.time, summary=Summary(value=values))

    def _add_text(self, step: int, name: str, text: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
        value = Summary.Value(tag=f"{name}/text_summary", metadata=metadata, tensor=tensor)
        self._add(step, time.time(), summary=Summary(value=[value]))

    def _add_hparams(self, values: Mapping[str, object]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        simple = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in values.items()}
        kinds = {bool: "DATA_TYPE_BOOL", int: "DATA_TYPE_FLOAT64", float: "DATA_TYPE_FLOAT64", str: "DATA_TYPE_STRING"}
        infos = [
            api_pb2.HParamInfo(name=name, type=api_pb2.DataType.Value(kinds[type(value)]))
            for name, value in simple.items()
        ]
        metrics = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=name)) for name in self._start.metrics]
        session = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        for name, value in simple.items():
            field = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
            setattr(session.hparams[name], field, value)
        for tag, content in (
            (metadata.EXPERIMENT_TAG, {"experiment": api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics)}),
            (metadata.SESSION_START_INFO_TAG, {"session_start_info": session}),
        ):
            about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
            value = Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
            self._add(0, time.time(), summary=Summary(value=[value]))
