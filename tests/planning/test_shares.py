"""How Jobs divide a cluster: nobody starves, nothing that somebody wants is left."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from unet_batch.planning.shares import Claim, allot

claims = st.lists(
    st.builds(
        Claim,
        job=st.integers(0, 999).map(str),
        wanted=st.integers(1, 20),
        capacity=st.integers(1, 16),
        priority=st.integers(-1, 1),
        share=st.floats(0.1, 10),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda claim: claim.job,
)


def test_a_job_alone_gets_what_it_wants_and_the_cluster_holds() -> None:
    assert allot([Claim("a", wanted=4, capacity=8)]) == {"a": 4}
    assert allot([Claim("a", wanted=9, capacity=8)]) == {"a": 8}


def test_equal_jobs_share_by_weight_and_what_one_leaves_goes_to_the_others() -> None:
    both = [Claim("a", 8, 8, share=1), Claim("b", 8, 8, share=3)]
    assert allot(both) == {"a": 2, "b": 6}
    modest = Claim("c", 1, 8)
    assert allot([*both, modest]) == {"a": 2, "b": 5, "c": 1}
    assert allot([Claim("a", 2, 8), Claim("b", 8, 8)]) == {"a": 2, "b": 6}


def test_a_higher_priority_goes_first_and_the_lower_keeps_one() -> None:
    assert allot([Claim("low", 8, 8), Claim("high", 8, 8, priority=5)]) == {"high": 7, "low": 1}


def test_replicas_of_other_sizes_take_their_part_of_the_cluster() -> None:
    small, large = Claim("small", 16, 16), Claim("large", 4, 4)
    given = allot([small, large])
    assert given["small"] / 16 + given["large"] / 4 <= 1.0
    assert given == {"small": 8, "large": 2}


@given(claims)
def test_everyone_gets_one_nobody_more_than_wanted_and_the_cluster_is_not_overfull(
    wanted: list[Claim],
) -> None:
    given = allot(wanted)
    assert all(1 <= given[one.job] <= one.wanted for one in wanted)
    beyond = sum((given[one.job] - 1) / one.capacity for one in wanted)
    least = sum(1 / one.capacity for one in wanted)
    assert beyond == 0 or beyond + least <= 1 + 1e-6
