"""State on disk: what does not fit is refused with every difference."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import pure
from pure import Shared, saving
from pure.testing.situation import Situation, same
from pure.testing.toys import RANDOM
from pure.transforms import dbcache, taylorseer


def state(*transforms: pure.Transform, samples: int = 2) -> pure.States:
    recipe = pure.compose(dbcache(front=1, threshold=0.5), *transforms)
    return Situation(model=RANDOM, transform=recipe, seeds=tuple(range(samples)), count=8).start()


def test_trees_of_every_kind_round_trip(tmp_path: Path) -> None:
    view = torch.arange(12.0).view(3, 4).T
    tree = {
        "a": (view, [view[1]]),
        "b": Shared(value=torch.ones(2, dtype=torch.bfloat16)),
        "c": None,
        "d": torch.tensor(3),
    }
    pure.save_state(tree, tmp_path / "tree")
    assert same(pure.load_state(tmp_path / "tree", like=tree), tree)
    pure.save_state(view, tmp_path / "bare")
    assert torch.equal(pure.load_state(tmp_path / "bare", like=view), view)


def test_loaded_tensors_begin_where_new_ones_do(tmp_path: Path) -> None:
    """In the file they follow each other at any address, and a matrix product of such a one rounds otherwise."""
    tree = {"a": torch.ones(3), "b": torch.ones(5, dtype=torch.bfloat16), "c": torch.ones(7, 3)}
    pure.save_state(tree, tmp_path / "tree")
    loaded = pure.load_state(tmp_path / "tree", like=tree)
    assert [tensor.data_ptr() % 64 for tensor in loaded.values()] == [0, 0, 0]


def test_tensors_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    one = torch.ones(3)
    pure.save_state({"a": one, "b": one}, tmp_path / "twins")
    assert same(pure.load_state(tmp_path / "twins", like={"a": one, "b": one}), {"a": one, "b": one})


def test_saving_replaces_in_one_step_and_leaves_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "state.safetensors"
    pure.save_state(state(), file)
    before = file.read_bytes()
    with file.open("rb") as old:  # who reads the old one meanwhile still has it
        pure.save_state(state(taylorseer(order=2)), file)
        assert old.read() == before
    assert same(pure.load_state(file, like=state(taylorseer(order=2))), state(taylorseer(order=2)))
    assert list(tmp_path.iterdir()) == [file]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state.safetensors"
    pure.save_state({"x": torch.zeros(1)}, file)

    def full(*arguments, **options):
        raise saving.SafetensorError("no space left")

    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(OSError, match=r"the state cannot be written to .*state\.safetensors: no space left"):
        pure.save_state({"x": torch.ones(1)}, file)
    assert pure.load_state(file, like={"x": torch.ones(1)})["x"] == 0 and list(tmp_path.iterdir()) == [file]


def test_a_save_onto_a_folder_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(OSError, match="state"):
        pure.save_state({"x": torch.zeros(1)}, tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_every_difference_is_listed(tmp_path: Path) -> None:
    pure.save_state(state(), tmp_path / "small")
    with pytest.raises(ValueError, match=r"does not fit the state it is loaded into:\n") as error:
        pure.load_state(tmp_path / "small", like=state(taylorseer(order=1), samples=3))
    message = str(error.value)
    assert ".cache.history[0][1] is missing" in message
    assert ".cache.ledger is (2, 7) torch.float64, expected (3, 8) torch.float64" in message
    with pytest.raises(ValueError, match=r"\.cache\.history\[0\]\[0\] is not part of this plan's state"):
        pure.load_state(
            tmp_path / "small", like=Situation(model=RANDOM, transform=pure.identity, seeds=(0, 1), count=8).start()
        )


def test_no_file_and_no_safetensors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no saved state at .*nowhere"):
        pure.load_state(tmp_path / "nowhere", like=state())
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="text is not a saved state: "):
        pure.load_state(tmp_path / "text", like=state())
    save_file({"x": torch.zeros(1)}, tmp_path / "other", metadata={"origin": '{"made": "elsewhere"}'})
    with pytest.raises(ValueError, match="other is not a saved state: "):
        pure.load_state(tmp_path / "other", like=state())


def test_another_type_is_refused(tmp_path: Path) -> None:
    pure.save_state({"a": torch.zeros(2), "b": torch.zeros(1)}, tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match=r"\['a'\] is \(2,\) torch.float32, expected \(2,\) torch.bfloat16"):
        like = {"a": torch.zeros(2, dtype=torch.bfloat16), "b": torch.zeros(1)}
        pure.load_state(tmp_path / "state.safetensors", like=like)
