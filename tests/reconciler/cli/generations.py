"""Generations in a journal, as an apply leaves them."""

from __future__ import annotations

from reconciler.cli.runtime import Runtime
from reconciler.document.load import Loaded
from reconciler.journal import Journal
from reconciler.model import Generation, Result


def confirmed(runtime: Runtime, loaded: Loaded) -> Generation:
    """A confirmed generation of a document."""
    with Journal.open_writer(runtime.host.state.journal, now=1.0) as journal:
        goal = runtime.source(loaded)(journal.salt)
        number = journal.record_generation(
            digest=goal.digest,
            at=1.0,
            cause="apply",
            result=Result.CONFIRMED,
            texts=goal.texts,
            canonical=goal.stored,
            secrets=goal.secret_digests,
        )
        found = journal.generation(number)
    assert found is not None
    return found
