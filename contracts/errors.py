"""The error tree. Every error that a person sees has a code, a message and a remedy.

VarietError
├── BadRequest            400  the request cannot be understood
├── Unauthorized          401  no key, or a wrong one
├── Forbidden             403  known caller, not allowed
├── NotFound              404  no such thing, or not yours
├── Conflict              409  the thing is in another state
├── Unprocessable         422  well-formed, but a rule refuses it
├── ToolError             422  a tool refused or failed
├── EngineError           502  the engine answered with an error, or broke off
├── Unavailable           503  a part that this needs is not up
├── EngineTimeout         504  the engine did not answer in time
├── SettingsError         500  a setting is wrong; raised at start
└── StoreError            500  the store is damaged, full or of another version
    └── StoreUnavailable  503  its server does not answer; it may be back in a moment
"""

from typing import Any

from contracts.base import Message


class ErrorBody(Message):
    code: str
    message: str
    remedy: str


class ErrorEnvelope(Message):
    """What every error answer looks like, except on OpenAI routes."""

    error: ErrorBody


class VarietError(Exception):
    """`code` is for programs, `message` names the key and value at fault, `remedy` what to do."""

    status = 500

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy

    def body(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "remedy": self.remedy}

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}"


class BadRequest(VarietError):
    status = 400


class Unauthorized(VarietError):
    status = 401


class Forbidden(VarietError):
    status = 403


class NotFound(VarietError):
    status = 404


class Conflict(VarietError):
    status = 409


class Unprocessable(VarietError):
    status = 422


class ToolError(VarietError):
    status = 422


class EngineError(VarietError):
    status = 502


class Unavailable(VarietError):
    status = 503


class EngineTimeout(VarietError):
    status = 504


class SettingsError(VarietError):
    status = 500


class StoreError(VarietError):
    status = 500


class StoreUnavailable(StoreError):
    status = 503
