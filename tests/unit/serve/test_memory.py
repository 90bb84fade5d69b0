import json
import shutil
import struct

import pytest
from ippo_trainer.contract.errors import BadDataError
from ippo_trainer.models import memory
from ippo_trainer.models.load import load_policy
from ippo_trainer.serve import loading
from ippo_trainer.serve.settings import ServerSettings, response_room

from tests.kit.chat import DIGEST, MAX_PROMPT


def model(directory, shape, dtype):
    header = json.dumps(
        {"__metadata__": {"format": "pt"}, "w": {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}}
    )
    directory.mkdir(exist_ok=True)
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    return directory


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "1000\n"}, 1000),
        ({"memory.max": "max\n"}, 5 << 20),
        ({"memory/memory.limit_in_bytes": "2000\n"}, 2000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 5 << 20),
        ({}, 5 << 20),
    ],
)
def test_the_limit_is_the_cgroups_or_the_machines(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "meminfo").write_text("MemTotal:   5120 kB\nMemFree: 1 kB\n")
    assert memory.memory_limit(tmp_path, tmp_path / "meminfo") == expected


def test_without_files_nothing_is_known(tmp_path):
    assert memory.memory_limit(tmp_path, tmp_path / "meminfo") is None


def test_weights_are_counted_from_the_headers(policy_directory):
    parameters = sum(parameter.numel() for parameter in load_policy(policy_directory).model.parameters())
    assert memory.weights_bytes(policy_directory, True) == 4 * parameters


def test_half_precision_doubles_when_it_is_loaded_as_float32(tmp_path):
    directory = model(tmp_path / "policy", [1000, 1000], "BF16")
    assert memory.weights_bytes(directory, True) == 4_000_000
    assert memory.weights_bytes(directory, False) == 2_000_000


def test_a_model_that_is_too_large_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    directory = model(tmp_path / "policy", [100_000, 30_000], "BF16")
    monkeypatch.setattr(memory, "memory_limit", lambda: 2 << 30)
    with pytest.raises(BadDataError, match=r"needs 11895 MiB of memory, .* 2048 MiB.* spec\.pods\.serve\.resources"):
        loading.load(ServerSettings(directory, "Transformers", 16, 4, DIGEST, "demo"))


def test_weights_beyond_the_gpus_are_refused(tmp_path):
    directory = model(tmp_path / "policy", [1 << 20, 1 << 10], "BF16")
    memory.check_fits_devices(directory, False, 2 << 30)
    with pytest.raises(BadDataError, match="2048 MiB of memory, this container's GPUs have 2047 MiB"):
        memory.check_fits_devices(directory, False, (2 << 30) - 1)


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 16, struct.pack("<Q", 3) + b"[1]", struct.pack("<Q", 9) + b'{"w": {}}']
)
def test_a_damaged_header_is_named(tmp_path, data):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(BadDataError, match=r"model\.safetensors is damaged"):
        memory.weights_bytes(tmp_path, True)


@pytest.mark.parametrize(("positions", "expected"), [(None, 32), (1000, 32), (110, 14)])
def test_a_response_gets_the_room_behind_the_prompt(positions, expected):
    assert response_room(positions, 96, 32) == expected


def test_without_room_for_a_response_a_policy_is_refused():
    with pytest.raises(BadDataError, match="no room for a response"):
        response_room(96, 96, 32)


@pytest.mark.parametrize(("positions", "expected"), [(200, 200 - MAX_PROMPT), (MAX_PROMPT + 600, 500)])
def test_responses_stay_where_the_rotary_embedding_is_that_of_the_training(
    policy_directory, tmp_path, positions, expected
):
    """LongRoPE would take other factors, for the whole batch, as soon as one sequence is longer."""
    factors = {"short_factor": [1.0] * 16, "long_factor": [4.0] * 16, "original_max_position_embeddings": positions}
    shutil.copytree(policy_directory, tmp_path / "policy")
    config = json.loads((tmp_path / "policy" / "config.json").read_text())
    config["rope_parameters"] |= {"rope_type": "longrope"} | factors
    (tmp_path / "policy" / "config.json").write_text(json.dumps(config))
    engine = loading.load(ServerSettings(tmp_path / "policy", "Transformers", 500, 4, DIGEST, "demo")).engine
    assert engine.max_new_tokens == expected
