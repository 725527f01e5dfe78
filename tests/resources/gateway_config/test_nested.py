"""Settings of which one lies below another one: what takes whose place, in a write, its undo and on the way back to what was
there before us.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gateway.last_good import copy_path
from gateway.wire.json5 import load
from reconciler.desired import Desired
from reconciler.engine.aftermath import aftermath
from reconciler.kinds import Applied
from reconciler.model import Cause, Key
from resources.gateway_config.kind import Seen, _serves_as_declared
from resources.gateway_config.running import Loaded
from resources.gateway_config.store import read_config
from resources.testing import make_desired
from tests.resources.contract import Case, carry_out, look
from tests.resources.contract import Seen as Looked
from tests.resources.gateway_config.test_kind import CANARY, config, gateway, make_case


def settings(**data: Any) -> Desired:
    return make_desired(gateway=gateway(data, port=9))


async def lead(case: Case, document: Desired, applied: dict[Key, Applied] | None = None) -> dict[Key, Applied]:
    """Applies a document; the journal's account after it, of which a second look finds nothing to do."""
    seen = await look(case, document, applied)
    assert not [item for plan in seen.plans for item in plan.blocked]
    earlier, applied = applied or {}, await carry_out(case, seen)
    resources = {one.key: one.resource for one in seen.wanted}
    for action in seen.actions:
        resource = resources[action.key]
        await case.kind.apply(action, resource, case.world)
        assert (await aftermath(action, case.kind, resource, earlier.get(action.key, {}), case.world)).happened
    assert (await look(case, document, applied)).converged
    return applied


async def undo(case: Case, seen: Looked) -> None:
    for action in reversed(seen.actions):
        assert action.undo is not None
        back = replace(action, verb=action.undo.verb, arguments=action.undo.arguments, precondition=None)
        await case.kind.apply(back, None, case.world)


MAPPING_OR_NOT = [
    ({"web": {"enabled": True}}, {"web": False}),
    ({"agents": {"defaults": {"deep": 1}}}, {"agents": {"defaults": 5}}),
    ({"tools": {"a": {"b": {"c": 1}}, "d": 2}}, {"tools": None}),
    ({"tools": {"a": {"b": 1, "c": [2]}}}, {"tools": {"a": {"b": {"deep": 1}}}}),
]


@pytest.mark.req("PLAN-8", "PLAN-10")
@pytest.mark.parametrize("text", [None, "// theirs\n{ hooks: { x: 1 }, gateway: {} }\n"])
@pytest.mark.parametrize(("one", "other"), [*MAPPING_OR_NOT, *(pair[::-1] for pair in MAPPING_OR_NOT)])
async def test_a_mapping_and_what_is_none_take_each_others_place_there_and_back(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], text: str | None
) -> None:
    case = make_case(tmp_path, settings(), text)
    applied = await lead(case, settings(**one))
    before: Any = load(config(case).read_text())
    seen = await look(case, settings(**other), applied)
    await lead(case, settings(**other), applied)
    assert load(config(case).read_text()) == before | other
    for _ in range(2):
        await undo(case, seen)
        assert load(config(case).read_text()) == before
    changed = await lead(case, settings(**other), applied)
    await lead(case, settings(**one), changed)
    assert load(config(case).read_text()) == before


THEIRS = """// mine
{
  hooks: { x: 'theirs', /* left */ enabled: false, "anything": 'CANARY', }, // as it is
  tools: {},
}
""".replace("CANARY", CANARY)


@pytest.mark.req("PLAN-10", "DOC-4")
@pytest.mark.parametrize("text", [None, THEIRS, THEIRS.replace("enabled: false, ", ""), '{"hooks": {}}'])
@pytest.mark.parametrize("to", [None, False, "text", (1,)])
@pytest.mark.parametrize("again", [False, True])
async def test_what_was_ours_is_no_former_value_of_anybody(
    tmp_path: Path, text: str | None, to: Any, again: bool
) -> None:
    case = make_case(tmp_path, settings(), text)
    applied = await lead(case, settings())
    before = config(case).read_text()
    declared = settings(hooks={"enabled": True, "anything": "${TOKEN}"})
    applied = await lead(case, declared, applied)
    for document in (settings(hooks=to), *((declared, settings(hooks=to), declared) if again else ())):
        seen = await look(case, document, applied)
        assert CANARY not in repr(seen)
        applied = await lead(case, document, applied)
    await lead(case, settings(), applied)
    assert config(case).read_text() == before


@pytest.mark.req("PLAN-10")
async def test_what_was_there_before_us_is_given_back_and_no_way_is_made_through_it(tmp_path: Path) -> None:
    theirs = {"gateway": {"port": 9}, "hooks": "theirs"}
    case = make_case(tmp_path, settings(), json.dumps(theirs))
    applied = await lead(case, settings(hooks=None), await lead(case, settings()))
    (plan,) = (await look(case, settings(hooks={"enabled": True}), applied)).plans
    (blocked,) = plan.blocked
    assert blocked.code == "config_no_object"
    assert "what was at hooks before us is no object" in blocked.message
    assert blocked.hint.startswith("apply a document without both")
    await lead(case, settings(), applied)
    assert load(config(case).read_text()) == theirs


@pytest.mark.req("PLAN-10")
async def test_what_somebody_wrote_beside_ours_comes_back_with_what_is_below_it(tmp_path: Path) -> None:
    case = make_case(tmp_path, settings())
    applied = await lead(case, settings(hooks={"enabled": True}))
    data = json.loads(config(case).read_text())
    data["hooks"] |= {"token": CANARY, "x": [1]}
    config(case).write_text(json.dumps(data))
    seen = await look(case, settings(hooks=None), applied)
    assert CANARY not in repr(seen)
    gone = await lead(case, settings(hooks=None), applied)
    await undo(case, seen)
    assert json.loads(config(case).read_text()) == data
    await lead(case, settings(hooks=None), applied)
    await lead(case, settings(), gone)
    del data["hooks"]["enabled"]
    assert json.loads(config(case).read_text()) == data


@pytest.mark.req("PLAN-9", "PLAN-10", "DOC-4")
@pytest.mark.parametrize("theirs", [None, "text", CANARY, 5, [{"token": CANARY}]])
async def test_what_was_put_in_the_place_of_our_objects_is_drift_and_kept(tmp_path: Path, theirs: Any) -> None:
    document = settings(messages={"a": {"b": 9, "c": "${TOKEN}"}})
    case = make_case(tmp_path, document, "{}")
    applied = await lead(case, document)
    data: Any = load(config(case).read_text())
    config(case).write_text(json.dumps({"gateway": {"port": 1}, "messages": theirs}))
    moved = config(case).read_text()
    seen = await look(case, document, applied)
    assert {item.path: item.cause for item in seen.steps[0].differences} == dict.fromkeys(
        ("gateway.port", "messages.a.b", "messages.a.c"), Cause.DRIFT
    )
    assert CANARY not in repr(seen)
    assert any("messages, which is no object any more" in item.text for item in seen.actions[0].consequences)
    await lead(case, document, applied)
    assert load(config(case).read_text()) == data
    await undo(case, seen)
    assert json.loads(config(case).read_text()) == json.loads(moved)
    # Below what was ours never it is not ours to make room.
    (plan,) = (await look(case, document)).plans
    assert [item.code for item in plan.blocked] == ["config_no_object"]
    (plan,) = (await look(case, settings(messages={"new": 1}), applied)).plans
    assert [item.code for item in plan.blocked] == ["config_no_object"]


async def test_what_is_wrong_beside_ours_in_an_object_that_was_a_scalar_of_ours_is_nothing_that_was_applied(
    tmp_path: Path,
) -> None:
    case = make_case(tmp_path, settings(hooks={"enabled": True}))
    await carry_out(case, await look(case, case.desired))
    (resource,) = case.kind.declare(case.desired, case.world.host, case.world.secrets)
    written = config(case).read_text()
    for now, serves in ((written.replace("true", 'true, "bogus": 1'), True), (written.replace("true", "false"), False)):
        config(case).write_text(now)
        file = read_config(config(case))
        good = written if serves else now
        copy_path(config(case)).write_text(good)
        told = Loaded(digest=sha256(good.encode()).hexdigest(), error="it is bogus", refused=file.digest)
        seen = Seen(file=file, kept={"hooks": {"digest": "null"}}, loaded=told)
        assert _serves_as_declared(seen, resource, case.world) is serves


def tree(draw: random.Random, names: str, leaf: Callable[[], Any], depth: int = 0) -> dict[str, Any]:
    """A small mapping of mappings and others."""
    return {
        name: tree(draw, names, leaf, depth + 1) if depth < 2 and draw.random() < 0.5 else leaf()
        for name in draw.sample(names, draw.randint(0, 2))
    }


@pytest.mark.req("PLAN-10")
@pytest.mark.parametrize("seed", range(40))
async def test_whatever_was_declared_the_file_is_as_it_was_byte_for_byte_in_the_end(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    theirs = tree(draw, "pqsx", lambda: draw.choice([None, 1, "theirs", CANARY, [2], {}]))
    case = make_case(tmp_path, settings(), json.dumps({"gateway": {"port": 9}, "tools": theirs}))
    applied = await lead(case, settings())
    text = config(case).read_text()
    for _ in range(5):
        document = settings(tools=tree(draw, "pqs", lambda: draw.choice([None, 1, "ours", "${TOKEN}", [1], True])))
        seen = await look(case, document, applied)
        if blocked := [item.code for plan in seen.plans for item in plan.blocked]:
            # Something of theirs lies in the way.
            assert blocked == ["config_no_object"]
            continue
        before = load(config(case).read_text())
        await carry_out(case, seen)
        for _ in range(2):
            await undo(case, seen)
            assert load(config(case).read_text()) == before
        applied = await lead(case, document, applied)
    await lead(case, settings(), applied)
    assert config(case).read_text() == text
