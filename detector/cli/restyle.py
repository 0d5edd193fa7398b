"""The command `restyle`."""

import argparse
from shlex import quote

from detector.cli import console
from detector.cli.arguments import TRAINED, Commands, add_data, add_overwrite, add_threads, path
from detector.cli.numbers import count, number, whole
from detector.cli.settings import limit_torch_threads, read_options
from detector.options import StyleOptions


def add(commands: Commands) -> None:
    """Add the command to the parser of all commands."""
    parser = commands.add_parser(
        "restyle",
        help="write a dataset with the colors and textures of other images",
        description="Write the images of a split with the colors and textures of style images, and the same labels, "
        "as a new dataset in COCO JSON. The dataset is not changed.",
    )
    add_data(parser)
    parser.add_argument("--split", help="split to restyle (default: train, or the only split)")
    parser.add_argument(
        "--style", nargs="+", required=True, metavar="IMAGES", help="style images: files, folders or glob patterns"
    )
    parser.add_argument("--out", type=path, required=True, help="folder for the new dataset")
    add_overwrite(parser)
    parser.add_argument(
        "--weights", help=f"weights whose backbone computes the features: {TRAINED} (default: everyday)"
    )
    parser.add_argument(
        "--steps",
        type=count,
        default=StyleOptions.steps,
        help="number of steps at each of three sizes of the image (default: %(default)s)",
    )
    parser.add_argument(
        "--style-weight",
        type=number,
        default=StyleOptions.style_weight,
        help="weight of the style relative to the content (default: %(default)s)",
    )
    parser.add_argument(
        "--max-side",
        type=count,
        default=StyleOptions.max_side,
        metavar="PX",
        help="largest long side at which the texture is found; larger images keep their size (default: %(default)s)",
    )
    parser.add_argument(
        "--keep-colors", action="store_true", help="keep the colors of the images, and change only the texture"
    )
    parser.add_argument(
        "--styles-per-image",
        type=count,
        default=1,
        metavar="N",
        help="number of style images of an image, whose statistics are averaged (default: %(default)s)",
    )
    parser.add_argument("--seed", type=whole, default=0, help="seed of the order of the style images (default: 0)")
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    """Write a restyled dataset; return 0, or 3 if some images could not be read."""
    limit_torch_threads(options)
    from detector.restyling.restyle import restyle

    read = read_options(options)
    result = restyle(
        options.data,
        options.style,
        options.out,
        split=options.split,
        weights=options.weights,
        steps=options.steps,
        style_weight=options.style_weight,
        max_side=options.max_side,
        keep_colors=options.keep_colors,
        styles_per_image=options.styles_per_image,
        seed=options.seed,
        allow_outside=read.allow_outside,
        max_pixels=read.max_pixels,
        overwrite=options.overwrite,
    )
    console.print_restyled(result, quote(str(result.folder)))
    return 3 if result.failed else 0
