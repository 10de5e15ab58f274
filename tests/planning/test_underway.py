"""Chains under way: what is counted stays true, and what is asked for is found."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from unet_batch.planning.messages import StepKey
from unet_batch.planning.plan import BlockKey
from unet_batch.planning.underway import ChainsUnderWay


def chain(length: int) -> tuple[tuple[BlockKey, ...], ...]:
    return tuple((BlockKey("v", 0, number),) for number in range(length))


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 4))
def test_counts_are_those_of_the_chains(moves: list[int], length: int) -> None:
    chains = ChainsUnderWay()
    numbers = [chains.begin(chain(length)) for _ in range(3)]
    for step, move in enumerate(moves):
        one = chains[numbers[step % 3]]
        if move == 0 and one.wants_reading:
            one.reading.add(one.next_read)
            one.next_read += 1
        elif move == 1 and one.reading:
            one.read.add(one.reading.pop())
        elif move == 2 and one.wants_predicting:
            one.read.remove(one.next_predict)
            one.next_predict += 1
            one.replica = "r"
        elif move == 3 and one.next_predict > one.done:
            one.done += 1
        elif move == 4:
            one.rewind()
        chains.note(numbers[step % 3])
        all_of_them = [chains[number] for number in numbers]
        assert chains.num_held == sum(one.num_held for one in all_of_them)
        assert chains.num_reading == sum(len(one.reading) for one in all_of_them)
        assert chains.num_read == sum(len(one.read) for one in all_of_them)
        assert chains.has_ready == any(one.wants_predicting for one in all_of_them)
        assert chains.num_unbound == sum(one.replica is None for one in all_of_them)


def test_a_replica_gets_its_own_chain_before_a_free_one() -> None:
    chains = ChainsUnderWay()
    free, own = chains.begin(chain(2)), chains.begin(chain(2))
    for number in (free, own):
        chains[number].read.add(0)
        chains[number].next_read = 1
        chains.note(number)
    assert chains.step_for("r", is_idle=True) == StepKey(free, 0)
    chains[own].replica = "r"
    chains.note(own)
    assert chains.step_for("r", is_idle=True) == StepKey(own, 0)
    assert chains.step_for("other", is_idle=True) == StepKey(free, 0)
    chains.end(own)
    chains.end(free)
    assert (chains.num_held, chains.has_ready, len(chains)) == (0, False, 0)


def test_a_chain_that_lost_its_slab_begins_again_with_it() -> None:
    chains = ChainsUnderWay()
    one = chains[chains.begin(chain(4))]
    one.next_read, one.next_predict, one.done, one.replica = 3, 2, 1, "r"
    one.read = {2}
    assert one.rewind() == [1, 2]
    assert (one.replica, one.next_read, one.must_rebuild(1), one.must_rebuild(2)) == (
        None,
        1,
        True,
        False,
    )
