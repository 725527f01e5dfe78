"""What observes, plans and applies for one document: the engine with its kinds, its secrets and the way back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from reconciler.desired import MANAGED
from reconciler.engine.engine import Engine, Source
from reconciler.engine.goal import Goal, desired_of, goal_of, make_goal, rotated
from reconciler.engine.requests import Progress, Report
from reconciler.host import Host
from reconciler.journal import PROVISIONAL_SALT, Journal
from reconciler.kinds import Kind
from reconciler.model import DocumentPath, Generation, Note, Position
from reconciler.values import join_path

if TYPE_CHECKING:
    from reconciler.document.load import Loaded
    from reconciler.document.secrets import Hanging


# How long a program that hung is not waited for once more, on the way from a document to what stays in force instead of it.
HANGING_SECONDS: Final = 5.0


def silent(_progress: Progress) -> None:
    """Tells nobody."""


class Runtime:
    """One document on one host. `engine` is there once `open_engine` was called (the supervisor keeps one for life)."""

    def __init__(self, *, host: Host, document: str, kinds: Sequence[Kind]) -> None:
        self.host = host
        self.document = document
        self.kinds = tuple(kinds)
        self._hung: tuple[float, Hanging] = (0.0, {})

    def engine(self, report: Report = silent, command: str = "openclaw") -> Engine:
        """A new engine that tells `report` what goes on; `command` names this process to those who wait for its lock."""
        return Engine(
            kinds=self.kinds,
            host=self.host,
            document=Path(self.document),
            now=time.time,
            goal_of=self.goal_back,
            report=report,
            command=command,
        )

    def source(self, loaded: Loaded) -> Source:
        """The goal that `loaded` is, under any salt. Its secrets are read here, once; blocks on files and programs.

        Raises:
            DocumentError: a reference gives nothing; all of them at once.
        """
        from reconciler.document.secrets import references, resolve

        # Who asks for a document wants to know it as it is now.
        with self._waiting({}) as hanging:
            values = resolve(loaded, self.host.environ, salt=PROVISIONAL_SALT, hanging=hanging)

        def make(salt: bytes) -> Goal:
            return make_goal(
                desired=loaded.desired,
                document_digest=loaded.digest,
                texts=loaded.texts,
                secrets=values.salted(salt),
                references=references(loaded.desired.canonical),
                kinds=self.kinds,
                host=self.host,
                locate=loaded.locate,
            )

        return make

    def goal_of(self, generation: Generation) -> tuple[Goal, tuple[Note, ...]]:
        """The goal that leads back to a generation, with a note for each secret that has another value now. Blocks.

        Raises:
            DocumentError: one of its references gives nothing any more.
        """
        return self._goal(generation, lambda _path: None)

    def goal_back(self, generation: Generation) -> tuple[Goal, tuple[Note, ...]]:
        """The same for what stays in force, or is gone back to, on nobody's word: a reference that gives nothing now has the
        value of then, where this host still holds it, with a note. The digest in the journal tells that it is the same. Of what
        is not managed no secret is asked for: nothing is applied by it.

        Raises:
            DocumentError: a reference gives nothing any more, and its value is nowhere.
        """
        again: list[Note] = []

        @cache
        def former() -> tuple[Mapping[str, str], Mapping[str, str]]:
            return self._digests(generation), self._former_values()

        def instead(path: DocumentPath) -> str | None:
            digests, values = former()
            if (value := values.get(digests.get(join_path(path), ""))) is not None:
                text = (
                    f"the reference at {join_path(path)} gives nothing of use now: the value that it had is used again"
                )
                again.append(Note(code="secret_again", message=text, path=path))
            return value

        goal, notes = self._goal(generation, instead, MANAGED)
        return goal, (*notes, *again)

    def _former_values(self) -> dict[str, str]:
        """The values that the gateway was started with, now or before, by their digests."""
        from reconciler.document.secrets import SecretValues
        from resources.service.prepared import former_values

        digests = SecretValues({}, self.salt())
        return {digests.digest_text(value).digest: value for value in former_values(self.host)}

    def _goal(
        self,
        generation: Generation,
        instead: Callable[[DocumentPath], str | None],
        sections: Collection[str] | None = None,
    ) -> tuple[Goal, tuple[Note, ...]]:
        from reconciler.document.secrets import references, resolve_references

        desired = desired_of(generation)
        found = tuple(
            (path, each) for path, each in references(desired.canonical) if sections is None or path[0] in sections
        )
        at, known = self._hung
        with self._waiting(known if time.monotonic() - at < HANGING_SECONDS else {}) as hanging:
            secrets = resolve_references(
                found,
                self.host.environ,
                salt=self.salt(),
                directory=os.path.dirname(self.document),
                # The text that it stands in is not at hand.
                locate=lambda _path: Position(file=f"generation {generation.number}", line=0, column=0, text=""),
                instead=instead,
                hanging=hanging,
            )
        goal = goal_of(generation, desired=desired, secrets=secrets, references=found, kinds=self.kinds, host=self.host)
        return goal, rotated(generation, found, secrets)

    @contextmanager
    def _waiting(self, known: Hanging) -> Iterator[Hanging]:
        """Keeps for a moment what hung, so that one look waits for it once. `known` hung already."""
        hanging = dict(known)
        try:
            yield hanging
        finally:
            self._hung = (time.monotonic(), hanging)

    def recorded_goal(self, generation: Generation) -> Goal:
        """The same with what was recorded of its secrets, for looking at the host while they cannot be had: nothing can be
        applied by it.
        """
        from reconciler.document.secrets import RecordedSecrets, references

        desired = desired_of(generation)
        found = references(desired.canonical)
        recorded = self._digests(generation)
        digests = {reference: recorded.get(join_path(path), "") for path, reference in found}
        secrets = RecordedSecrets(digests, self.salt())
        return goal_of(generation, desired=desired, secrets=secrets, references=found, kinds=self.kinds, host=self.host)

    def _digests(self, generation: Generation) -> dict[str, str]:
        """With what secrets a generation was led to last."""
        journal = Journal.open_reader(self.host.state.journal)
        if journal is None:
            return dict(generation.secrets)
        with journal:
            return {**generation.secrets, **journal.given(generation.number)}

    def salt(self) -> bytes:
        """The salt of this state's journal, a provisional one while there is none."""
        journal = Journal.open_reader(self.host.state.journal)
        if journal is None:
            return PROVISIONAL_SALT
        with journal:
            return journal.salt
