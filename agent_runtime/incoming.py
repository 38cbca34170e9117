"""Limits the data that a caller may send to the agent: streams, packets, RPC calls. Audio has a fixed rate.

LiveKit drops data that has no handler. All other data is queued without a limit, by LiveKit and by handlers that keep
it, and a compressed stream may unpack to a thousand times its size. Therefore one stream has a maximum size, and all
data is counted as it arrives, on LiveKit's own thread. A caller who sends too much ends the call.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from livekit import rtc
from livekit.rtc._ffi_client import FfiClient

from agent_runtime.context import AgentContext
from orchestrator.reasons import because

#: Largest stream, unpacked.
STREAM_BYTES = 5 * 2**20
#: Bytes for which the smallest message counts.
MESSAGE_BYTES = 1024
#: Seconds in which an empty budget fills again.
REFILL_SECONDS = 600.0

#: Options with which an agent joins its room.
# guard: stream-bytes
OPTIONS = rtc.RoomOptions(auto_subscribe=True, data_stream=rtc.DataStreamOptions(max_payload_byte_length=STREAM_BYTES))
_ROOM_EVENTS = frozenset(
    "data_packet_received byte_stream_opened text_stream_opened chat_message transcription_received "
    "participant_attributes_changed participant_metadata_changed participant_name_changed data_track_published".split()
)
_EVENTS = frozenset(
    "byte_stream_reader_event text_stream_reader_event rpc_method_invocation data_track_stream_event".split()
)


class Budget:
    """The bytes that may still arrive. It starts full and refills slowly."""

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._size, self._left, self._clock = float(size), float(size), clock
        self._at = clock()

    def spend(self, size: int) -> bool:
        """Take one message from the budget; returns whether there was enough."""
        now = self._clock()
        self._left = min(self._size, self._left + (now - self._at) * self._size / REFILL_SECONDS)
        self._at = now
        self._left -= max(size, MESSAGE_BYTES)
        return self._left >= 0


def size_of(event: Any) -> int:
    """Return how many bytes of a LiveKit event the caller has chosen; 0 for LiveKit's own events."""
    kind = event.WhichOneof("message")
    if kind == "room_event":
        room_event = event.room_event.WhichOneof("message")
        if room_event not in _ROOM_EVENTS:
            return 0
        size: int = event.ByteSize()
        if room_event == "data_packet_received":
            # The event contains only the address of the data.
            size += event.room_event.data_packet_received.user.data.data.data_len
        return size
    return int(event.ByteSize()) if kind in _EVENTS else 0


def watch(context: AgentContext, megabytes: int) -> None:
    """End the session if its caller sends more data than that."""
    budget, loop = Budget(megabytes * 2**20), asyncio.get_running_loop()
    over = False

    def count(event: Any) -> bool:
        nonlocal over
        size = size_of(event)
        if size and not over and not budget.spend(size):
            over = True
            # guard: caller-traffic
            loop.call_soon_threadsafe(_end, context)
        return False  # nothing is queued for this listener

    FfiClient.instance.queue.subscribe(loop, filter_fn=count)


def _end(context: AgentContext) -> None:
    reason = because("too_much_data")
    context.log.warning("%s: the session ends", reason.text)
    context.leave(reason)
