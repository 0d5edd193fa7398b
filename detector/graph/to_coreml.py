"""Convert a network to a Core ML package (.mlpackage), with coremltools. This works on every operating system.

Only devices of Apple run such a package. So nothing here or in the tests has run one.
"""

import logging
import tempfile
from pathlib import Path
from types import ModuleType

from detector.graph.graph_module import no_output, quiet_export, trace
from detector.graph.metadata import USAGE, GraphInfo, graph_info_metadata, graph_metadata
from detector.model.network import GridNetwork
from detector.outputs import SIGNATURE_KEY
from detector.weights_info import WeightsInfo

_USAGE = USAGE.replace("uint8 RGB [images, height, width, 3]", "an RGB image of width x height pixels")


def to_coreml(
    network: GridNetwork, info: WeightsInfo, input_hw: tuple[int, int], fp16: bool = False
) -> dict[str, bytes]:
    """Convert a network to a Core ML program, and return the files of the package: relative path → content.

    The input is `image`, an RGB image of H x W pixels. The outputs are `boxes` [1, P, 4] float32 in input pixels and
    `scores` [1, P, C] float32, for P grid points and C classes. The package needs iOS 15 or macOS 12.

    Args:
        network: trained network, not fused.
        info: information about the weights, for the metadata; the input size in it is replaced by `input_hw`.
        input_hw: input size (height, width) of the network, multiples of 32.
        fp16: whether weights and activations are in float16. The outputs then are in steps of up to 0.25 pixels.
    """
    tools = import_coremltools()
    traced = trace(network, input_hw)
    with quiet_export(), no_output():
        model = tools.convert(
            traced,
            convert_to="mlprogram",
            inputs=[
                tools.ImageType(name="image", shape=(1, 3, *input_hw), color_layout=tools.colorlayout.RGB),
            ],
            outputs=[tools.TensorType(name="boxes"), tools.TensorType(name="scores")],
            compute_precision=tools.precision.FLOAT16 if fp16 else tools.precision.FLOAT32,
            minimum_deployment_target=tools.target.iOS15,
            skip_model_load=True,
        )
    metadata = graph_metadata(info, input_hw, _USAGE) | graph_info_metadata(GraphInfo(fp16=fp16))
    del metadata[SIGNATURE_KEY]  # the certificate holds the hashes of the files
    model.user_defined_metadata.update(metadata)
    model.short_description = "Object detection. The metadata contain the class names and the input size."
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "model.mlpackage"
        model.save(str(package))
        files = sorted(file for file in package.rglob("*") if file.is_file())
        return {file.relative_to(package).as_posix(): file.read_bytes() for file in files}


def import_coremltools() -> ModuleType:
    """Import coremltools and return the module, without its warnings about parts that exist only on macOS."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with quiet_export():
            import coremltools
    finally:
        logger.setLevel(level)
    module: ModuleType = coremltools
    return module
