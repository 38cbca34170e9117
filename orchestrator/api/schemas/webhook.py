"""The answer to a webhook."""

from typing import Literal

from pydantic import Field

from orchestrator.api.schemas.base import Reply, example


class WebhookReply(Reply):
    """What became of a webhook."""

    model_config = example(success=True, result="recorded")
    result: Literal["recorded", "foreign", "replayed", "stale"] = Field(
        description="`foreign`: of a room that is not ours; `replayed`: was recorded before; `stale`: 10 minutes old."
    )
