"""Tests of decoding uploaded images in other processes, and of the choice between quick and slow images."""

import asyncio
import base64
import io
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from detector.errors import ImageError, ImageTooLargeError
from detector.images import read_image
from detector.letterbox import letterbox_image
from detector.serving.decode_pool import DecodePool
from detector.serving.decode_process import Decoded, DecodeJob, DecodeProcess, DecodeTimeoutError
from detector.serving.lanes import is_quick

JOB = DecodeJob((256, 320), 50_000_000, False)


def encode(kind: str, side: int = 90, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    size = (side, side - 10)
    colors = np.random.default_rng(0).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    Image.fromarray(colors).convert(mode).resize(size).save(file, kind, **options)
    return file.getvalue()


def with_text_chunks(count: int, size: int = 3) -> bytes:
    data = encode("PNG")
    return data[:33] + (size.to_bytes(4) + b"tEXta\0b" + bytes(size - 3) + bytes(4)) * count + data[33:]


def with_scans(count: int, side: int) -> bytes:
    data = encode("JPEG", side, "L", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + data[-2:]


SLOW_JPEG = with_scans(20, 5000)
SMALL = encode("PNG")
QUICK = {
    "jpeg": encode("JPEG"),
    "progressive": encode("JPEG", 2000, progressive=True),
    "12 megapixels": encode("JPEG", 3500),
    "gray": encode("JPEG", mode="L"),
    "cmyk": encode("JPEG", mode="CMYK"),
    "exif": encode("JPEG", exif=b"Exif\0\0" + bytes(60_000), icc_profile=bytes(100_000)),
    "png": SMALL,
    "large png": encode("PNG", 2900),
    "palette": encode("PNG", mode="P"),
    "webp": encode("WEBP"),
    "lossless webp": encode("WEBP", lossless=True),
}
SLOW = {
    "large jpeg": encode("JPEG", 5000, "L"),
    "many scans": with_scans(60, 2500),
    "large png": encode("PNG", 3100, "L"),
    "many texts": with_text_chunks(100),
    "long texts": with_text_chunks(4, 100_000),
    "animated png": encode("PNG", save_all=True, append_images=[Image.new("RGB", (90, 80))]),
    "animated webp": encode("WEBP", save_all=True, append_images=[Image.new("RGB", (90, 80))]),
    "large webp": encode("WEBP", 3100, "L", quality=1, method=0),
    "tiff": encode("TIFF"),
    "gif": encode("GIF"),
    "jp2": encode("JPEG2000"),
    "text": b"hello",
    "nothing": b"",
    "half a jpeg header": encode("JPEG")[:30],
    "half a png header": encode("PNG")[:14],
    "jpeg of endless segments": b"\xff\xd8" + b"\xff\xfe\0\x02" * 1000,
}


@pytest.fixture(scope="module")
def process() -> Iterator[DecodeProcess]:
    started = DecodeProcess()
    yield started
    started.stop()


@pytest.mark.parametrize("name", QUICK)
def test_common_images_are_quick(name: str) -> None:
    assert is_quick(QUICK[name])
    assert is_quick(QUICK[name][: len(QUICK[name]) // 2]) in (True, False)  # no error for truncated files


@pytest.mark.parametrize("name", SLOW)
def test_images_that_may_take_long_are_slow(name: str) -> None:
    assert not is_quick(SLOW[name])


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "cmyk"])
def test_process_decodes_as_the_package_does(process: DecodeProcess, name: str) -> None:
    image = read_image(QUICK[name])
    decoded = process.decode(QUICK[name], JOB, 30)
    assert decoded.image_hw == image.shape[:2]
    assert np.array_equal(decoded.pixels, letterbox_image(image, (256, 320))[1])
    assert decoded.image_url is None
    whole = process.decode(QUICK[name], DecodeJob(None, 50_000_000, True), 30)
    assert np.array_equal(whole.pixels, image)
    assert whole.image_url is not None
    returned = read_image(base64.b64decode(whole.image_url.partition(",")[2])).astype(int)
    assert np.abs(returned - image).mean() < 6


def test_errors_of_the_process_have_their_type(process: DecodeProcess) -> None:
    with pytest.raises(ImageError, match=r"^image: not an image in a supported format"):
        process.decode(b"hello", JOB, 30)
    with pytest.raises(ImageTooLargeError, match=r"^image: the image has 90 x 80 pixels, more than 50"):
        process.decode(SMALL, DecodeJob(None, 50, False), 30)


def test_image_that_takes_too_long_is_given_up(process: DecodeProcess) -> None:
    with pytest.raises(DecodeTimeoutError, match=r"decoding takes longer than 0\.05 seconds; shrink the image"):
        process.decode(SLOW_JPEG, JOB, 0.05)
    assert process.decode(SMALL, JOB, 30).image_hw == (80, 90)


def test_process_can_be_stopped_while_it_decodes() -> None:
    process, errors = DecodeProcess(), []

    def decode() -> None:
        try:
            while True:
                process.decode(SLOW_JPEG, JOB, 60)
        except ImageError as error:
            errors.append(str(error))

    thread = threading.Thread(target=decode)
    process.decode(SMALL, JOB, 30)
    thread.start()
    time.sleep(0.1)
    process.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert len(errors) == 1
    with pytest.raises(ImageError, match="the server stops"):
        process.decode(SMALL, JOB, 30)


def test_slow_images_do_not_block_quick_ones() -> None:
    timeouts: list[None] = []
    pool = DecodePool(8, 20, lambda: timeouts.append(None))
    order: list[str] = []

    async def decode(name: str, content: bytes) -> Decoded:
        lane = pool.quick if is_quick(content) else pool.slow
        decoded = await pool.decode(lane, content, JOB)
        order.append(name)
        return decoded

    async def decode_all() -> None:
        await asyncio.gather(decode("first", SMALL), decode("first", SLOW["tiff"]))  # start the processes
        slow = [asyncio.create_task(decode("slow", SLOW_JPEG)) for _ in range(2)]
        await asyncio.sleep(0)
        await decode("quick", SMALL)
        await asyncio.gather(*slow)

    asyncio.run(decode_all())
    pool.stop()
    assert order[2:] == ["quick", "slow", "slow"]
    assert timeouts == []
