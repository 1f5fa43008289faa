"""The calls that tell of a change: made one after the other on a plain tree, they give what is there now."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from cache.pull import Difference
from fusefs.steps import Act, Step, Told, steps_of
from remote.protocol.ids import ROOT, NodeId
from remote.protocol.nodes import EMPTY, Kind, Name, NodeState


def state(kind: Kind, *names: Name, mtime_ns: int = 1) -> NodeState:
    content = EMPTY if kind is Kind.FILE else None
    return NodeState(kind, names, 0o644, 0, 0, mtime_ns, 1, 1, 1, content=content)


def told(before: Mapping[NodeId, NodeState], after: Mapping[NodeId, NodeState]) -> Told:
    found = Told()
    for node in before.keys() | after.keys():
        old, new = before.get(node), after.get(node)
        if old != new:
            found.add(node, Difference(old, new, is_content=False))
        if new is not None and new.kind is Kind.FOLDER:
            found.places[node] = new.names[0]
        elif old is not None and old.kind is Kind.FOLDER:
            found.places[node] = old.names[0]
    return found


def name(parent: int, text: str) -> Name:
    return Name(NodeId(parent), text.encode())


def acts(steps: list[Step]) -> list[tuple[str, bytes, bytes]]:
    return [(step.act.value, step.name.name, step.target.name if step.target else b"") for step in steps]


A, B, C, D = (NodeId(number) for number in (10, 11, 12, 13))


def test_a_file_saved_by_rename_is_changed() -> None:
    steps = steps_of(told({A: state(Kind.FILE, name(1, "a"))}, {B: state(Kind.FILE, name(1, "a"))}))
    assert acts(steps) == [("change", b"a", b"")]
    assert steps[0].node == B


def test_a_folder_is_made_before_what_moves_into_it() -> None:
    before = {A: state(Kind.FOLDER, name(1, "a")), B: state(Kind.FILE, name(1, "b"))}
    after = {
        A: state(Kind.FOLDER, name(C, "a")),
        B: state(Kind.FILE, name(A, "b")),
        C: state(Kind.FOLDER, name(1, "c")),
    }
    assert acts(steps_of(told(before, after))) == [("make", b"c", b""), ("move", b"a", b"a"), ("move", b"b", b"b")]


def test_folders_go_after_what_was_in_them() -> None:
    before = {
        A: state(Kind.FOLDER, name(1, "a")),
        B: state(Kind.FOLDER, name(A, "b")),
        C: state(Kind.FILE, name(B, "c")),
    }
    assert acts(steps_of(told(before, {}))) == [("remove", b"c", b""), ("remove", b"b", b""), ("remove", b"a", b"")]


def test_names_that_were_exchanged_are_not_told_as_moves() -> None:
    before = {A: state(Kind.FILE, name(1, "a")), B: state(Kind.FILE, name(1, "b"))}
    after = {A: state(Kind.FILE, name(1, "b")), B: state(Kind.FILE, name(1, "a"))}
    assert {act for act, _, _ in acts(steps_of(told(before, after)))} <= {"make", "change"}


def test_a_folder_s_own_times_are_nothing_to_tell() -> None:
    before = {A: state(Kind.FOLDER, name(1, "a")), B: state(Kind.FILE, name(1, "b"))}
    after = {A: state(Kind.FOLDER, name(1, "a"), mtime_ns=2), B: state(Kind.FILE, name(1, "b"), mtime_ns=2)}
    assert acts(steps_of(told(before, after))) == [("touch", b"b", b"")]


def test_what_came_and_went_is_not_told() -> None:
    gathered = told({}, {A: state(Kind.FILE, name(1, "a"))})
    gathered.merge(told({A: state(Kind.FILE, name(1, "a"))}, {}), limit=10)
    assert steps_of(gathered) == []


def test_beyond_the_limit_only_what_is_known_already_is_taken_in() -> None:
    gathered = told({}, {A: state(Kind.FILE, name(1, "a"))})
    gathered.merge(told({}, {B: state(Kind.FILE, name(1, "b"))}), limit=1)
    gathered.merge(
        told({A: state(Kind.FILE, name(1, "a"))}, {A: state(Kind.FILE, name(1, "c"))}),
        limit=1,
    )
    assert acts(steps_of(gathered)) == [("make", b"c", b"")]


FILES = st.sets(st.integers(20, 29))
PLACES = st.tuples(st.sampled_from([ROOT, A, B]), st.sampled_from("pqrs"))


@st.composite
def trees(draw: st.DrawFn) -> dict[NodeId, NodeState]:
    """Files in two folders and the top, each under a name of its own."""
    found = {A: state(Kind.FOLDER, name(1, "a")), B: state(Kind.FOLDER, name(1, "b"))}
    places = iter(draw(st.permutations(sorted({draw(PLACES) for _ in range(8)}))))
    for node in sorted(draw(FILES)):
        place = next(places, None)
        if place is not None:
            found[NodeId(node)] = state(Kind.FILE, name(*place))
    return found


@given(before=trees(), after=trees())
def test_the_calls_give_the_names_that_there_are_now(
    before: dict[NodeId, NodeState], after: dict[NodeId, NodeState]
) -> None:
    names = {one.names[0]: node for node, one in before.items()}
    wanted = {one.names[0]: node for node, one in after.items()}
    for step in steps_of(told(before, after)):
        if step.act is Act.REMOVE:
            assert names.pop(step.name) == step.node
            assert step.name not in wanted
        elif step.act is Act.MOVE:
            assert step.target is not None
            assert names.pop(step.name) == step.node
            # Never over what lives on under another name.
            assert names.get(step.target) not in after
            names[step.target] = step.node
            assert step.name not in wanted
        else:
            names[step.name] = step.node
    assert names == wanted
