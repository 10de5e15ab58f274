"""Who has work, who has room for more, and who may go."""

from __future__ import annotations

from unet_batch.planning.messages import StepKey
from unet_batch.planning.plan import BlockKey
from unet_batch.planning.staff import Staff
from unet_batch.planning.underway import ChainsUnderWay


def staff_of(*names: str, least: int | None = None) -> Staff:
    staff = Staff(least)
    for name in names:
        staff.join(name)
    return staff


def bind(chains: ChainsUnderWay, replica: str | None) -> int:
    number = chains.begin(((BlockKey("v", 0, 0),),))
    chains[number].replica = replica
    chains.note(number)
    return number


def test_calls_are_counted_until_they_are_answered() -> None:
    staff = staff_of("a", "b")
    staff.ask("a", StepKey(0, 0))
    assert (staff.num_busy, staff.num_calls) == (1, 1)
    assert list(staff.with_room(1, ChainsUnderWay())) == ["b"]
    assert not staff.answered("b", StepKey(0, 0))
    assert staff.answered("a", StepKey(0, 0))
    assert not staff.answered("a", StepKey(0, 0))
    assert staff.leave("a") == []


def test_only_idle_replicas_go_and_only_when_no_chain_can_come_for_them() -> None:
    chains, staff = ChainsUnderWay(), staff_of("a", "b", "c", "d", least=1)
    bind(chains, "a")
    bind(chains, None)
    assert staff.dismiss(chains, is_drained=False) == []
    assert len(staff.dismiss(chains, is_drained=True)) == 2  # one of three is for the free Chain
    assert len(staff) == 2


def test_the_least_are_kept_and_all_where_no_number_is_said() -> None:
    assert staff_of("a", "b", least=2).dismiss(ChainsUnderWay(), is_drained=True) == []
    assert staff_of("a", "b").dismiss(ChainsUnderWay(), is_drained=True) == []
    assert staff_of("a", "b", least=0).dismiss(ChainsUnderWay(), is_drained=True) == ["a", "b"]


def test_those_too_many_end_what_they_began_and_go() -> None:
    chains, staff = ChainsUnderWay(), staff_of("a", "b", "c")
    number = bind(chains, "c")
    staff.most = 1
    assert list(staff.with_room(2, chains)) == ["a", "c"]
    assert staff.dismiss(chains, is_drained=False) == ["b"]
    chains.end(number)
    assert staff.dismiss(chains, is_drained=False) == ["c"]
