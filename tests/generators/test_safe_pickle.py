"""The pickle reader: it builds plain data as pickle does, and refuses by name whatever else a file asks for."""

import io
import pickle
import pickletools
import resource
import struct
from collections import OrderedDict

import pytest

from glasslib.bench import damaged_files
from glasslib.generators.stylegan2.safe_pickle import MAX_LITERAL, MAX_TEXT, Name, Record, Refused, read_plain

PLAIN = {
    "numbers": [0, 1, -1, 255, 65536, -(2**31), 2**62, 1.5, float("inf"), True, False, None],
    "text": ["", "a", "é" * 300, "\U0001f600"], "bytes": [b"", b"a" * 255, b"b" * 70_000],
    "shared": [[1, 2]] * 3, "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "sets": {"a", "b"},
    "empty": [{}, set()],
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_is_what_pickle_gives(protocol):
    data = PLAIN if protocol > 2 else {k: v for k, v in PLAIN.items() if k not in ("bytes", "sets", "empty")}
    content = pickle.dumps(data, protocol=protocol)
    stream = io.BytesIO(content + b"rest")
    found = read_plain(stream, {"builtins.set"})
    assert found == data and list(map(type, found["numbers"])) == list(map(type, data["numbers"]))
    assert stream.read() == b"rest"
    assert found["shared"][0] is found["shared"][1]


def test_records_keep_what_was_named_given_and_set():
    content = b"\x80\x02cdnnlib.tflib.network\nNetwork\n)\x81}X\x01\x00\x00\x00aK\x07sb."
    assert read_plain(io.BytesIO(content), {"dnnlib.tflib.network.Network"}).state == {"a": 7}
    found = read_plain(io.BytesIO(b"\x80\x02ctorch\nFloatStorage\nK\x01\x86."), {"torch.FloatStorage"})
    assert found == (Name("torch.FloatStorage"), 1)
    ordered = read_plain(io.BytesIO(pickle.dumps(OrderedDict(a=1), protocol=4)), {"collections.OrderedDict"})
    assert ordered == {"a": 1} and type(ordered) is dict
    with pytest.raises(Refused, match=r"it names 'collections\.OrderedDict', which is not on the list"):
        read_plain(io.BytesIO(pickle.dumps(OrderedDict(), protocol=4)), ())
    found = read_plain(io.BytesIO(b"\x80\x02K\x05Q."), (), persistent_ids=True)
    assert type(found) is Record and found.args == (5,)


def test_every_opcode_is_read_as_pickle_reads_it_or_refused():
    """No opcode is passed over: each alone, with an argument, either stands for the same value or is refused."""
    arguments = {"uint1": b"\x01", "uint2": b"\x01\x00", "int4": b"\x01\x00\x00\x00", "long1": b"\x01\x05"}
    n_read = 0
    for opcode in pickletools.opcodes:
        argument = arguments.get(opcode.arg.name if opcode.arg else "", b"\x01\x00\x00\x00\x00\x00\x00\x00a\n\n")
        content = b"\x80\x04" + opcode.code.encode("latin-1") + (argument if opcode.arg else b"") + b"."
        try:
            found = read_plain(io.BytesIO(content), ())
        except Refused:
            continue
        assert found == pickle.loads(content), opcode.name
        n_read += 1
    assert n_read >= 11


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x04\x8d" + struct.pack("<Q", 3 * 2**30), "it has a literal of 3221225472 bytes"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 3 * 2**30), "it has a literal of 3221225472 bytes"),
        (b"\x80\x04B" + struct.pack("<I", 3 * 2**30), "it has a literal of 3221225472 bytes"),
        (b"\x80\x04X" + struct.pack("<I", 3 * 2**30), "it has a literal of 3221225472 bytes"),
        (b"\x80\x04\x8b" + struct.pack("<i", 2**30), "it has a literal of 1073741824 bytes"),
        (b"\x80\x04\x96" + struct.pack("<Q", 3 * 2**30), "it has a literal of 3221225472 bytes"),
        (b"\x80\x04V", "a line longer than 4096 bytes"),
        (b"\x80\x04c", "a line longer than 4096 bytes"),
    ],
)
def test_a_claimed_length_is_refused_before_it_is_read(tmp_path, content, message):
    path = tmp_path / "sparse.pkl"
    path.write_bytes(content)
    with open(path, "r+b") as file:
        file.truncate(4 * 2**30)  # takes no disk, and reading it would take 4 GB and more
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open(path, "rb") as file, pytest.raises(Refused, match=message):
        read_plain(file, ())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_literal_of_the_largest_layer_is_read_and_texts_have_a_limit_together():
    assert len(read_plain(io.BytesIO(pickle.dumps(b"a" * MAX_LITERAL, protocol=4)), ())) == MAX_LITERAL
    some = ["a" * (MAX_TEXT // 4 - i) for i in range(5)]
    with pytest.raises(Refused, match="its strings have more than 16777216 characters together"):
        read_plain(io.BytesIO(pickle.dumps(some, protocol=4)), ())


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_the_damaged_files_would_run_code_in_python_s_unpickler(tmp_path):
    """Without this the canary could prove nothing."""
    content, _ = damaged_files.pickles(tmp_path / "canary")["os.system"]
    pickle.loads(content)
    assert (tmp_path / "canary").exists()


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_every_damaged_or_malicious_pickle_is_refused_by_name_and_runs_nothing(tmp_path):
    rows = damaged_files.pickle_refusals(tmp_path)
    assert [row for row in rows if not row["refused"]] == []
    assert len(rows) >= 70
