import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from detector.config import Config
from detector.errors import ConfigError, LabelError
from detector.training.distributed import ALONE
from detector.training.preparation import prepare
from detector.training.train import make_request


def test_settings_that_depend_on_the_data_get_their_values(
    tiny_data: Path, tiny_config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(tiny_config, spp="auto", copy_paste="auto", lr_backbone="auto")
    request = make_request(tiny_data, config, split=None, weights=None, reuse_backbone=False)
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="detector"):
        inputs, ledgers = prepare(request, None, None, ALONE)
    prepared = inputs.config
    assert (prepared.spp, prepared.copy_paste, prepared.lr_backbone) == (False, 0.5, "auto")
    assert list(ledgers) == ["train", "val"]
    assert [message.partition(":")[0] for message in caplog.messages[-2:]] == ["train", "val"]


def test_settings_are_checked_before_the_images_are_decoded(
    tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(tiny_data, tmp_path / "data"))
    for image in (data / "images").iterdir():
        image.write_bytes(image.read_bytes()[:100])  # the size is readable, the pixels are not
    for patience, error, message in ((3, ConfigError, "and there is no val split"), (0, LabelError, "none of its")):
        config = replace(tiny_config, patience=patience)
        request = make_request(data, config, split="trainval", weights=None, reuse_backbone=False)
        with pytest.raises(error, match=message):
            prepare(request, None, None, ALONE)
