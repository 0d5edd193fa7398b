"""Convert a network to an ncnn model, with the program pnnx of the ncnn project."""

import re
import subprocess
import tempfile
from pathlib import Path

from detector.errors import WeightsError
from detector.graph.graph_module import trace
from detector.graph.metadata import LEVELS_USAGE, GraphInfo, graph_info_metadata, graph_metadata
from detector.graph.ncnn_model import NcnnModel
from detector.model.network import GridNetwork
from detector.weights_info import WeightsInfo

_BLOBS = {"in0": "image", "out0": "boxes", "out1": "scores"}
"""Name of an input or output in the files of pnnx → its name in exports of this package."""

_SECONDS = 1800
"""Longest time of the conversion; usually less than a minute."""


def to_ncnn(network: GridNetwork, info: WeightsInfo, input_hw: tuple[int, int], fp16: bool = False) -> NcnnModel:
    """Convert a network to an ncnn model, and return the contents of its files.

    The input is `image` [3, H, W] float32 RGB, 0..255. The outputs are `boxes` [P, 4] in input pixels and `scores`
    [P, C], for P grid points and C classes.

    Args:
        network: trained network, not fused.
        info: information about the weights, for the metadata; the input size in it is replaced by `input_hw`.
        input_hw: input size (height, width) of the graph, multiples of 32.
        fp16: whether the weights are stored in float16.

    Raises:
        WeightsError: pnnx cannot convert this network.
    """
    from pnnx import EXEC_PATH

    traced = trace(network, input_hw)
    with tempfile.TemporaryDirectory() as folder:
        traced.save(str(Path(folder) / "model.pt"))
        height, width = input_hw
        command = [EXEC_PATH, "model.pt", f"inputshape=[1,3,{height},{width}]", f"fp16={int(fp16)}", "device=cpu"]
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_SECONDS, check=False)
        param, weights = Path(folder) / "model.ncnn.param", Path(folder) / "model.ncnn.bin"
        if done.returncode or not (param.is_file() and weights.is_file()):
            lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise WeightsError(
                f"ncnn: pnnx cannot convert this network (exit status {done.returncode}: {lines[-1:]}); export to "
                "another format"
            )
        text, data = param.read_text(encoding="utf-8"), weights.read_bytes()
    if unknown := sorted(set(re.findall(r"^((?:aten|prim|nn|F|torch|Tensor|pnnx)[.:]\S+)", text, re.MULTILINE))):
        raise WeightsError(
            f"ncnn: ncnn has no layer for {', '.join(unknown)} of this network; export to another format"
        )
    for old, new in _BLOBS.items():
        text = re.sub(rf"(?<= ){old}(?=[ \n])", new, text)
    metadata = graph_metadata(info, input_hw, LEVELS_USAGE) | graph_info_metadata(GraphInfo(fp16=fp16))
    return NcnnModel(text.encode(), data, metadata)
