"""Sources take turns; each one's items stay in order."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from p2ptrain.net.fair import FairQueue


@given(st.lists(st.sampled_from("abc"), max_size=60))
def test_nothing_is_lost_and_each_source_keeps_its_order(sources: list[str]) -> None:
    queue, expected = FairQueue[tuple[str, int]](), defaultdict[str, list[int]](list)
    for number, source in enumerate(sources):
        queue.put(source, (source, number))
        expected[source].append(number)
    assert {source: queue.count(source) for source in expected} == {
        source: len(numbers) for source, numbers in expected.items()
    }
    taken = defaultdict[str, list[int]](list)
    while queue:
        source, number = queue.take()
        taken[source].append(number)
    assert taken == expected


@given(st.integers(1, 50), st.integers(1, 5))
def test_an_item_waits_for_at_most_one_of_each_other_source(crowd: int, sources: int) -> None:
    queue = FairQueue[str]()
    for source in range(sources):
        for _ in range(crowd):
            queue.put(f"crowd {source}", "crowd")
    queue.put("one", "one")
    waited = 0
    while queue.take() != "one":
        waited += 1
    assert waited <= sources
    assert queue.count("one") == 0
