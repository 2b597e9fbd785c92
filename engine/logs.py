"""How the server logs: lines for people, or with --json-output one JSON object a line, of the shape TGI's have."""

import json
import logging
import os
import sys
from datetime import UTC, datetime

from engine.errors import ConfigError

LEVELS = {"trace": "DEBUG", "debug": "DEBUG", "info": "INFO", "warn": "WARNING", "warning": "WARNING", "error": "ERROR"}


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        entry = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": "WARN" if record.levelname == "WARNING" else record.levelname,
            "fields": {"message": message},
            "target": record.name,
        }
        return json.dumps(entry, ensure_ascii=False)


def configure_logging(*, as_json: bool) -> None:
    """Log to standard error from the level in LOG_LEVEL on. Raises ConfigError on a level there is not."""
    name = os.environ.get("LOG_LEVEL") or "info"
    if name.lower() not in LEVELS:
        raise ConfigError(f"environment LOG_LEVEL: '{name}' is not one of: {', '.join(LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if as_json else plain)
    logging.basicConfig(level=LEVELS[name.lower()], handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.root.level))  # it tells of its own start and end
