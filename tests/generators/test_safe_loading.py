"""What is in a weight file, without running anything of it."""

import io
import pickle

import numpy as np
import pytest
import torch

from cli.errors import UserError
from generators.safe_loading import Array, load_content, load_torch, unpickle


@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_other_byte_orders_and_old_pythons_are_read(protocol):
    array = np.arange(6, dtype=">f4").reshape(2, 3, order="F")
    data = pickle.dumps([array, np.float32(0.5), np.int16(-3)], protocol=protocol)
    found, half, minus_three = unpickle(io.BytesIO(data))
    assert np.array_equal(found.value, array)
    assert (half, minus_three) == (0.5, -3)


def test_arrays_keep_the_bytes_of_the_file_and_copy_none():
    data = pickle.dumps(np.zeros(1000, dtype=np.float32), protocol=4)
    assert not unpickle(io.BytesIO(data)).value.flags.owndata


@pytest.mark.parametrize("dtype", ["O", "S4", "M8[s]", "c8", "f4,O"])
def test_arrays_of_anything_but_numbers_are_refused(dtype):
    data = pickle.dumps(np.zeros(2, dtype=dtype), protocol=2)
    with pytest.raises(UserError, match="not of numbers"):
        unpickle(io.BytesIO(data))


def test_what_a_pickle_does_to_a_stand_in_ends_with_its_file():
    class Kept:
        """A stand-in without __setstate__: a pickle may set attributes of it."""

    stand_ins = {("library", "Kept"): Kept}
    # the class itself gets the attribute `__init__`: Array
    hostile = b"\x80\x02clibrary\nKept\nN}X\x08\x00\x00\x00__init__cnumpy\nndarray\ns\x86b."
    changed = unpickle(io.BytesIO(hostile), stand_ins)
    assert issubclass(changed.__init__, Array)
    assert Kept.__init__ is object.__init__
    assert unpickle(io.BytesIO(b"\x80\x02clibrary\nKept\n."), stand_ins).__init__ is Kept.__init__


@pytest.mark.parametrize("opcode", [b"r\xff\xff\xff\x07", b"p134217727\n"])
def test_a_pickle_that_remembers_more_objects_than_it_has_is_refused(opcode):
    """Python's unpickler would take 2 GB for the few bytes."""
    with pytest.raises(UserError, match="damaged pickle"):
        unpickle(io.BytesIO(b"\x80\x02K\x01" + opcode + b"."))


def test_a_file_is_a_dictionary_by_name_whichever_wrote_it(tmp_path):
    torch.save({"module.a": 1, "module.b": 2}, tmp_path / "a.pt")
    assert load_content(tmp_path / "a.pt") == {"a": 1, "b": 2}
    torch.save({"module.a": 1, "b": 2}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    assert load_content(tmp_path / "b.pt") == {"module.a": 1, "b": 2}
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({"module.a": 1}))
    assert load_content(tmp_path / "c.pkl") == {"pickle": {"module.a": 1}}


def test_what_is_wrong_is_said_in_words_that_follow_the_name_of_the_file(tmp_path):
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 nothing")
    for path, words in (("none", "does not exist"), (".", "is not a file")):
        with pytest.raises(UserError, match=f"^{words}"):
            load_content(tmp_path / path)
    with pytest.raises(UserError, match="^cannot be read as PyTorch weights"):
        load_torch(tmp_path / "broken.pt")
