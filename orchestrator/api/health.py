"""Health: for people (`/api/health`), for restarts (`/livez`), for load balancers (`/readyz`)."""

from fastapi import APIRouter

from orchestrator import __version__
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.api.schemas import HealthReply, Reply, example
from orchestrator.api.services import ServicesDep
from orchestrator.errors import HostUnavailable

router = APIRouter(tags=["health"], responses=PROBLEM_RESPONSES)


class Alive(Reply):
    """The process answers."""

    model_config = example(success=True)


@router.get("/livez", summary="Is the api alive?")
async def livez() -> Alive:
    """Answer as long as the api's event loop turns."""
    return Alive()


@router.get("/readyz", summary="Can this node serve a start?")
async def readyz(parts: ServicesDep) -> Alive:
    """Answer 200 when Redis answers and a node with an agent host lives, 503 otherwise."""
    await parts.store.ping()
    if not any(node.get("host") == "1" for node in (await parts.store.nodes()).values()):
        raise HostUnavailable("No node with an agent host and a Celery worker lives.", retry_after=5)
    return Alive()


@router.get("/api/health", summary="What the node knows of itself")
async def health(parts: ServicesDep) -> HealthReply:
    """Return counts, latencies and, in words, what is not as it should be."""
    latency = await parts.store.ping()
    counts = await parts.store.counts()
    nodes = await parts.store.nodes()
    stats = {name: float(value) for name, value in (await parts.store.pool_stats()).items()}
    queued = counts.pop("celery")
    warnings = []
    if not nodes:
        warnings.append("no Celery worker has reported within 30 s: misses and refills wait")
    warnings += [f"node {name} has no agent host" for name, fields in nodes.items() if fields.get("host") != "1"]
    if counts["target"] and not counts["pool"] and not counts["booting"]:
        warnings.append("the pool is empty and nothing is booting")
    if cause := await parts.store.boot_error():
        warnings.append(f"the last agent did not boot: {cause}")
    if queued > 20:
        warnings.append(f"{queued} Celery tasks are waiting")
    return HealthReply(
        status="degraded" if warnings else "ok",
        version=__version__,
        sessions=counts | {"max": parts.settings.max_sessions},
        redis={"ok": True, "latencyMs": round(latency * 1000, 2)},
        celery={"queue": queued},
        nodes=nodes,
        stats=stats,
        warnings=warnings,
    )
