"""How jobs name a model, and where a rollback goes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from unet_batch.errors import SpecError
from unet_batch.planning.model_versions import (
    ModelReference,
    ModelVersion,
    Move,
    check_file_path,
    rolled_back_from,
    version_before,
)


def move(version: int, kind: str = "promote") -> Move:
    return Move.model_validate({"version": version, "kind": kind, "by": "a", "at": "now"})


@pytest.mark.parametrize(
    ("text", "version"), [("liver@champion", None), ("liver@7", 7), ("a.b-c_1@120", 120)]
)
def test_a_reference_names_a_version_or_the_champion(text: str, version: int | None) -> None:
    reference = ModelReference.parse(text)
    assert reference is not None
    assert reference.version == version
    assert str(reference) == text


@pytest.mark.parametrize("text", ["liver", "models/liver", "./liver@7", "s3://b/m@7", "/a@b/m"])
def test_whatever_is_no_reference_is_a_path(text: str) -> None:
    assert ModelReference.parse(text) is None


@pytest.mark.parametrize("text", ["liver@", "liver@best", "liver@0", "liver@07", "liver@-1"])
def test_a_reference_to_nothing_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(SpecError, match=r"expected champion or the number of a version"):
        ModelReference.parse(text)


@pytest.mark.parametrize("path", ["../key", "a/../b", "/etc/passwd", "a//b", ".hidden", "a b", ""])
def test_a_files_path_stays_within_its_bundle(path: str) -> None:
    with pytest.raises(ValueError, match="cannot be the path"):
        check_file_path(path)
    content = {"name": "m", "version": 1, "content_hash": "0" * 64, "by": "a", "at": "now"}
    file = {"sha256": "0" * 64, "num_bytes": 1}
    with pytest.raises(ValidationError, match="cannot be the path"):
        ModelVersion.model_validate({**content, "files": {path: file}})


def test_a_rollback_goes_to_the_champion_before() -> None:
    assert version_before([]) is None
    assert version_before([move(1)]) is None
    assert version_before([move(1), move(4)]) == 1


def test_rolled_back_again_it_goes_further_back() -> None:
    moves = [move(1), move(2), move(3), move(2, "rollback")]
    assert version_before(moves) == 1
    assert version_before([*moves, move(5)]) == 2


def test_what_was_rolled_back_counts_until_the_next_promotion() -> None:
    back = [
        move(2, "rollback").model_copy(update={"replaces": 3}),
        move(1, "rollback").model_copy(update={"replaces": 2}),
    ]
    moves = [move(1), move(2), move(3)]
    assert rolled_back_from(moves) == set()
    assert rolled_back_from([*moves, *back]) == {2, 3}
    assert rolled_back_from([*moves, *back, move(4)]) == set()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_rolling_back_visits_earlier_champions_in_turn_and_ends(versions: list[int]) -> None:
    moves = [move(one) for one in versions]
    for _ in range(len(versions)):
        target = version_before(moves)
        if target is None:
            break
        assert target in versions
        moves.append(move(target, "rollback"))
    assert version_before(moves) is None
