"""The document that `openclaw init` writes: short, commented, and at work at once. Pure."""

from __future__ import annotations

import json


def init_text(token_file: str, *, port: int = 18789, time_zone: str | None = None) -> str:
    """A document for a first start: the built-in gateway on loopback, with the token that `token_file` holds.

    `token_file` is written down as it is given (relative to the document's directory, or absolute).
    """
    path = json.dumps(token_file, ensure_ascii=False)
    environment = f"  environment: {{TZ: {json.dumps(time_zone)}}}\n" if time_zone else ""
    return f"""\
# yaml-language-server: $schema=openclaw.schema.json
# Editors that read the line above complete and check by that file: `openclaw schema > openclaw.schema.json` writes it.
# What this host should run. Change a line, save, and `openclaw plan` says what would happen.
version: 1                     # mandatory, so that an empty or cut file never counts as a document

service:                       # what runs, and under whom
  runtime: builtin             # the gateway that comes with openclaw; `openclaw` is the npm package
  manager: embedded            # openclaw keeps it running by itself
{environment}
gateway:
  port: {port}                  # one port for WebSocket and HTTP
  bind: loopback               # only this machine; `lan` opens it to the network
  auth:
    mode: token
    token: {{file: {path}}}   # a reference: the token itself never stands here

logging:
  level: info
  retention:                   # what is older or larger is deleted; without this section nothing is
    age: 7d
    total: 1GiB
    files: 30
"""
