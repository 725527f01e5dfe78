"""Certificates for a host of `tests.beds.site`, good ones and some that do not serve."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.beds.site import Site


def certificate(site: Site, name: str = "one") -> tuple[Path, Path]:
    """A new certificate and its key."""
    key, cert = site.home / f"{name}.key", site.home / f"{name}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert, key


def mismatch(site: Site) -> tuple[Path, Path]:
    """A certificate whose key cannot be used: it belongs to another one."""
    return certificate(site, "one")[0], certificate(site, "two")[1]


def with_tls(site: Site, text: str, cert: Path, key: Path) -> str:
    """A document `text` with TLS by these files."""
    return text.replace(
        f"port: {site.port}\n", f"port: {site.port}\n  tls: {{enabled: true, cert: {cert}, key: {key}}}\n"
    )
