"""Who may call what: roles first, then scopes. Pure data and one question; nothing of connections or methods' work."""

from __future__ import annotations

from collections.abc import Collection

OPERATOR = "operator"
NODE = "node"
ROLES = (OPERATOR, NODE)

ADMIN = "operator.admin"
READ = "operator.read"
WRITE = "operator.write"
APPROVALS = "operator.approvals"
PAIRING = "operator.pairing"

NODE_METHODS = frozenset({"node.invoke.result", "node.event", "skills.bins"})

_BY_SCOPE: dict[str, str] = {
    READ: "health logs.tail channels.status status usage.status usage.cost tts.status tts.providers models.list agents.list "
    "agent.identity.get skills.status voicewake.get sessions.list sessions.preview cron.list cron.status cron.runs "
    "system-presence last-heartbeat node.list node.describe chat.history config.get talk.config",
    WRITE: "send agent agent.wait wake talk.mode tts.enable tts.disable tts.convert tts.setProvider voicewake.set "
    "node.invoke chat.send chat.abort browser.request",
    APPROVALS: "exec.approval.request exec.approval.waitDecision exec.approval.resolve",
    PAIRING: "node.pair.request node.pair.list node.pair.approve node.pair.reject node.pair.verify device.pair.list "
    "device.pair.approve device.pair.reject device.token.rotate device.token.revoke node.rename",
}
# Everything that stands in no list, unknown names included, is for admin alone.
SCOPE_OF: dict[str, str] = {method: scope for scope, methods in _BY_SCOPE.items() for method in methods.split()}

# Ours, beyond the real product: it applies what the operator already wrote and answers what is in force, so reading
# rights would be too little (it acts) and admin would shut out the reconciler's plain token connection on no ground.
SCOPE_OF["config.reload"] = WRITE


def refusal(method: str, role: str, scopes: Collection[str]) -> str | None:
    """Why this caller may not call `method`, in the real product's words, or None when it may."""
    if role == NODE:
        return None if method in NODE_METHODS else f"unauthorized role: {role}"
    if method in NODE_METHODS:
        return f"unauthorized role: {role}"
    if ADMIN in scopes:
        return None
    needed = SCOPE_OF.get(method, ADMIN)
    if needed in scopes or (needed == READ and WRITE in scopes):
        return None
    return f"missing scope: {needed}"
