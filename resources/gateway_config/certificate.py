"""Whether the gateway serves by the certificate and key that lie on disk: it loads them once, when it starts. Blocking."""

from __future__ import annotations

from gateway.wire.json5 import Node
from gateway.wire.tls import MAX_FILE_BYTES, files_hash
from reconciler.files import open_regular
from reconciler.host import Host
from reconciler.model import Condition, Status
from resources.gateway_config.edit import scalar_at
from resources.service.spec import tls_files

_FIELDS = ("gateway.tls.enabled", "gateway.tls.certPath", "gateway.tls.keyPath")


def outdated(root: Node | None, loaded: str | None, host: Host) -> Condition | None:
    """What is owed to files that changed since the gateway loaded them; None where that is nothing.

    `root` is openclaw.json, which names the files; `loaded` the hash that the gateway told, None where it told none.
    """
    files = tls_files({path: scalar_at(root, path) for path in _FIELDS}, host)
    if loaded is None or len(files) != 2:
        return None
    read = []
    for _field, path in files:
        try:
            with open_regular(path) as file:
                read.append(file.read(MAX_FILE_BYTES))
        except OSError as err:
            text = f"cannot read {path}: {err.strerror}; the gateway serves by what it loaded, and its next start fails"
            return _condition("CertificateUnreadable", text)
    if files_hash(*read) == loaded:
        return None
    (_, cert), (_, key) = files
    if (reason := _misfit(cert, key)) is not None:
        text = f"{key} cannot be used with {cert} ({reason}); the gateway serves by what it loaded, and its next start fails"
        return _condition("CertificateUnusable", text)
    text = f"the gateway serves by an earlier content of {cert} or {key}"
    return _condition("CertificateRenewed", f"{text}; `openclaw service restart` takes over what lies there now")


def _misfit(cert: str, key: str) -> str | None:
    """Why no gateway can serve by these two: half of a renewal, most often."""
    # Loaded here: only a certificate that was renewed is looked at so closely.
    import ssl

    try:
        # An empty password, as the gateway: an encrypted key is an error and never a question on a terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError, OSError) as err:
        return f"{err}"
    return None


def _condition(reason: str, message: str) -> Condition:
    return Condition(type="Outdated", status=Status.TRUE, reason=reason, message=message)
