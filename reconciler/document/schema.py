"""The document's schema: every section with its fields, defaults and descriptions. The door, and the only models.

Each section is validated by itself (`SECTIONS`), so that only the models of what a document declares are built, and mistakes
in one section do not hide those in another. What a section's models cannot say alone is in `rules`. The dumped form is
the canonical document (reconciler.desired): seconds, bytes, percent, defaults filled in.

Defaults of shared files: a field of `openclaw.json` is owned only when it is written, so its default here is None; the
value that holds without it is in the JSON Schema.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from reconciler.document.checked import (
    DATE,
    FLAG,
    AddressOrNull,
    CountOrNull,
    CronOrNull,
    Date,
    Duration,
    DurationOrNull,
    Flag,
    HttpUrl,
    Path,
    PathOrNull,
    PercentOrNull,
    Port,
    PortOrNull,
    Secret,
    SecretOrNull,
    SizeOrNull,
    Text,
    TextOrNull,
    Variable,
    Version,
    Window,
    WindowOrNull,
    choice,
    integer,
    number,
    or_null,
    size_from,
    text,
)

LEVELS: Final = ("silent", "fatal", "error", "warn", "info", "debug", "trace")


class Section(BaseModel):
    """What all models share: closed, strict, frozen, and built only when first used."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        defer_build=True,
        use_attribute_docstrings=False,
        protected_namespaces=(),
    )


def setting(
    default: Any, description: str, *, shown: Any = ..., examples: tuple[Any, ...] = (), names: str | None = None
) -> Any:
    """A field: `default` in canonical form; `shown` is the default as one would write it, for the JSON Schema.

    A field of a shared file has the default None (not declared, so not owned) and shows the value that holds there. `names` is
    what the names of a mapping look like, for the JSON Schema only: `rules` sees to them.
    """
    extra: dict[str, Any] = {"default": default if shown is ... else shown}
    if names is not None:
        extra["propertyNames"] = {"pattern": names}
    if examples:
        extra["examples"] = list(examples)
    return Field(default=default, description=description, json_schema_extra=extra)


def needed(description: str, *, examples: tuple[Any, ...] = ()) -> Any:
    """A field without a default."""
    return Field(description=description, json_schema_extra={"examples": list(examples)} if examples else None)


# -- service --


class Limits(Section):
    """What the service may use at most; null is no limit."""

    memory: SizeOrNull = setting(None, "Memory of all its processes together; never by RLIMIT_AS.", examples=("1GiB",))
    cpu: PercentOrNull = setting(None, "Processor time; 100% is one core.", examples=("150%",))
    files: Annotated[int | None, or_null(integer(64, 1_048_576))] = setting(
        None, "Open files of each process; a gateway that runs has it at once.", examples=(4096,)
    )


class Restart(Section):
    """When and how fast a service that ended is started again."""

    delay: Duration = setting(
        5, "Wait before a restart after an early exit; a shorter one also counts for a wait that has begun.", shown="5s"
    )
    max_delay: Duration = setting(300, "The longest that the wait grows to.", shown="5m")
    burst: Annotated[int, integer(1, 1000)] = setting(5, "Early exits in a window after which it is held down.")
    window: Duration = setting(300, "The time in which early exits are counted.", shown="300s")
    never_on_exit: list[Annotated[int, integer(0, 255, "an exit code")]] = Field(
        default=[78],
        description="Exit codes after which it is not started again: 78 is an invalid config.",
        json_schema_extra={"default": [78]},
    )


class Stop(Section):
    """How the service is ended."""

    drain: Duration = setting(30, "How long running work may take to end.", shown="30s")
    grace: Duration = setting(10, "From SIGTERM to SIGKILL.", shown="10s")


class OpenClawPackage(Section):
    """The real gateway's npm package; only for `runtime: openclaw`."""

    version: Annotated[
        str, text("an exact version such as 2026.2.17", pattern=r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.\-]+)?", limit=64)
    ] = needed("The exact version that must run.", examples=("2026.2.17",))
    command: list[Text] | None = setting(
        None,
        "The program and its first arguments, where it is not found by itself.",
        examples=(["node", "dist/index.js"],),
    )


class Service(Section):
    """What runs, and under whom."""

    runtime: Annotated[str, choice("builtin", "openclaw")] = setting(
        "builtin", "The gateway that ships with this program, or the real one from npm."
    )
    manager: Annotated[str, choice("auto", "embedded", "systemd", "systemd-system", "launchd", "schtasks")] = setting(
        "auto", "Who keeps it running; auto takes the platform's own where it is usable, else the embedded one."
    )
    state: Annotated[str, choice("running", "stopped")] = setting("running", "Whether it should run.")
    environment: dict[str, Variable] = setting(
        {},
        "Variables of the gateway's process: texts, or references to secrets.",
        names="^[A-Za-z_][A-Za-z0-9_]*$",
        examples=({"TZ": "Europe/Berlin", "ANTHROPIC_API_KEY": "${ANTHROPIC_API_KEY}"},),
    )
    limits: Limits = Field(default_factory=Limits, description="What it may use at most.")
    restart: Restart = Field(default_factory=Restart, description="When and how fast it is started again.")
    stop: Stop = Field(default_factory=Stop, description="How it is ended.")
    openclaw: OpenClawPackage | None = setting(None, "The npm package; only for runtime: openclaw.")


# -- gateway --


class GatewayAuth(Section):
    """Who may talk to the gateway."""

    mode: Annotated[str | None, or_null(choice("none", "token", "password", "trusted-proxy"))] = setting(
        None, "How clients prove themselves; none only on loopback.", shown="token"
    )
    token: SecretOrNull = setting(None, "The shared token.", examples=({"env": "OPENCLAW_GATEWAY_TOKEN"},))
    password: SecretOrNull = setting(None, "The shared password.", examples=({"file": "secrets/gateway-password"},))


class GatewayTls(Section):
    """TLS of the gateway's own port."""

    enabled: Annotated[bool | None, or_null(FLAG)] = setting(None, "Serve TLS.", shown=False)
    cert: PathOrNull = setting(None, "Path of the certificate chain (PEM); relative to the state directory.")
    key: PathOrNull = setting(None, "Path of the private key (PEM); relative to the state directory.")


class Gateway(Section):
    """The gateway's own configuration (openclaw.json); only what is written here is owned."""

    port: PortOrNull = setting(None, "The one port for WebSocket and HTTP.", shown=18789)
    bind: Annotated[str | None, or_null(choice("auto", "loopback", "lan", "tailnet", "custom"))] = setting(
        None, "Which addresses it listens on; custom takes `host`.", shown="loopback"
    )
    host: AddressOrNull = setting(None, "The address to listen on, for bind: custom.", examples=("192.168.1.10",))
    auth: GatewayAuth | None = setting(None, "Who may talk to it.")
    tls: GatewayTls | None = setting(None, "TLS of the port.")
    settings: dict[str, Any] = setting(
        {},
        "Any further key of openclaw.json, owned field by field. Secrets in it must be ${NAME}.",
        examples=({"agents": {"defaults": {"maxConcurrent": 4}}},),
    )


# -- logging and diagnostics --


class Console(Section):
    """What the gateway prints."""

    level: Annotated[str | None, or_null(choice(*LEVELS))] = setting(None, "Level of the console.", shown="info")
    style: Annotated[str | None, or_null(choice("pretty", "compact", "json"))] = setting(
        None, "Form of the console's lines.", shown="pretty"
    )


class Retention(Section):
    """How long log files are kept. Writing this section is the consent to delete what it names; null switches a limit off."""

    age: DurationOrNull = setting(86400, "Delete files older than this.", shown="24h")
    total: SizeOrNull = setting(1 << 30, "Delete the oldest beyond this size of all together.", shown="1GiB")
    files: Annotated[int | None, or_null(integer(1, 1_000_000))] = setting(30, "Delete the oldest beyond this number.")
    compress_after: DurationOrNull = setting(86400, "Compress files older than this.", shown="1d")


class Logging(Section):
    """The gateway's log."""

    level: Annotated[str | None, or_null(choice(*LEVELS))] = setting(None, "Level of the log file.", shown="info")
    console: Console | None = setting(None, "What the gateway prints.")
    redact: Annotated[str | None, or_null(choice("off", "tools"))] = setting(
        None,
        "Whether the real gateway redacts tool output on its console; without effect in the built-in one.",
        shown="tools",
    )
    redact_patterns: list[Text] | None = setting(
        None,
        "Regular expressions of what the real gateway redacts, in the place of its own; without effect in the built-in one.",
        examples=([r"sk-[\w-]+"],),
    )
    directory: PathOrNull = setting(None, "Where log files lie; null leaves it to the gateway.")
    max_file: Annotated[int | None, or_null(size_from(1 << 16, "64KiB"))] = setting(
        None, "Turn a day's file aside at this size; five older parts are kept.", shown="100MiB"
    )
    retention: Retention | None = setting(None, "How long log files are kept; without it nothing is ever deleted.")


class Prometheus(Section):
    """Metrics for Prometheus on the gateway's port."""

    enabled: Flag = setting(True, "Serve /metrics.")


class Otel(Section):
    """OpenTelemetry export over OTLP/HTTP."""

    endpoint: HttpUrl = needed("Address of the collector.", examples=("http://127.0.0.1:4318",))
    service_name: Text = setting("openclaw-gateway", "The service's name in traces.")
    headers: dict[str, Secret] = setting({}, "Headers of each export; values are references to secrets.")
    traces: Flag = setting(True, "Export traces.")
    metrics: Flag = setting(True, "Export metrics.")
    logs: Flag = setting(False, "Export logs.")
    sample: Annotated[float, number(0, 1)] = setting(1, "Part of the traces that is kept.", examples=(0.1,))
    flush: Duration = setting(60, "Time between two exports; at least 1s.", shown="60s")


class Diagnostics(Section):
    """What is measured, and where it goes."""

    stuck_after: Duration = setting(120, "A session that works for longer than this is stuck.", shown="2m")
    flags: list[Text] = setting([], "Areas with detailed diagnostics.", examples=(["gateway.*"],))
    prometheus: Prometheus | None = setting(None, "Metrics for Prometheus.")
    otel: Otel | None = setting(None, "OpenTelemetry export.")


# -- heartbeats --


class Heartbeat(Section):
    """When an agent wakes by itself, and what it does then; null takes the value of `defaults`, or the gateway's."""

    every: DurationOrNull = setting(None, "Time between two heartbeats; 0 switches them off.", shown="30m")
    prompt: TextOrNull = setting(None, "What the agent is asked.")
    target: TextOrNull = setting(None, "Where an answer goes: last, none, or a channel.", shown="last")
    model: TextOrNull = setting(None, "The model for heartbeats.")
    ack_max_chars: CountOrNull = setting(None, "Longest answer beside HEARTBEAT_OK that is no message.", shown=300)
    active: WindowOrNull = setting(None, "When heartbeats run.", examples=("08:00-22:00 Europe/Berlin",))


class Heartbeats(Section):
    """Heartbeats of the agents."""

    defaults: Heartbeat = Field(default_factory=Heartbeat, description="What holds for all agents.")
    agents: dict[str, Heartbeat] = setting(
        {}, "Agents by name, with what is different for them.", examples=({"main": {}},)
    )
    late_after: Annotated[float, number(1, 100)] = setting(2, "A heartbeat is missed after this many intervals.")


# -- auth --


class ApiKeyProfile(Section):
    """A credential that is an API key."""

    type: Literal["api_key"] = needed("What sort of credential it is.")
    key: Secret = needed("The key.", examples=({"env": "ANTHROPIC_API_KEY"},))
    provider: TextOrNull = setting(None, "The provider; without it what stands before the ':' of the profile's name.")
    email: TextOrNull = setting(None, "Whose account it is.")


class TokenProfile(Section):
    """A credential that is a fixed token."""

    type: Literal["token"] = needed("What sort of credential it is.")
    token: Secret = needed("The token.")
    expires: Annotated[str | None, or_null(DATE)] = setting(None, "When it expires.")
    provider: TextOrNull = setting(None, "The provider; without it what stands before the ':' of the profile's name.")
    email: TextOrNull = setting(None, "Whose account it is.")


class OAuthProfile(Section):
    """A credential that is refreshed by OAuth."""

    type: Literal["oauth"] = needed("What sort of credential it is.")
    refresh: Secret = needed("The refresh token.")
    access: SecretOrNull = setting(None, "The first access token.")
    provider: TextOrNull = setting(None, "The provider; without it what stands before the ':' of the profile's name.")
    email: TextOrNull = setting(None, "Whose account it is.")


Profile = Annotated[ApiKeyProfile | TokenProfile | OAuthProfile, Field(discriminator="type")]


class Cooldowns(Section):
    """How long a profile rests after a failure."""

    rate_limit: Duration = setting(300, "After a rate limit.", shown="5m")
    billing: Duration = setting(1800, "After a refused payment.", shown="30m")
    timeout: Duration = setting(120, "After a timeout.", shown="2m")
    disable_after: Annotated[int, integer(1, 1000)] = setting(5, "Failures in a row after which it is disabled.")
    reset: list[Annotated[str, choice("credential_changed", "probe_ok")]] = setting(
        ["credential_changed", "probe_ok"], "What ends a cooldown early."
    )


class Expiry(Section):
    """When expiring credentials are told of."""

    check: Duration = setting(1800, "Time between two checks.", shown="30m")
    warn: Duration = setting(86400, "Warn when less than this is left.", shown="24h")


class Auth(Section):
    """Credentials of model providers."""

    profiles: dict[str, Profile] = setting(
        {},
        "Credentials by name, provider:account.",
        examples=({"anthropic:default": {"type": "api_key", "key": {"env": "ANTHROPIC_API_KEY"}}},),
    )
    order: dict[str, list[Text]] = setting(
        {}, "For each provider, its profiles in the order of use.", examples=({"anthropic": ["anthropic:default"]},)
    )
    cooldowns: Cooldowns = Field(default_factory=Cooldowns, description="How long a profile rests after a failure.")
    expiry: Expiry = Field(default_factory=Expiry, description="When expiring credentials are told of.")


# -- tunnels --


class SshTunnel(Section):
    """A forward through ssh."""

    type: Literal["ssh"] = needed("What sort of tunnel it is.")
    host: Annotated[str, text("a host such as ops@bastion", pattern=r"(?:[\w.\-]+@)?[\w.\-:\[\]%]*\w\]?")] = needed(
        "The other side, with a user where needed.", examples=("ops@bastion",)
    )
    port: Port = setting(22, "Port of its ssh server.")
    identity: PathOrNull = setting(None, "Private key to use.", examples=("~/.ssh/id_ed25519",))
    known_hosts: PathOrNull = setting(None, "Where its host key is kept.", examples=("~/.ssh/known_hosts",))
    direction: Annotated[str, choice("local", "remote")] = setting(
        "local", "local brings the remote port here, remote brings ours there."
    )
    local: Port = needed("Port on this host.", examples=(18789,))
    remote: Port = needed("Port on the other side.", examples=(18789,))
    keepalive: Duration = setting(5, "Time between two signs of life.", shown="5s")


class TailscaleTunnel(Section):
    """Tailscale Serve (tailnet) or Funnel (public)."""

    type: Literal["tailscale"] = needed("What sort of tunnel it is.")
    mode: Annotated[str, choice("serve", "funnel")] = setting("serve", "Who can reach it: the tailnet, or everybody.")
    port: Port = setting(443, "Port on the tailnet's name.")
    local: Port = needed("Port on this host.", examples=(18789,))
    path: Text = setting("/", "Path below which it is served.")


class NgrokTunnel(Section):
    """A public address by ngrok."""

    type: Literal["ngrok"] = needed("What sort of tunnel it is.")
    local: Port = needed("Port on this host.", examples=(18789,))
    token: SecretOrNull = setting(None, "The account's token.", examples=({"env": "NGROK_AUTHTOKEN"},))
    domain: TextOrNull = setting(None, "A reserved domain.")


class CloudflaredTunnel(Section):
    """A public address by cloudflared."""

    type: Literal["cloudflared"] = needed("What sort of tunnel it is.")
    local: Port = needed("Port on this host.", examples=(18789,))
    token: SecretOrNull = setting(None, "Token of a named tunnel; without it a quick tunnel.")
    hostname: TextOrNull = setting(None, "The host name of a named tunnel.")


Tunnel = Annotated[SshTunnel | TailscaleTunnel | NgrokTunnel | CloudflaredTunnel, Field(discriminator="type")]

# -- audit, notifications, policy --

SEVERITIES: Final = ("info", "warn", "high", "urgent")


class Waiver(Section):
    """A finding that is accepted for now."""

    check: Text = needed("The check's id.", examples=("gateway.trusted_proxies_missing",))
    reason: Text = needed("Why it is accepted.", examples=("no proxy",))
    until: Date = needed("The last day on which it is accepted.", examples=("2027-01-01",))


class Audit(Section):
    """The security audit."""

    every: DurationOrNull = setting(21600, "Time between two audits; null leaves it to `at`.", shown="6h")
    at: CronOrNull = setting(None, "When audits run, as five cron fields.", examples=("0 */6 * * *",))
    fail_on: Annotated[str, choice("info", "warn", "critical", "never")] = setting(
        "critical", "The least severity that makes the audit fail."
    )
    fix: list[Text] = setting([], "Patterns of checks that are fixed by themselves.", examples=(["fs.*"],))
    waive: list[Waiver] = setting([], "Findings that are accepted for now.")


class Route(Section):
    """Which messages go where."""

    min: Annotated[str, choice(*SEVERITIES)] = setting("info", "The least severity that takes this route.")
    to: Text = needed("A channel.", examples=("ops",))


class Channel(Section):
    """A place that messages are sent to."""

    url: Secret = needed("Address with its credentials, as a reference.", examples=({"env": "OPS_URL"},))


class Notifications(Section):
    """Who is told, and how."""

    routes: list[Route] = setting([], "Which messages go where.")
    channels: dict[str, Channel] = setting({}, "Places by name.", examples=({"ops": {"url": {"env": "OPS_URL"}}},))
    repeat_after: Duration = setting(3600, "The same message is not sent again before this.", shown="1h")
    per_hour: Annotated[int, integer(1, 10_000)] = setting(30, "Most messages of a channel in an hour.")


class MaintenanceWindow(Section):
    """When disruptive actions are allowed."""

    hours: Window = needed("The hours.", examples=("02:00-05:00 Europe/Berlin",))
    days: list[Annotated[str, choice("mon", "tue", "wed", "thu", "fri", "sat", "sun")]] = setting(
        ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "The days on which the window begins."
    )


class Policy(Section):
    """What an apply may do by itself."""

    verify: Duration = setting(15, "How long the result is watched before it counts as good.", shown="15s")
    rollback: Flag = setting(True, "Go back by itself when the result is not healthy.")
    windows: list[MaintenanceWindow] = setting([], "When restarts are allowed; without any, always.")
    restarts_per_hour: Annotated[int | None, or_null(integer(1, 1000))] = setting(
        6, "Most restarts in an hour without --approve; null is no limit."
    )
    approve: list[Annotated[str, choice("hot-reload", "restart", "destroy")]] = setting(
        ["destroy"], "Impacts that need a person's word (--approve KEY), whoever applies."
    )


# -- source and fleet --


class GitSource(Section):
    """A repository that the document is pulled from."""

    # Neither may begin with what git takes for an option; the rest is git-check-ref-format(1), as far as one sign tells.
    git: Annotated[
        str, text("the address of a git repository without a password in it", pattern=r"[^\-\s][^\x00-\x1f\x7f]*")
    ] = needed("Address of the repository.", examples=("ssh://git@host/ops.git",))
    branch: Annotated[
        str, text("the name of a branch", pattern=r"[^\-/.\s~^:?*\[\\][^\x00-\x20\x7f~^:?*\[\\]*", limit=255)
    ] = setting("main", "The branch to follow.")
    path: Path = setting("openclaw.yaml", "The document in the repository.", examples=("hosts/alpha.yaml",))
    signers: PathOrNull = setting(
        None,
        "Allowed signers file; commits must be signed by one of them.",
        examples=("/etc/openclaw/allowed_signers",),
    )
    every: Duration = setting(60, "Time between two pulls.", shown="1m")


class Rollout(Section):
    """How a change goes through the fleet."""

    batch: Annotated[int, integer(1, 10_000)] = setting(1, "Hosts that are changed at the same time.")
    pause: Duration = setting(30, "Wait between two batches.", shown="30s")
    max_failures: Annotated[int, integer(0, 10_000)] = setting(0, "Failures after which it halts.")


class Fleet(Section):
    """This host as one of many, through etcd."""

    endpoints: Annotated[list[HttpUrl], Field(min_length=1)] = needed(
        "Addresses of the etcd cluster.", examples=(["https://etcd-1:2379"],)
    )
    name: TextOrNull = setting(None, "This host's name; null takes the host name.")
    group: Text = setting("default", "The group whose document this host follows.")
    prefix: Text = setting("/openclaw", "Where the fleet's keys begin.")
    lease: Duration = setting(15, "A host is lost after this time without a sign.", shown="15s")
    username: TextOrNull = setting(None, "User of etcd.")
    password: SecretOrNull = setting(None, "Its password.", examples=({"env": "ETCD_PASSWORD"},))
    ca: PathOrNull = setting(None, "Certificate authority of the cluster (PEM).")
    rollout: Rollout = Field(default_factory=Rollout, description="How a change goes through the fleet.")


class Document(Section):
    """The desired state of one host. Only `version` is mandatory; a section that is absent is left alone."""

    version: Version = needed("Version of the document's format: 1.")
    include: list[Text] | Text = setting(
        [],
        "Files that are laid under this one; relative to it.",
        examples=("common.yaml", ["common.yaml", "hosts/alpha.yaml"]),
    )
    service: Service | None = setting(None, "What runs, and under whom.")
    gateway: Gateway | None = setting(None, "The gateway's configuration.")
    logging: Logging | None = setting(None, "The gateway's log.")
    diagnostics: Diagnostics | None = setting(None, "What is measured, and where it goes.")
    heartbeats: Heartbeats | None = setting(None, "Heartbeats of the agents.")
    auth: Auth | None = setting(None, "Credentials of model providers.")
    tunnels: dict[str, Tunnel] | None = setting(
        None,
        "Ways in from outside, by name.",
        examples=({"office": {"type": "ssh", "host": "ops@bastion", "local": 18789, "remote": 18789}},),
    )
    audit: Audit | None = setting(None, "The security audit.")
    notifications: Notifications | None = setting(None, "Who is told, and how.")
    policy: Policy | None = setting(None, "What an apply may do by itself.")
    source: GitSource | None = setting(None, "A repository that the document is pulled from.")
    fleet: Fleet | None = setting(None, "This host as one of many.")


class Tunnels(Section):
    """A wrapper for the one section that is a mapping of free names."""

    tunnels: dict[str, Tunnel]


SECTIONS: Final[dict[str, type[Section]]] = {
    "service": Service,
    "gateway": Gateway,
    "logging": Logging,
    "diagnostics": Diagnostics,
    "heartbeats": Heartbeats,
    "auth": Auth,
    "tunnels": Tunnels,
    "audit": Audit,
    "notifications": Notifications,
    "policy": Policy,
    "source": GitSource,
    "fleet": Fleet,
}
