"""The answer to a request that fails."""

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.api.schemas.health import WarningCode


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "success": False, "type": "about:blank", "title": "Too Many Requests", "status": 429,
                    "code": "rate_limited", "instance": "/api/session/start", "retryAfter": 4,
                    "requestId": "0f7c2c1be2a44a5cb1c3a9d2a4e1f6b7",
                    "detail": "More than 10 starts a minute from this address; try again in 4 s.",
                }
            ]
        }
    )  # fmt: skip
    success: bool = False
    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="For people. Without internal details, except for the admin token.")
    code: str = Field(description="For programs: docs/errors.md lists them.")
    instance: str
    retryAfter: int | None = None
    requestId: str | None = Field(default=None, description="As in X-Request-Id; the details in the log have it.")
    errors: list[FieldError] | None = Field(default=None, description="Of a malformed request: each field's error.")
    warningCodes: list[WarningCode] | None = Field(
        default=None, description="For the admin token: the warnings within `detail`, as in `GET /api/health`."
    )
