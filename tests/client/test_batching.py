import pytest
from vitriton._batching import batches


@pytest.mark.parametrize(
    ("sizes", "max_items", "max_bytes", "groups"),
    [
        ([], 4, 10, []),
        ([1, 1, 1], 4, 10, [[1, 1, 1]]),
        ([1, 1, 1, 1, 1], 2, 10, [[1, 1], [1, 1], [1]]),
        ([4, 6, 1], 4, 10, [[4, 6], [1]]),
        ([4, 7, 1], 4, 10, [[4], [7, 1]]),
        ([1, 99, 1], 4, 10, [[1], [99], [1]]),
        ([0, 0, 0], 1, 10, [[0], [0], [0]]),
    ],
)
def test_groups(sizes, max_items, max_bytes, groups):
    """Groups keep the order and both limits; what is too large for any group travels alone."""
    assert list(batches(sizes, lambda size: size, max_items=max_items, max_bytes=max_bytes)) == groups


def test_lazy():
    """No more is read than the next group needs."""
    read = []

    def items():
        for item in range(100):
            read.append(item)
            yield item

    next(batches(items(), lambda _: 1, max_items=3, max_bytes=100))
    assert read == [0, 1, 2, 3]
