"""Everything the orchestrator reads from and writes to Redis, one method per operation."""

from orchestrator.store.agents import Agents
from orchestrator.store.measured import Measured
from orchestrator.store.nodes import Nodes
from orchestrator.store.pool import Pool
from orchestrator.store.rooms import SessionRooms
from orchestrator.store.sessions import Sessions
from orchestrator.store.upkeep import Upkeep


class Store(Sessions, SessionRooms, Pool, Agents, Nodes, Measured, Upkeep):
    """All access to Redis. Raises `StoreUnavailable` within twice `patience` seconds when Redis does not answer."""
