"""A goal: what one run leads to. A validated document with its secrets resolved, and the resources that it declares.

It comes from the document as it is now, or from a generation of the journal when the way leads back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler.desired import MANAGED, Desired, SecretRef, from_canonical
from reconciler.host import Host
from reconciler.kinds import Kind, Resource, Secrets
from reconciler.model import Action, Blocked, DocumentPath, Generation, Key, Note, Plan, Position
from reconciler.values import digest, join_path

Locate = Callable[[DocumentPath], Position | None]

# What the name of a document begins with by which it is held back whatever its secrets are.
DOCUMENT = "document:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is wanted, by whom.

    `digest` covers the desired state with its overrides and the digests of its secrets: quarantine and plans are
    keyed by it. `document` is that of the desired state alone, None for a goal that comes from a generation. `texts` are the
    document's files; `locate` finds the place of a document path. `given` are the digests of the secrets of a generation that
    have another value now than it was recorded with.
    """

    desired: Desired
    digest: str
    document: str | None = None
    texts: Mapping[str, str]
    secrets: Secrets
    secret_digests: Mapping[str, str]
    resources: Mapping[Key, Resource]
    locate: Locate
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """By what it may be held back: what failed is another thing with other secrets, what a person went back from is not."""
        return (self.digest,) if self.document is None else (self.digest, document_name(self.document))

    def is_named(self, name: str) -> bool:
        """Whether what is held back by `name` is this: a generation is of no document, and may be what a document asks for."""
        return name in self.names or _digest(name.removeprefix(DOCUMENT), self.secret_digests) == self.digest

    @property
    def stored(self) -> Mapping[str, Any]:
        """What a generation keeps of the desired state, so that `from_generation` can make it again."""
        return {
            "canonical": self.desired.canonical,
            "declared": sorted((list(path) for path in self.desired.declared), key=str),
        }


def document_name(document_digest: str) -> str:
    """By what a document is held back whatever its secrets are."""
    return f"{DOCUMENT}{document_digest}"


def is_of(generation: Generation, document_digest: str) -> bool:
    """Whether a generation is of the document with this digest, with whatever secrets."""
    return generation.digest == _digest(document_digest, generation.secrets)


def is_named(generation: Generation, name: str) -> bool:
    """Whether what is held back by `name` is what `generation` led to."""
    return name == generation.digest or is_of(generation, name.removeprefix(DOCUMENT))


def make_goal(
    *,
    desired: Desired,
    document_digest: str,
    texts: Mapping[str, str],
    secrets: Secrets,
    references: Sequence[tuple[DocumentPath, SecretRef]],
    kinds: Sequence[Kind],
    host: Host,
    locate: Locate,
) -> Goal:
    """The goal that a loaded document with resolved secrets is."""
    secret_digests = {join_path(path): secrets.digest(reference).digest for path, reference in references}
    return Goal(
        desired=desired,
        digest=_digest(document_digest, secret_digests),
        document=document_digest,
        texts=texts,
        secrets=secrets,
        secret_digests=secret_digests,
        resources=_declare(desired, kinds, host, secrets),
        locate=locate,
    )


def desired_of(generation: Generation) -> Desired:
    """The desired state that a generation recorded."""
    stored = generation.canonical
    return from_canonical(stored["canonical"], frozenset(tuple(path) for path in stored["declared"]))


def gone_sections(goal: Goal, present: Generation) -> frozenset[str]:
    """The sections from which something on the host follows that have gone since `present`."""
    before = frozenset(path[0] for path in present.canonical["declared"])
    return before & (MANAGED - {"version", "policy"}) - {path[0] for path in goal.desired.declared}


def goal_of(
    generation: Generation,
    *,
    desired: Desired,
    secrets: Secrets,
    references: Sequence[tuple[DocumentPath, SecretRef]],
    kinds: Sequence[Kind],
    host: Host,
) -> Goal:
    """The goal that leads back to `generation`; `references` are those that `secrets` has.

    Secrets have the values of today: an older value cannot be had again, and `rotated` says which those are.
    """
    now = {join_path(path): secrets.digest(reference).digest for path, reference in references}
    return Goal(
        desired=desired,
        digest=generation.digest,
        texts=generation.texts,
        secrets=secrets,
        secret_digests=generation.secrets,
        given={path: digest for path, digest in now.items() if generation.secrets.get(path) != digest},
        resources=_declare(desired, kinds, host, secrets),
        locate=lambda _path: None,
    )


def rotated(
    generation: Generation, references: Sequence[tuple[DocumentPath, SecretRef]], secrets: Secrets
) -> tuple[Note, ...]:
    """A note for each secret whose value is another one now than `generation` had: the new one is kept."""
    return tuple(
        Note(
            code="secret_rotated",
            message=f"the former value of {join_path(path)} cannot be restored: its reference ({reference}) "
            "gives another one now, which is kept",
            path=path,
        )
        for path, reference in references
        if generation.secrets.get(join_path(path)) not in (None, secrets.digest(reference).digest)
    )


# Fields of sections that are managed, which this version accepts and does not act upon yet; with what that means.
UNHEEDED: tuple[tuple[DocumentPath, str], ...] = (
    (("policy", "windows"), "disruptive actions are not held back until a window"),
)


def unmanaged_notes(desired: Desired) -> tuple[Note, ...]:
    """One note for each section or field that is declared and that this version does not act upon: never silence."""
    sections = [
        Note(
            code="not_managed",
            message=f"section `{name}` is valid, but not managed by this version: nothing of it is applied",
            path=(name,),
        )
        for name in sorted(desired.unmanaged)
    ]
    fields = [
        Note(
            code="not_managed",
            message=f"`{join_path(path)}` is valid, but not heeded by this version: {meaning}",
            path=path,
        )
        for path, meaning in UNHEEDED
        if path in desired.declared
    ]
    return (*sections, *fields)


def located(plan: Plan, locate: Locate) -> Plan:
    """`plan` with the document position of everything that has a document path.

    Composing the document's text costs more than all the rest of a plan without actions: nothing is looked up there.
    """
    blamed = any(item.path is not None or item.setting is not None for item in plan.blocked)
    if not plan.actions and not plan.notes and not blamed:
        return plan
    return replace(
        plan,
        blocked=tuple(_located_blocked(item, locate) for item in plan.blocked),
        actions=tuple(_located_action(action, locate) for action in plan.actions),
        notes=tuple(
            replace(note, position=locate(note.path)) if note.path is not None and note.position is None else note
            for note in plan.notes
        ),
    )


def _located_action(action: Action, locate: Locate) -> Action:
    because = action.because
    if because.path is None or because.position is not None:
        return action
    return replace(action, because=replace(because, position=locate(because.path)))


def _located_blocked(blocked: Blocked, locate: Locate) -> Blocked:
    setting = blocked.setting
    if setting is not None and (position := locate(setting)) is not None and not position.line:
        name = position.file.removeprefix("environment ")
        said = f"{name} in the environment sets {join_path(setting)} and wins over the document: change or unset it"
        blocked = replace(blocked, hint=f"{blocked.hint}; {said}", setting=None)
    position = locate(blocked.path) if blocked.path is not None else None
    if position is None:
        return blocked
    place = str(position) if position.line else position.file
    return replace(blocked, message=f"{place}: {blocked.message}", path=None)


def _digest(document_digest: str, secret_digests: Mapping[str, str]) -> str:
    return digest({"document": document_digest, "secrets": dict(secret_digests)})


def _declare(desired: Desired, kinds: Sequence[Kind], host: Host, secrets: Secrets) -> dict[Key, Resource]:
    return {resource.key: resource for kind in kinds for resource in kind.declare(desired, host, secrets)}
