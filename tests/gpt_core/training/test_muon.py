"""Every matrix is orthogonalized whole, by one rank, wherever ZeRO's borders run."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt_core.training.muon import Layout, Shape, SharedMatrices, orthogonalize

CPU = torch.device("cpu")
shapes = st.tuples(st.integers(1, 5), st.integers(1, 5))
parameters = st.lists(st.lists(shapes, min_size=1, max_size=3), min_size=1, max_size=5)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (3, 4, 9)])
def test_singular_values_come_close_to_one_and_vectors_stay(shape: tuple[int, ...]) -> None:
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, _, v = torch.linalg.svd(g, full_matrices=False)
    result = orthogonalize(g)
    core = u.mT @ result @ v.mT
    values = core.diagonal(dim1=-2, dim2=-1)
    assert (values > 0.6).all()
    assert (values < 1.25).all()
    torch.testing.assert_close(core, torch.diag_embed(values), atol=1e-8, rtol=0)


@given(parameters, st.integers(0, 3), st.integers(1, 5))
def test_every_element_is_held_once_and_without_zero_by_all(
    fused: list[list[Shape]], stage: int, world_size: int
) -> None:
    layout = Layout.of_zero(fused, stage=stage, world_size=world_size)
    starts = layout.starts()
    for index, (first, end) in enumerate(pairwise(starts)):
        holders = [layout.cut(starts, index, rank) for rank in range(world_size)]
        places = sorted(at + n for cut in holders for at, _, length in cut for n in range(length))
        copies = world_size if stage == 0 else 1
        assert places == sorted(list(range(end - first)) * copies)


def test_ranks_with_equal_shares_get_equal_work() -> None:
    layout = Layout.of_zero([[(8, 8)]] * 12, stage=3, world_size=4)
    assert [layout.owners().count(rank) for rank in range(4)] == [3, 3, 3, 3]


def test_a_matrix_goes_to_a_rank_that_holds_much_of_it() -> None:
    layout = Layout.of_zero([[(2, 4)], [(2, 4)], [(2, 4)], [(2, 4)]], stage=1, world_size=2)
    assert layout.owners() == [0, 0, 1, 1]


def test_a_vector_of_another_length_than_the_layouts_is_refused() -> None:
    matrices = SharedMatrices(Layout.of_zero([[(2, 3)]], stage=1, world_size=1), rank=0)
    with pytest.raises(AssertionError):
        matrices.orthogonalize_(torch.zeros(7), device=CPU, dtype=torch.float32)


def test_fused_matrices_come_apart_and_tall_ones_move_further() -> None:
    generator = torch.Generator().manual_seed(1)
    tall, wide = torch.randn(8, 2, generator=generator), torch.randn(2, 8, generator=generator)
    part = torch.cat([tall.view(-1), wide.view(-1)])
    layout = Layout.of_zero([[(8, 2), (2, 8)]], stage=1, world_size=1)
    SharedMatrices(layout, rank=0).orthogonalize_(part, device=CPU, dtype=torch.float32)
    torch.testing.assert_close(part[:16].view(8, 2), 2 * orthogonalize(tall))
    torch.testing.assert_close(part[16:].view(2, 8), orthogonalize(wide))
