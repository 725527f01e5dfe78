"""What tests, benchmarks and comparisons with peers register beside the real kinds; never part of `openclaw` itself.

Two small real kinds, so that thousands of resources and deep graphs can be written down: `file` (section `x-files`) and
`child` (section `x-children`). And fakes: `FakeKind`, a world in memory with hooks that raise (section `x-fakes`),
`FakeSecrets`, `make_world`, `make_desired`.
"""

from resources.testing.child import ChildKind, pid_of
from resources.testing.fakes import FakeKind, FakeSecrets, make_desired, make_world
from resources.testing.file import FileKind

__all__ = ["ChildKind", "FakeKind", "FakeSecrets", "FileKind", "make_desired", "make_world", "pid_of"]
