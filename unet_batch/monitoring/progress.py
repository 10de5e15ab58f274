"""The live view of a Job on a terminal; a plain line now and then where there is none.

Watching must never break what is watched: the first failure to draw silences the display
and the Job goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from unet_batch.monitoring.events import Event, NetworkDerived, Outcome, StoppedEarly, Warned
from unet_batch.monitoring.tally import Progress, Tally

LINE_EVERY_S = 30.0
"""Seconds between two lines where nobody looks live: a log of hours stays readable."""

REFRESH_PER_SECOND = 4


class JobConsole(Console):
    """A Console on stderr whose reader may go away: rich would end the process (and the Job)."""

    def on_broken_pipe(self) -> None:
        """Fall silent."""
        self.quiet = True


class ProgressDisplay:
    """A Listener that shows one Job on stderr while its context is open.

    Live on a terminal; else a line every `LINE_EVERY_S` seconds, while events come, and one
    at the end.
    """

    def __init__(
        self,
        *,
        console: JobConsole | None = None,
        tally: Tally | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or JobConsole(stderr=True)
        self._tally = tally or Tally(clock)
        self._clock = clock
        self._live: Live | None = None
        self._last_line = clock()
        self._is_broken = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._guarded(self._start_live)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._guarded(self._stop)

    def __call__(self, event: Event) -> None:
        """Add one event; never raises."""
        self._guarded(lambda: self._add(event))

    def _add(self, event: Event) -> None:
        self._tally(event)
        for text in _lines_of(event):
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        if self._live is None and self._clock() - self._last_line >= LINE_EVERY_S:
            self._print_line()

    def _start_live(self) -> None:
        self._live = Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=REFRESH_PER_SECOND,
            transient=True,
        )
        self._live.start()

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        if self._tally.progress().kind:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = self._clock()
        line = describe(self._tally.progress())
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        # Runs in Live's thread, where an exception would be lost or tear the screen.
        try:
            return draw(self._tally.progress())
        except Exception as error:  # noqa: BLE001 - watching must never break what is watched
            return Text(f"progress display failed: {error}")

    def _guarded(self, act: Callable[[], None]) -> None:
        if self._is_broken:
            return
        try:
            act()
        except Exception:  # noqa: BLE001 - watching must never break what is watched
            self._is_broken = True


def _lines_of(event: Event) -> list[str]:
    """What is printed as soon as it happens, and stays."""
    match event:
        case Warned():
            return [f"warning: {event.text}"]
        case StoppedEarly():
            best = f"{event.dice:.3f} of step {event.best_step}"
            return [f"stopped early at step {event.step}: no validation beat Dice {best}"]
        case NetworkDerived():
            return [f"network: {reason}" for reason in event.reasons]
        case _:
            return []


def describe(progress: Progress) -> str:
    """One line for a log: `segment: 12 of 40 volumes, 1 quarantined, 3.4 Mvoxel/s, ...`."""
    parts = [*_counts(progress), *_quality(progress)]
    if progress.num_voxels:
        parts.append(format_rate(progress.voxels_per_second))
    if progress.is_finished:
        parts.append(f"took {format_duration(progress.elapsed_s)}")
    elif progress.seconds_left is not None:
        parts.append(f"{format_duration(progress.seconds_left)} left")
    return f"{progress.kind}: {', '.join(parts)}" if parts else progress.kind


def draw(progress: Progress) -> RenderableType:
    """The live view: what runs, how far it is, how fast, where the time goes, what failed."""
    name = " ".join(filter(None, (f"[bold]{escape(progress.kind)}[/]", escape(progress.model))))
    bar = ProgressBar(total=1.0, completed=progress.share_done or 0.0, pulse=_is_unknown(progress))
    head = Table.grid(padding=(0, 2), expand=True)
    head.add_column(no_wrap=True)
    head.add_column(ratio=1)
    head.add_column(justify="right", no_wrap=True)
    head.add_row(Text.from_markup(name), bar, _time(progress))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    for label, value in _facts(progress):
        facts.add_row(label, Text(value))
    for failure in progress.last_failures:
        facts.add_row(Text("failed", style="red"), Text(f"{failure.volume_id}: {failure.reason}"))
    return Group(head, facts)


def format_duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def format_rate(voxels_per_second: float) -> str:
    """`3.4 Mvoxel/s`, with the prefix that keeps one to three digits before the point."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if voxels_per_second >= factor:
            return f"{voxels_per_second / factor:.1f} {prefix}voxel/s"
    return f"{voxels_per_second:.0f} voxel/s"


def _is_unknown(progress: Progress) -> bool:
    return progress.share_done is None


def _time(progress: Progress) -> Text:
    share = "" if progress.share_done is None else f"{progress.share_done:4.0%}   "
    if progress.seconds_left is None:
        return Text(f"{share}{format_duration(progress.elapsed_s)} so far")
    return Text(f"{share}{format_duration(progress.seconds_left)} left")


def _facts(progress: Progress) -> list[tuple[str, str]]:
    is_counted = progress.volumes_left and progress.training is None
    left = [f"{progress.volumes_left} left"] if is_counted else []
    rows = [("so far", ", ".join([*_counts(progress), *left]))]
    if progress.num_voxels:
        rows.append(("speed", format_rate(progress.voxels_per_second)))
    if quality := _quality(progress):
        rows.append(("quality", ", ".join(quality)))
    if progress.replicas_busy or progress.replicas_idle or progress.replicas_lost:
        rows.append(("Replicas", _replicas(progress)))
    if progress.in_flight:
        rows.append(
            ("in flight", ", ".join(f"{k} {n}" for k, n in progress.in_flight.items() if n))
        )
    if shares := _stage_shares(progress):
        rows.append(("time goes to", shares))
    if len(progress.causes) > 1:
        causes = sorted(progress.causes.items(), key=lambda one: -one[1])
        rows.append(("failures", ", ".join(f"{n} {cause}" for cause, n in causes)))
    return [(label, value) for label, value in rows if value]


def _counts(progress: Progress) -> list[str]:
    counts = []
    if progress.num_done or (progress.num_volumes and not progress.training):
        counts.append(f"{progress.num_done} of {progress.num_volumes} volumes")
    others: tuple[Outcome, ...] = ("skipped", "quarantined", "cancelled")
    counts += [f"{n} {o}" for o in others if (n := progress.outcomes.get(o, 0))]
    if step := progress.training:
        counts.append(f"step {step.step} of {step.num_steps}")
    return counts


def _quality(progress: Progress) -> list[str]:
    parts = []
    if progress.training:
        parts.append(f"loss {progress.training.loss:.3f}")
    if progress.validated:
        parts.append(f"validation Dice {progress.validated.dice:.3f}")
    if progress.mean_dice is not None:
        parts.append(f"mean Dice {progress.mean_dice:.3f}")
    return parts


def _replicas(progress: Progress) -> str:
    lost = f", {progress.replicas_lost} lost" if progress.replicas_lost else ""
    return f"{progress.replicas_busy} busy, {progress.replicas_idle} idle{lost}"


def _stage_shares(progress: Progress) -> str:
    total = sum(progress.stage_seconds.values())
    if total <= 0:
        return ""
    shares = {stage: seconds / total for stage, seconds in progress.stage_seconds.items()}
    return ", ".join(f"{s} {share:.0%}" for s, share in shares.items() if share >= 0.005)
