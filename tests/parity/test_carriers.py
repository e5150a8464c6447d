"""What carries a stage's messages, by where its tensors are and who is there to carry them."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from worldsheet.pipeline.transport.distributed import backend_of, carrier_of

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_gloo_carries_nothing_but_the_host_s_memory(tmp_path: Path) -> None:
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", world_size=1, rank=0)
    try:
        assert carrier_of(CPU) == CPU
        assert carrier_of(GPU) == CPU
    finally:
        dist.destroy_process_group()


def test_nccl_carries_what_is_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cpu:gloo,cuda:nccl")
    assert carrier_of(CPU) == CPU
    assert carrier_of(GPU) == GPU


def test_stages_that_share_a_device_speak_through_the_host() -> None:
    assert backend_of(CPU) == "gloo"
    assert backend_of(GPU, shared=True) == "gloo"
    assert backend_of(GPU) == "cpu:gloo,cuda:nccl"
