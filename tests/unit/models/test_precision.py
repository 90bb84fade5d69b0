"""What `policy.precision` means, by device and number of processes."""

import pytest
import torch
from ippo_trainer.contract.errors import BadSpecError
from ippo_trainer.models.precision import BFLOAT16, FLOAT32, Precision, precision_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "device", "several", "precision"),
    [
        (None, CPU, False, FLOAT32),
        (None, GPU, False, BFLOAT16),
        (None, GPU, True, FLOAT32),
        ("BFloat16", CPU, False, BFLOAT16),
        ("BFloat16", GPU, False, BFLOAT16),
        ("Float32", GPU, False, FLOAT32),
        ("Float32", GPU, True, FLOAT32),
    ],
)
def test_the_precision_of_a_device(
    monkeypatch: pytest.MonkeyPatch, name: str | None, device: torch.device, several: bool, precision: Precision
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=False: True)
    assert precision_of(name, device, several) is precision


@pytest.mark.parametrize(("able", "several", "words"), [(False, False, "does not have"), (True, True, "one process")])
def test_bfloat16_is_refused_where_it_cannot_be(
    monkeypatch: pytest.MonkeyPatch, able: bool, several: bool, words: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=False: able)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an older GPU")
    with pytest.raises(BadSpecError) as refusal:
        precision_of("BFloat16", GPU, several)
    assert words in f"{refusal.value} {getattr(refusal.value, 'remedy', '')}"
