import pytest

from detector.wording import metric, plural


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "image", "0 images"),
        (1, "image", "1 image"),
        (2, "box", "2 boxes"),
        (3, "batch", "3 batches"),
        (9999, "box", "9999 boxes"),
        (10_000, "box", "10,000 boxes"),
    ],
)
def test_noun_has_the_form_of_its_count(count: int, noun: str, text: str) -> None:
    assert plural(count, noun) == text


def test_irregular_plural_is_given() -> None:
    assert [plural(count, "entry", "entries") for count in (1, 2)] == ["1 entry", "2 entries"]


def test_metric_without_objects_is_not_a_number() -> None:
    assert [metric(value) for value in (-1, -1.0, 0, 0.12345, 1)] == ["n/a", "n/a", "0.000", "0.123", "1.000"]
    assert metric(0.25, 4) == "0.2500"
