"""The bench measures what it says: turns, pairs, memory, work. No test here depends on how long anything takes."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner
from typer.testing import Result as CommandResult

import worldsheet as ws
from benchmarks.command import bench, report
from benchmarks.forgetful import Uncached
from benchmarks.measure import Settings, measure, one_minus_cosine, work
from benchmarks.memory import Event, peak, peak_bytes
from benchmarks.methods import AUTOGRAD, LITERAL, SYNCHRONOUS, WAVEFRONT
from benchmarks.models import CASES, Case, Instance, instance, tanh_mlp, vgg9
from benchmarks.results import Result
from benchmarks.tables import tables
from benchmarks.timing import Spread, Stopwatch, in_turns, paired_ratios, spread, threads
from nets import grad
from worldsheet.diagnostics.autograd import autograd_backward
from worldsheet_lab.machine import this_machine

CPU = torch.device("cpu")
KIB = 1024
TINY = Case("tiny", partial(tanh_mlp, 6, 6, 3), (1, 1, 6), fidelity=True)


def settings(**changes: Any) -> Settings:
    return replace(Settings(threads=(1,), rounds=2, quick=True, device=CPU, seed=0), **changes)


def measured(**changes: Any) -> Result:
    return measure(TINY, settings(**changes), lambda text: None)


def run(*arguments: str) -> CommandResult:
    return CliRunner().invoke(bench, ["gradient", *arguments])


# Timing, with a clock that tells prepared numbers.


def fake(ticks: Iterator[float]) -> Callable[[], float]:
    return lambda: next(ticks)


def test_methods_take_turns_and_each_is_prepared_before_its_clock_starts() -> None:
    log: list[str] = []
    times = iter([0.0, 1.0, 1.0, 4.0, 10.0, 12.0, 20.0, 25.0])

    def clock() -> float:
        log.append("clock")
        return next(times)

    watch = Stopwatch(lambda: log.append("clear"), lambda: log.append("wait"), clock)
    taken = in_turns({name: partial(log.append, name) for name in "AB"}, 2, watch)
    assert taken == {"A": [1.0, 2.0], "B": [3.0, 5.0]}
    one = ["clear", "wait", "clock", "A", "wait", "clock"]
    other = ["B" if word == "A" else word for word in one]
    assert log == [*one, *other, *one, *other]


def test_ratios_are_taken_within_each_round() -> None:
    baseline, mine = [1.0, 10.0, 100.0], [2.0, 30.0, 100.0]
    assert paired_ratios(mine, baseline) == Spread(1.5, 2.0, 2.5)  # a ratio of medians would say 3


def test_a_slow_round_leaves_the_ratio_as_it_is() -> None:
    quiet = paired_ratios([3.0, 3.0, 3.0], [2.0, 2.0, 2.0])
    assert paired_ratios([3.0, 300.0, 3.0], [2.0, 200.0, 2.0]) == quiet == Spread(1.5, 1.5, 1.5)


def test_unequal_numbers_of_rounds_do_not_pair() -> None:
    with pytest.raises(ValueError, match="longer"):
        paired_ratios([1.0], [1.0, 2.0])


def test_spread_is_the_median_with_quartiles() -> None:
    assert spread([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(2.0, 3.0, 4.0)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)


def test_threads_are_as_before_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


# Memory.


def taken(kib: int) -> Tensor:
    return torch.empty(kib * KIB, dtype=torch.uint8)


def test_the_meter_finds_the_peak_of_known_allocations() -> None:
    def step() -> None:
        first, second = taken(1024), taken(2048)
        del first
        third = taken(512)
        del second, third

    assert [peak_bytes(step, CPU) for _ in range(3)] == [3072 * KIB] * 3


def test_the_meter_sees_a_temporary_inside_an_expression() -> None:
    x = torch.ones(256 * KIB, dtype=torch.uint8)

    def step() -> Tensor:
        return x.square().square().square()  # two at a time: each beside what it is made from

    assert peak_bytes(step, CPU) == 512 * KIB


def test_memory_from_before_the_call_does_not_count_when_it_is_freed() -> None:
    older = [taken(4096)]

    def step() -> None:
        older.clear()
        kept = taken(1024)
        del kept

    for _ in range(2):
        assert peak_bytes(step, CPU) == 1024 * KIB
    # The profiler still knows tensors made under it: freed in a later call, they are reported there.
    peak_bytes(lambda: older.append(taken(4096)), CPU)
    assert peak_bytes(step, CPU) == 1024 * KIB


def test_an_address_used_again_counts_once_at_a_time() -> None:
    events = [Event(1, 10), Event(1, -10), Event(1, 30), Event(2, 5), Event(1, -30), Event(9, -99), Event(3, 8)]
    assert peak(events) == 35
    assert peak([]) == 0


def test_the_peak_of_a_linear_layer_is_the_one_counted_by_hand() -> None:
    batch, inputs, outputs = 64, 256, 512
    module = nn.Linear(inputs, outputs, bias=False)
    x = torch.ones(batch, inputs)
    numbers = batch * outputs + outputs * inputs  # at the end: the credit of the output and the weight's gradient

    def step() -> None:
        output = module(x)
        credit = torch.ones_like(output)
        del output
        module.weight.grad = credit.T @ x

    assert peak_bytes(step, CPU) == 4 * numbers


# The baseline.


@pytest.mark.parametrize("as_list", [False, True])
def test_autograd_is_the_plain_call(as_list: bool) -> None:
    built = instance(TINY, 5, 0, CPU)
    module, loss = built.chain.module, nn.CrossEntropyLoss()
    assert isinstance(module, nn.Sequential)
    chain = ws.Chain(list(module), loss) if as_list else built.chain

    def plain() -> None:
        loss(module(built.x), built.target).backward()

    plain()
    expected = [grad(p).clone() for p in module.parameters()]
    module.zero_grad()
    value = autograd_backward(chain, built.x, built.target)
    assert all(torch.equal(grad(p), wanted) for p, wanted in zip(module.parameters(), expected, strict=True))
    assert not value.requires_grad
    peaks = []
    for step in (plain, partial(autograd_backward, chain, built.x, built.target)):
        module.zero_grad()
        peaks.append(peak_bytes(step, CPU))
    assert peaks[0] == peaks[1]


# Work.


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_evaluations_and_pull_backs_are_the_counts_that_are_promised(depth: int) -> None:
    built = instance(replace(TINY, make=partial(tanh_mlp, 6, 6, depth)), 2, 0, CPU)
    counts = {m.name: [round(n * depth) for n in work(m, built)[1:]] for m in (WAVEFRONT, SYNCHRONOUS, LITERAL)}
    assert counts["wavefront"] == [depth, depth]
    assert counts["synchronous"][0] == depth * (depth + 1) // 2  # layer l until the front has passed it
    assert counts["literal"] == [2 * depth * depth - depth] * 2


def test_forgetful_evaluates_every_layer_but_the_first_at_every_tick() -> None:
    depth, calls = 4, [0] * 4
    chain = instance(replace(TINY, make=partial(tanh_mlp, 6, 6, depth)), 2, 0, CPU).chain
    for index, layer in enumerate(chain.layers):

        def count(module: nn.Module, inputs: object, index: int = index) -> None:
            calls[index] += 1

        layer.module.register_forward_pre_hook(count)
    solution = ws.relax(
        chain, torch.ones(2, 1, 1, 6), torch.zeros(2).long(), Uncached(ws.Dyadic()), schedule=ws.Synchronous()
    )
    assert solution.ticks == 2 * depth
    # One call more than evaluations: the start of the fields, which only asks for shapes.
    assert calls == [1 + 1] + [2 * depth + 1 + 1] * (depth - 1)


def test_forgetful_changes_no_bit() -> None:
    built = instance(TINY, 4, 0, CPU)
    literal = ws.relax(*built, Uncached(ws.Dyadic()), schedule=ws.Synchronous()).gradients()
    plain = ws.relax(*built, ws.Dyadic(), schedule=ws.Synchronous()).gradients()
    assert all(torch.equal(literal[name], plain[name]) for name in plain)


def test_autograd_has_no_work_to_count() -> None:
    with pytest.raises(LookupError, match="autograd"):
        work(AUTOGRAD, instance(TINY, 2, 0, CPU))


# Fidelity.


def test_one_minus_cosine_keeps_its_digits() -> None:
    unit, across = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])
    assert one_minus_cosine(unit, across) == pytest.approx(1)
    assert one_minus_cosine(unit, -2 * unit) == pytest.approx(2)
    assert one_minus_cosine(unit, 5 * unit) == 0
    assert one_minus_cosine(torch.tensor([1.0, 1e-9]).double(), unit) == pytest.approx(5e-19)
    assert one_minus_cosine(unit, 0 * unit) == 1
    assert one_minus_cosine(0 * unit, 0 * unit) == 0


# Cases.


def test_an_instance_is_decided_by_the_seed_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (instance(TINY, 3, seed, CPU) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.x, same.x) and torch.equal(one.target, same.target)
    assert all(torch.equal(p, q) for p, q in zip(one.chain.parameters(), same.chain.parameters(), strict=True))
    assert not torch.equal(one.x, other.x)


def weight_shapes(built: Instance) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in built.chain.parameters() if p.dim() > 1]


def test_the_cases_are_the_networks_that_are_documented() -> None:
    built = {name: instance(cases[0], 1, 0, CPU) for name, cases in CASES.items()}
    assert weight_shapes(built["mlp-784"]) == [(300, 784), (300, 300), (300, 300), (10, 300)]
    assert weight_shapes(built["w128-l10"]) == [(128, 128)] * 9 + [(10, 128)]
    assert len(built["w128-l30"].chain) == 30
    channels = [shape[0] for shape in weight_shapes(built["cnn-vgg9"])]
    assert channels == [64, 64, 128, 128, 256, 256, 256, 256, 10]
    assert vgg9()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert [len(instance(case, 1, 0, CPU).chain) for case in CASES["depth"]] == [4, 8, 16, 32, 64, 128]


# Results.


def test_a_result_holds_every_method_at_every_number_of_threads() -> None:
    result = measured(threads=(1, 2), quick=False)
    methods = ["autograd", "wavefront", "synchronous", "literal"]
    assert [(t.threads, t.method) for t in result.timings] == [(n, m) for n in (1, 2) for m in methods]
    assert all(timing.rounds == 2 for timing in result.timings)
    assert all(t.ratio == (1, 1, 1) for t in result.timings if t.method == "autograd")
    assert all(0 < t.seconds.lower <= t.seconds.median <= t.seconds.upper for t in result.timings)
    assert [m.method for m in result.memory] == ["autograd", "wavefront"]
    assert result.memory[0].ratio == 1
    assert result.memory[1].ratio == result.memory[1].peak_bytes / result.memory[0].peak_bytes
    assert [f.method for f in result.fidelity] == ["autograd", "wavefront"]
    assert all(0 <= f.one_minus_cosine < 1e-6 and f.cosine == 1 - f.one_minus_cosine for f in result.fidelity)
    assert (result.layers, result.batch, result.parameters) == (3, 64, 6 * 7 * 2 + 10 * 7)


def test_measuring_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    measured(threads=(before + 1,))
    assert torch.get_num_threads() == before


def test_a_report_is_json_with_named_figures() -> None:
    result = measured()
    found = json.loads(json.dumps(report([result], this_machine(CPU, (1,)), "the command")))
    assert found["command"] == "the command"
    assert {"processor", "cores", "threads", "device", "torch"} <= set(found["machine"])
    [case] = found["cases"]
    timing = case["timings"][1]
    assert timing["method"] == "wavefront"
    assert set(timing["ratio"]) == set(timing["seconds"]) == {"lower", "median", "upper"}
    assert timing["ratio"]["median"] == result.timings[1].ratio.median
    assert case["memory"][1]["ratio"] == result.memory[1].ratio
    assert (case["time_goal"], case["memory_goal"]) == (1.25, 1.10)


def test_there_is_a_table_for_each_group_that_was_measured() -> None:
    plain = replace(measured(), fidelity=())
    assert len(tables([plain])) == 3
    assert len(tables([replace(plain, group="depth")])) == 1
    assert len(tables([measured(), replace(plain, group="depth")])) == 5
    assert tables([]) == []


# The command.


def test_json_is_one_object_on_stdout_and_progress_is_on_stderr() -> None:
    found = run("--quick", "--repeats", "1", "--threads", "1", "--case", "mlp-784", "--seed", "3", "--json")
    assert found.exit_code == 0, found.output
    answer = json.loads(found.stdout)
    assert [case["case"] for case in answer["cases"]] == ["mlp-784"]
    assert answer["command"].startswith("python -m benchmarks gradient --threads 1 --repeats 1 --quick --case mlp-784")
    assert answer["command"].endswith("--seed 3 --json")
    assert "mlp-784: time, 1 thread" in found.stderr


def test_the_tables_show_goals_the_machine_and_the_command() -> None:
    found = run("--quick", "--repeats", "1", "--threads", "1", "--case", "w128-l10")
    assert found.exit_code == 0, found.output
    for text in ("≤ 1.25", "≤ 1.10", "wavefront", "literal", torch.__version__, "--case w128-l10"):
        assert text in found.stdout
    assert "mlp-784" not in found.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--case", "w128-l11"], ["w128-l11", "mlp-784", "w128-l10", "w128-l30", "cnn-vgg9", "depth"]),
        (["--threads", "1,none"], ["--threads must be whole numbers above 0, got 1,none"]),
        (["--threads", "0"], ["--threads must be whole numbers above 0, got 0"]),
        (["--repeats", "-1"], ["--repeats must not be negative, got -1"]),
        (["--device", "abacus"], ["abacus", "cpu"]),
        (["--device", "meta"], ["meta", "cpu"]),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_measured(arguments: list[str], told: list[str]) -> None:
    found = run(*arguments)
    assert found.exit_code == 2
    assert all(text in found.stderr for text in told)
    assert "time," not in found.stderr
