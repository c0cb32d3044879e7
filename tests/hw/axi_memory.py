"""A behavioural AXI memory for the Amaranth simulator: the timing of docs/isa.md, or random stalls."""

import random
from dataclasses import dataclass, field


@dataclass
class Burst:
    address: int
    beats: int
    accepted: int
    """Cycle."""
    done: int = 0


@dataclass
class Memory:
    """`present_...` sets the outputs of cycle t; `observe_...` takes what the cycle brought.

    With `seed`, every channel stalls at random and the latency varies; without, the contract is kept.
    `errors`: addresses of beats (reads) or bursts (writes) that answer SLVERR.
    """

    contents: bytearray
    beat_bytes: int
    burst_beats: int
    outstanding: int
    latency: int = 4
    interval: int = 1
    seed: int | None = None
    errors: frozenset[int] = frozenset()
    reads: list[Burst] = field(default_factory=list)
    writes: list[Burst] = field(default_factory=list)
    responses: list[tuple[int, bool]] = field(default_factory=list)
    most_open: int = 0
    bursts: int = 0
    written: int = 0
    """Beats."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.read_offer = 0
        self.write_offer = 0
        self.last_read = self.last_write = -1
        self.offering = False
        self.offered_response = False
        self.queued_beats: list[tuple[bytes, int, bool]] = []

    def _stalls(self) -> bool:
        return self.seed is not None and self.random.random() < 0.4

    # -- outputs ------------------------------------------------------------------------------------------

    def present_read(self, ctx, axi, t: int) -> None:
        ctx.set(axi.arready, not self._stalls())
        if not self.offering and self.reads and t >= self.read_offer and not self._stalls():
            self.offering = True
            burst = self.reads[0]
            address = burst.address + burst.done * self.beat_bytes
            ctx.set(axi.rdata, int.from_bytes(self.contents[address : address + self.beat_bytes], "little"))
            ctx.set(axi.rresp, 2 if address in self.errors else 0)
            ctx.set(axi.rlast, burst.done == burst.beats - 1)
        ctx.set(axi.rvalid, self.offering)

    def present_write(self, ctx, axi, t: int) -> None:
        ctx.set(axi.awready, not self._stalls())
        # The interval counts from beats of bursts that are not answered yet.
        idle = not (self.writes and self.writes[0].done) and not self.responses and not self.queued_beats
        ctx.set(axi.wready, (idle or t >= self.write_offer) and not self._stalls())
        if not self.offered_response and self.responses and t >= self.responses[0][0] and not self._stalls():
            self.offered_response = True
            ctx.set(axi.bresp, 2 if self.responses[0][1] else 0)
        ctx.set(axi.bvalid, self.offered_response)

    # -- inputs -------------------------------------------------------------------------------------------

    def _open(self, bursts: list[Burst], address: int, length: int, size: int, kind: int, t: int) -> None:
        beats = length + 1
        assert 1 << size == self.beat_bytes and kind == 1
        assert address % self.beat_bytes == 0
        assert beats <= self.burst_beats
        assert address // 4096 == (address + beats * self.beat_bytes - 1) // 4096, "crosses 4096 bytes"
        bursts.append(Burst(address, beats, t))
        self.bursts += 1

    def observe_read(self, v: dict[str, int], t: int) -> None:
        was_open = bool(self.reads)
        if v["rvalid"] and v["rready"]:
            assert self.reads
            burst = self.reads[0]
            burst.done += 1
            self.offering = False
            self.last_read = t
            self.read_offer = t + self.interval
            if burst.done == burst.beats:
                self.reads.pop(0)
                if self.reads:
                    self.read_offer = max(self.read_offer, self._first(self.reads[0]))
        if v["arvalid"] and v["arready"]:
            self._open(self.reads, v["araddr"], v["arlen"], v["arsize"], v["arburst"], t)
            if len(self.reads) == 1:
                first = self._first(self.reads[0])
                self.read_offer = max(first, self.last_read + self.interval) if was_open else first
        self.most_open = max(self.most_open, len(self.reads))
        assert len(self.reads) <= self.outstanding

    def _first(self, burst: Burst) -> int:
        extra = self.random.randrange(12) if self.seed is not None else 0
        return burst.accepted + self.latency + extra

    def observe_write(self, v: dict[str, int], t: int) -> None:
        if v["bvalid"] and v["bready"]:
            self.responses.pop(0)
            self.offered_response = False
        if v["awvalid"] and v["awready"]:
            self._open(self.writes, v["awaddr"], v["awlen"], v["awsize"], v["awburst"], t)
        if v["wvalid"] and v["wready"]:
            self.write_offer = t + self.interval
            data = v["wdata"].to_bytes(self.beat_bytes, "little")
            self.queued_beats.append((data, v["wstrb"], bool(v["wlast"])))
            self.written += 1
        while self.writes and self.queued_beats:
            data, strobe, last = self.queued_beats.pop(0)
            burst = self.writes[0]
            address = burst.address + burst.done * self.beat_bytes
            for i in range(self.beat_bytes):
                if strobe >> i & 1:
                    self.contents[address + i] = data[i]
            burst.done += 1
            assert last == (burst.done == burst.beats), "WLAST"
            if last:
                extra = self.random.randrange(12) if self.seed is not None else 0
                self.responses.append((t + self.latency + extra, burst.address in self.errors))
                self.writes.pop(0)
        self.most_open = max(self.most_open, len(self.writes) + len(self.responses))
        assert len(self.writes) + len(self.responses) <= self.outstanding


READ_CHANNEL = ["arvalid", "arready", "araddr", "arlen", "arsize", "arburst", "rvalid", "rready"]
WRITE_CHANNEL = ["awvalid", "awready", "awaddr", "awlen", "awsize", "awburst"]
WRITE_CHANNEL += ["wvalid", "wready", "wdata", "wstrb", "wlast", "bvalid", "bready"]


def settle(channel: list[str], values: list) -> dict[str, int]:
    """Sampled values by name."""
    return dict(zip(channel, (int(v) for v in values), strict=True))
