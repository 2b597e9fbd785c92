"""Metrics pages of four servers in one schema, and what the machine says of a process."""

import os
import socket

import pytest

from bench.server.scrape import Scraper, sample, totals
from bench.server.telemetry import ProcessTree, is_local, listening_pid

TGI = b"""# HELP tgi_queue_size x
# TYPE tgi_queue_size gauge
tgi_queue_size 3
tgi_batch_current_size 5
tgi_request_success{method="a"} 7
tgi_request_success{method="b"} 1
tgi_kv_blocks_used 25
tgi_kv_blocks_total 100
tgi_prompt_tokens 400
tgi_generated_tokens 200
tgi_prefix_cache_hit_tokens 100
tgi_request_input_length_bucket{le="1"} 9
tgi_request_input_length_sum 123
"""
VLLM = b"""vllm:num_requests_running{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0"} 0.5
vllm:prompt_tokens_total{engine="0"} 1.5e3
vllm:generation_tokens_total 900
vllm:prefix_cache_queries_total 1500
vllm:prefix_cache_hits_total 300
vllm:num_preemptions_total 1
"""
SGLANG = b'sglang:num_running_reqs{a="b"} 6\nsglang:num_queue_reqs 1\nsglang:token_usage 0.25\n'
LLAMACPP = b"llamacpp:requests_processing 2\nllamacpp:requests_deferred 0\nllamacpp:tokens_predicted_total 77\n"


def test_tgi():
    found = sample(TGI, 5)
    assert found is not None
    assert (found.at_ns, found.running, found.waiting, found.kv_used, found.requests) == (5, 5, 3, 0.25, 8)
    assert (found.prompt_tokens, found.generated_tokens) == (400, 200)
    assert (found.prefix_hits, found.prefix_queries) == (100, 400)


def test_vllm():
    found = sample(VLLM, 0)
    assert found is not None
    assert (found.running, found.waiting, found.kv_used, found.preemptions) == (4, 2, 0.5, 1)
    assert (found.prompt_tokens, found.prefix_hits, found.prefix_queries) == (1500, 300, 1500)


def test_sglang_and_llama_cpp():
    one, two = sample(SGLANG, 0), sample(LLAMACPP, 0)
    assert one is not None
    assert two is not None
    assert (one.running, one.waiting, one.kv_used) == (6, 1, 0.25)
    assert (two.running, two.waiting, two.generated_tokens) == (2, 0, 77)


@pytest.mark.parametrize("page", [b"", b"<html>not metrics</html>", b"process_cpu_seconds_total 3\n"])
def test_a_page_without_anything_we_know(page: bytes):
    assert sample(page, 0) is None


def test_values_that_are_no_numbers_are_skipped():
    assert totals(b"a NaN\nb x\nc +Inf\n").keys() == {"a", "c"}


def test_a_server_without_metrics_leaves_what_the_machine_says():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    scraper = Scraper(f"http://127.0.0.1:{port}", extra=lambda: {"cpu": 1.5})
    scraper.take()
    assert [found.cpu for found in scraper.samples] == [1.5]


def test_the_process_behind_a_port_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listening_pid(server.getsockname()[1]) == os.getpid()


def test_a_process_and_its_children():
    tree = ProcessTree(os.getpid())
    first, second = tree.read(), tree.read()
    assert os.getpid() in tree.members()
    assert first["cpu"] is None
    assert second["cpu"] is not None
    assert second["cpu"] >= 0
    assert second["memory_bytes"] is not None
    assert second["memory_bytes"] > 1e6
    assert is_local("127.0.0.1")
    assert is_local("localhost")
    assert not is_local("192.0.2.1")
