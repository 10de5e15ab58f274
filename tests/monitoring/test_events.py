"""Events reach every listener, in order."""

from __future__ import annotations

from unet_batch.monitoring.events import Event, ReplicaLost, Scored, fan_out, ignore


def test_fan_out_tells_every_listener_in_turn() -> None:
    heard: list[tuple[str, Event]] = []
    tell = fan_out(lambda e: heard.append(("a", e)), ignore, lambda e: heard.append(("b", e)))
    events = [Scored("v", "liver", 0.5), ReplicaLost("gone")]
    for event in events:
        tell(event)
    assert heard == [(name, event) for event in events for name in "ab"]
