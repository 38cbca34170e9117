"""The admin routes: everything that is going on, and the size of the pool."""

from fastapi import APIRouter, Depends

from orchestrator import celery_app
from orchestrator.api.problems import PROBLEM_RESPONSES
from orchestrator.api.schemas import AgentInfo, ResizeReply, ResizeRequest, SessionsReply
from orchestrator.api.services import ServicesDep, require_admin
from orchestrator.api.sessions import describe

router = APIRouter(prefix="/api", tags=["admin"], dependencies=[Depends(require_admin)], responses=PROBLEM_RESPONSES)


@router.get("/sessions", summary="List sessions and agents", response_model_exclude_none=True)
async def sessions(parts: ServicesDep) -> SessionsReply:
    """Return the newest 200 kept sessions and every living agent."""
    agents = await parts.store.agents()
    health = await parts.store.health([agent.id for agent in agents])
    now = await parts.store.now()
    return SessionsReply(
        sessions=[describe(session) for session in await parts.store.sessions()],
        agents=[
            AgentInfo(
                agent_id=agent.id,
                pid=agent.pid,
                status=agent.state,
                node=agent.node,
                session_id=agent.session_id,
                memory=int(found["memory_bytes"]) if found.get("memory_bytes") else None,
                health=found.get("status"),
                age=round(now - agent.created_at, 1),
            )
            for agent, found in zip(agents, health, strict=True)
        ],
    )


@router.post("/pool/resize", summary="Resize the pool")
async def resize(body: ResizeRequest, parts: ServicesDep) -> ResizeReply:
    """Keep `size` warm agents from now on. Grows and shrinks at once; an agent in a session is never touched."""
    before = await parts.store.counts()
    await parts.store.set_target(body.size)
    await parts.publish(celery_app.REFILL, expires=25)
    message = f"The pool goes from {before['pool']} to {body.size}."
    return ResizeReply(target=body.size, pool=before["pool"], message=message)
