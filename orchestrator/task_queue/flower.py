"""How Flower counts what waits in our queues: by our client, for it reads a URL by rules of its own."""

from typing import Any

from flower.utils.broker import Broker, RedisBase

from orchestrator.config.redis_url import Address
from orchestrator.store.connection import connect
from orchestrator.task_queue.broker import ADDRESS


class Queues(RedisBase):  # type: ignore[misc]
    """Flower's view of the queues."""

    def __init__(self, where: Address) -> None:
        super().__init__("redis://", broker_options={})
        self.redis = connect(where, name="flower", max_connections=2)


def install() -> None:
    """Have Flower use it."""

    def choose(_: type, *__: object, broker_options: dict[str, Any], **___: object) -> Queues:
        return Queues(broker_options[ADDRESS])

    Broker.__new__ = choose
