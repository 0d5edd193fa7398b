import pytest
import torch

from detector.model.grid import STRIDES, GridPredictions, decode, make_grid

CPU = torch.device("cpu")


@pytest.mark.parametrize("input_hw", [(32, 32), (64, 96), (96, 32)])
def test_points_are_cell_centers_by_stride_and_row(input_hw: tuple[int, int]) -> None:
    expected = [
        (column * stride + stride / 2, row * stride + stride / 2, stride)
        for stride in STRIDES
        for row in range(input_hw[0] // stride)
        for column in range(input_hw[1] // stride)
    ]
    grid = make_grid(input_hw, CPU)
    assert torch.column_stack([grid.points, grid.strides]).tolist() == [list(row) for row in expected]


def test_distances_are_left_top_right_bottom_in_strides() -> None:
    points, strides = torch.tensor([[4.0, 12.0], [16.0, 48.0]]), torch.tensor([8.0, 32.0])
    distances = torch.tensor([[0.5, 1.0, 2.0, 0.25], [0.0, 0.0, 0.0, 0.0]])
    assert decode(points, strides, distances).tolist() == [[0, 4, 20, 14], [16, 48, 16, 48]]


def test_decoding_inverts_the_distances_of_any_box() -> None:
    grid = make_grid((64, 64), CPU)
    sides = torch.rand(2, len(grid.strides), 4, generator=torch.Generator().manual_seed(0)) * 40
    boxes = torch.cat([grid.points - sides[..., :2], grid.points + sides[..., 2:]], dim=-1)
    predictions = GridPredictions(torch.zeros(2, len(grid.strides), 1), sides / grid.strides[:, None], grid)
    torch.testing.assert_close(predictions.boxes(), boxes)
