"""A Railway project with one orchestrator and its Redis: `railway config plan`, then `railway config apply`.

`preserve()` keeps the values that are set in Railway: no secret is in this file (docs/deploy.md, "Railway").
deploy/railway/template.json describes the same project for the one-click template; a test compares the two.
"""

from typing import Any

from railway_sdk import define_railway, image, preserve, project, service, volume

PORT = 8080
#: Seconds for which calls continue when a deploy replaces the container.
DRAIN_SECONDS = 120
#: Between SIGTERM and SIGKILL: the drain, its margin, and what the programs need to stop (operations/kill_window.py).
DRAINING_SECONDS = 150
#: Railway calls /readyz, which is 200 once the new container has had a warm agent of its own, and sends SIGTERM to the
#: old one so long after: by then the new one's share of the pool is full.
OVERLAP_SECONDS = 30
HEALTHCHECK_SECONDS = 120

#: Written to the end, and to a volume: the sessions and the queue outlive a redeploy of Redis.
REDIS = (
    '/bin/sh -c "rmdir /data/lost+found 2>/dev/null; exec docker-entrypoint.sh valkey-server --dir /data '
    "--appendonly yes --save '' --maxmemory-policy noeviction --requirepass $REDIS_PASSWORD\""
)
#: A service that sleeps has no warm agents. A fatal program ends the container with an error, and Railway, which looks
#: at /readyz during a deploy only, starts it again.
ALWAYS_ON = {"restartPolicyType": "ON_FAILURE", "restartPolicyMaxRetries": 10, "sleepApplication": False}

SET_IN_RAILWAY = (
    "LIVEKIT_URL LIVEKIT_API_KEY LIVEKIT_API_SECRET LIVEKIT_PUBLIC_URL ADMIN_TOKEN API_KEYS CORS_ORIGINS AGENT_ENV "
    "ALERT_WEBHOOK_URL ALERT_WEBHOOK_SECRET OPENAI_API_KEY DEEPGRAM_API_KEY CARTESIA_API_KEY ELEVEN_API_KEY "
    "ANTHROPIC_API_KEY GOOGLE_API_KEY"
).split()


@define_railway
def main(ctx: Any = None) -> Any:
    """Return the project."""
    data = volume("redis-data")
    redis = service(
        "Redis",
        source=image("valkey/valkey:9.1.2"),
        start=REDIS,
        deploy=ALWAYS_ON | {"drainingSeconds": 10},
        volumeMounts={"/data": data},
        env={
            "REDIS_PASSWORD": preserve(),
            "REDIS_URL": "redis://default:${{REDIS_PASSWORD}}@${{RAILWAY_PRIVATE_DOMAIN}}:6379/0",
            "RAILWAY_DEPLOYMENT_DRAINING_SECONDS": "10",
        },
    )
    orchestrator = service(
        "Orchestrator",
        build={"builder": "DOCKERFILE", "dockerfilePath": "Dockerfile.orchestrator"},
        healthcheck="/readyz",
        healthcheckTimeout=HEALTHCHECK_SECONDS,
        deploy=ALWAYS_ON | {"drainingSeconds": DRAINING_SECONDS, "overlapSeconds": OVERLAP_SECONDS},
        env={name: preserve() for name in SET_IN_RAILWAY}
        | {
            "REDIS_URL": redis.env.REDIS_URL,
            "AGENT_NAME": "voice-agent",
            "AGENT_MODULE": "agents/voice.py",
            "POOL_TARGET": "3",
            "MAX_SESSIONS": "10",
            "QUEUE_LIMIT": "100",
            "RATE_LIMIT": "10/minute",
            "MAX_SESSION_SECONDS": "1800",
            "HOST": "0.0.0.0",
            "PORT": str(PORT),
            "FRONTEND_PORT": "0",
            "TRUSTED_PROXY": "railway",
            "LOG_FORMAT": "json",
            "DRAIN_SECONDS": str(DRAIN_SECONDS),
            # As variables too: a template carries no builder and no seconds, and the node reads its kill window here.
            "RAILWAY_DOCKERFILE_PATH": "Dockerfile.orchestrator",
            "RAILWAY_DEPLOYMENT_DRAINING_SECONDS": str(DRAINING_SECONDS),
            "RAILWAY_DEPLOYMENT_OVERLAP_SECONDS": str(OVERLAP_SECONDS),
            "RAILWAY_HEALTHCHECK_TIMEOUT_SEC": str(HEALTHCHECK_SECONDS),
        },
    )
    return project("Voice Agents", resources=[redis, data, orchestrator])
