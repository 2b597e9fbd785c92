"""One tree of errors. Each knows TGI's `error_type` and HTTP status, and says what to do.

EngineError
├── InvalidRequest         the caller asked for something that cannot be done (422)
│   └── TemplateError      the chat template is missing or refused the messages
├── Overloaded             no permit, or the queue is full (429)
├── GenerationFailed       this request failed inside the engine; others go on (424)
├── EngineDead             the engine process is gone or restarting (503)
└── StartError             the engine or server cannot start
    ├── ConfigError        a flag, environment variable or file holds a bad value
    ├── ModelNotFound      no such directory, repository, revision or file
    ├── ModelUnsupported   an architecture, format or option nothing here can run
    ├── WeightsError       missing, unexpected, truncated or corrupt tensors
    ├── TokenizerError     a tokenizer that is missing or cannot be read
    └── AddressInUse       the address to listen on is taken
"""

from http import HTTPStatus
from typing import ClassVar


class EngineError(Exception):
    """Base of all errors with a message that a user can act on."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    error_type: ClassVar[str] = "generation"
    exit_code: ClassVar[int] = 1


class InvalidRequest(EngineError):
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    error_type = "validation"


class TemplateError(InvalidRequest):
    error_type = "template_error"


class Overloaded(EngineError):
    status = HTTPStatus.TOO_MANY_REQUESTS
    error_type = "overloaded"


class GenerationFailed(EngineError):
    status = HTTPStatus.FAILED_DEPENDENCY
    error_type = "generation"


class EngineDead(EngineError):
    status = HTTPStatus.SERVICE_UNAVAILABLE
    error_type = "unhealthy"
    exit_code = 70  # of a server whose engine could not be brought back


class StartError(EngineError):
    error_type = "start"


class ConfigError(StartError):
    exit_code = 2


class ModelNotFound(StartError):
    pass


class ModelUnsupported(StartError):
    pass


class WeightsError(StartError):
    pass


class TokenizerError(StartError):
    pass


class AddressInUse(StartError):
    pass


def start_error(kind: str, message: str) -> StartError:
    """Rebuild a start-up error that was sent by name from another process."""
    known: dict[str, type[StartError]] = {kind.__name__: kind for kind in StartError.__subclasses__()}
    return known.get(kind, StartError)(message)
