"""What each format of an export can contain, and which packages it needs; checked before the work begins."""

from importlib.util import find_spec

from detector.errors import ConfigError, MissingPackageError
from detector.graph.export_format import Format

_CAN: dict[Format, frozenset[str]] = {
    "onnx": frozenset({"int8", "fp16", "nms", "dynamic", "int8_full_range"}),
    "openvino": frozenset({"int8", "fp16", "nms", "dynamic", "int8_full_range"}),
    "ncnn": frozenset({"fp16"}),
    "litert": frozenset({"fp16", "int8"}),
    "coreml": frozenset({"fp16"}),
}
"""Format → options that an export of this format can have."""

_FLAGS = {
    "int8": "--int8",
    "fp16": "--fp16",
    "nms": "--nms in",
    "dynamic": "--dynamic",
    "int8_full_range": "--int8-full-range",
}
"""Option → how the command line names it."""

_PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx",),
    "openvino": ("onnx", "openvino"),
    "ncnn": ("ncnn", "pnnx"),
    "litert": ("litert_torch", "ai_edge_litert"),
    "coreml": ("coremltools",),
}
"""Format → modules that write and run an export."""

_QUANTIZERS: dict[Format, tuple[str, str]] = {
    "onnx": ("onnxruntime", "onnx"),
    "openvino": ("nncf", "int8"),
    "litert": ("ai_edge_quantizer", "litert"),
}
"""Format → module that quantizes to int8, for LiteRT also to float16, and the extra that installs it."""


def check_options(format: Format, options: dict[str, bool]) -> None:
    """Raise ConfigError if an export of a format cannot have the options, or if they exclude each other.

    Args:
        format: the format.
        options: name of an option, as in `_CAN`, → whether it is used.
    """
    for name, is_used in options.items():
        if is_used and name not in _CAN[format]:
            others = " or ".join(other for other, can in _CAN.items() if name in can)
            raise ConfigError(
                f"{name}: not possible with --format {format}; leave out {_FLAGS[name]}, or use --format {others}"
            )
    if options["int8"] and options["fp16"]:
        raise ConfigError("fp16: an int8 export cannot also be in float16; leave out --int8 or --fp16")
    if options["int8_full_range"] and not options["int8"]:
        raise ConfigError("int8_full_range (--int8-full-range) has an effect only with --int8; add --int8")


def check_packages(format: Format, *, int8: bool, fp16: bool) -> None:
    """Raise MissingPackageError if a package that writes an export of this format is not installed.

    The functions of `graph/` that write the export do not check this again.

    Args:
        format: the format.
        int8: whether the export is quantized to int8.
        fp16: whether the weights are stored in float16.
    """
    needed: list[tuple[str, str]] = [(module, format) for module in _PACKAGES[format]]
    if int8 or (fp16 and format == "litert"):
        needed.append(_QUANTIZERS[format])
    for module, extra in needed:
        if find_spec(module) is None:
            kind = " in int8" if int8 else " in float16" if fp16 else ""
            raise MissingPackageError(
                f"an export to {format}{kind} needs the package {module.replace('_', '-')}: pip install "
                f"'grid-detector[{extra}]'"
            )
