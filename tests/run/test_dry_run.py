"""What a run takes, told before it begins."""

import dataclasses
import importlib.util
import re
import types

import jax
import pytest
import runs
from jax.experimental import topologies

from jaxad.devices import costs, sharding, slices
from jaxad.devices.programs import Program
from jaxad.errors import InputError
from jaxad.run import dry_run


def config(path, **fields):
    return runs.config(path, **{"coreset.ratio": 0.5, **fields})


def told(monkeypatch, config, **chip):
    """Lines of a dry run on the devices of the tests, called so."""
    given = dict(operations=1e9, memory=1e9, bandwidth=1e9, link=1e9) | chip
    monkeypatch.setattr(slices, "here", lambda precision: slices.Chip(**given))
    lines = []
    dry_run.run(config, None, lines.append)
    return lines


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    return runs.category(tmp_path_factory.mktemp("dry") / "cap")


def test_every_program_has_a_line_and_nothing_is_left(things, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    lines = told(monkeypatch, config(things))
    assert lines[0].startswith("patchcore on 8 of 8 images; 8 x cpu")
    names = [line[:34].strip() for line in lines[3:-1]]
    assert names[0] == "features" and names[-1] == "anomaly maps"
    assert "coreset: bounds" in names and "search: exact, queries spread" in names
    # A hundred times slower by memory alone: the roofline is the larger of three.
    slower = told(monkeypatch, config(things), bandwidth=1e7, link=1e7)
    one, other = (float(found[3].split()[-1]) for found in (lines, slower))
    assert other > 10 * one
    assert not list(tmp_path.iterdir())


def spent(lines):
    """(milliseconds of all calls before scoring, seconds of the largest category, and
    of all)."""
    rows = [line[34:].split()[:4] for line in lines[3:-1] if line[34:43].strip()]
    largest, whole = re.findall(r"(\S+) s for", lines[-1])
    calls = (int(one[0].replace(",", "")) * float(one[3]) for one in rows)
    return sum(calls), float(largest), float(whole)


def test_scoring_is_left_out_and_further_banks_take_coresets_alone(things, monkeypatch):
    lines = told(monkeypatch, config(things))
    names = [line[:34].strip() for line in lines[3:-1] if not line[34:43].strip()]
    assert names == ["search: exact, queries spread", "anomaly maps"]
    milliseconds, largest, whole = spent(lines)
    assert largest == whole == pytest.approx(milliseconds / 1e3, rel=1e-2)
    ten = told(monkeypatch, config(things, bank_starts=10))
    (features,) = (line for line in lines if line.startswith("features"))
    others = milliseconds - float(features[34:].split()[3])
    assert spent(ten)[0] == pytest.approx(milliseconds + 9 * others, rel=1e-2)


def test_all_categories_take_what_each_takes(things, monkeypatch):
    """Coresets are quadratic, networks and what goes through all patches linear."""

    def compiled(one, chip, mesh):
        rows = one.arguments[0].shape[0] if one.linear else 1e4
        operations = one.operations or 1e3 * rows
        return costs.Cost(0, 0, 0, operations / mesh.size, one.moved or 0.0, {})

    def seconds(*counts):
        monkeypatch.setattr(dry_run, "_images", lambda config: list(counts))
        _, largest, whole = spent(told(monkeypatch, config(things)))
        return largest, whole

    monkeypatch.setattr(dry_run, "_compiled", compiled)
    large, small = (seconds(count)[0] for count in (640, 64))
    largest, whole = seconds(640, 64, 640)
    assert largest == large
    assert whole == pytest.approx(2 * large + small, rel=2e-3)
    assert small < 0.05 * large


def test_a_call_on_fewer_images_takes_a_share_where_it_goes_through_them():
    cost = costs.Cost(0, 0, 0, operations=400.0, moved=80.0, collectives={})
    step = Program("step", jax.jit(abs), ())
    known = dataclasses.replace(step, operations=40.0, moved=3.0)
    rows = dataclasses.replace(step, linear=True)
    for one, expected in ((step, (400, 80)), (rows, (100, 20)), (known, (20, 3))):
        found = cost.of_fewer(one, 0.25, devices=2)
        assert (found.operations, found.moved) == expected


def test_heads_of_one_program_wait_for_the_longest():
    """3 and 5 seconds as one take 5; a last one of 4 is half of such a program."""
    assert dry_run._together([3.0, 5.0, 4.0], heads=2) == 5.0 + 2.0
    assert dry_run._together([3.0, 5.0, 4.0], heads=1) == 12.0


def test_what_does_not_fit_is_told_with_its_arrays_and_what_to_lower(
    things, monkeypatch
):
    expected = (
        r"features needs .* GB, and a device has 0.0 GB; its largest arguments are "
        r"float32 \[64, 32, 32, 3\] .*; lower config.batch_size"
    )
    with pytest.raises(InputError, match=expected):
        told(monkeypatch, config(things), memory=1e4)


def test_a_slice_that_does_not_exist_is_told():
    with pytest.raises(InputError, match="--slice=v5e-9 is not known .did you mean"):
        slices.of("v5e-9")


def test_the_one_chip_of_a_slice_is_all_of_its_host(monkeypatch):
    asked = []

    def found(**options):
        asked.append(options)
        return types.SimpleNamespace(devices=jax.devices()[:1])

    for name in slices.ENVIRONMENT:  # so that it is as before afterwards
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "here")
    monkeypatch.setattr(topologies, "get_topology_desc", found)
    _, mesh = slices.of("v5e-1")
    assert mesh.size == 1
    slices.of("v6e-8")
    one = {"topology_name": "v5e:1x1", "chips_per_host_bounds": [1, 1, 1]}
    others = {"topology_name": "v6e:2x4"}
    assert asked == [{"platform": "tpu"} | options for options in (one, others)]


def test_without_the_compiler_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"libtpu.*pip install 'jaxad\[tpu\]'"):
        slices.of("v5e-8")


def test_the_least_effort_tells_what_fits_and_a_run_s_own_what_does_not(
    things, monkeypatch
):
    """More effort may need less memory; without need it would take hours."""
    efforts, peaks = [], []

    def compiled(program, effort=slices.LEAST):
        efforts.append(effort)
        done = program.lowered().compile()
        peaks.append(costs.of(program, done, 8).peak)
        return done

    def run(memory):
        efforts.clear()
        chip = slices.Chip(1e9, memory, 1e9, 1e9)
        monkeypatch.setattr(slices, "of", lambda name: (chip, sharding.make_mesh()))
        dry_run.run(config(things), "v5e-8", print)

    monkeypatch.setattr(slices, "compiled", compiled)
    monkeypatch.setattr(dry_run, "_is_tpu", lambda mesh: True)
    run(1e9)
    assert set(efforts) == {-1.0}
    features = peaks[0]
    for share, tried in ((0.5, [-1.0, 0.0]), (0.2, [-1.0])):
        with pytest.raises(InputError, match="features needs .* GB, and a device has"):
            run(share * features)
        assert efforts == tried


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("Ran out of memory on HBM, the total memory required for HLO temporaries "
         "(109.25G) exceeds available HBM (15.75G).", 109.25 * 2**30),
        ("Ran out of memory in memory space hbm. Used 512.5M of 15.75G hbm.",
         512.5 * 2**20),
        ("Out of memory.", 0.0),
    ],
)  # fmt: skip
def test_what_a_compiler_says_of_too_little_memory_is_a_number(text, needed):
    assert dry_run._needed(f"RESOURCE_EXHAUSTED: {text}") == needed


def test_a_slice_s_compiler_is_told_the_effort():
    asked = []
    lowered = types.SimpleNamespace(compile=asked.append)
    program = types.SimpleNamespace(lowered={"tpu": lowered}.get)
    slices.compiled(program)
    slices.compiled(program, 0.0)
    name = "exec_time_optimization_effort"
    assert asked == [{name: -1.0}, {name: 0.0}]


def test_collectives_are_counted_in_a_compiled_program_s_text():
    text = """
      %a = f32[8,4]{1,0:T(8,128)} all-reduce(%x), channel_id=1
      %b = (f32[2]{0}, bf16[3]{0}) all-reduce-start(%y, %z), channel_id=2
      %c = (f32[2]{0}, bf16[3]{0}) all-reduce-done(%b)
      ROOT %d = s32[16]{0} all-gather(%w), dimensions={0}
      %e = f32[] add(%all-reduce.1, %d)
    """
    assert costs.collectives(text) == {
        "all-reduce": (2, 4 * 32 + 2 * 4 + 3 * 2),
        "all-gather": (1, 64),
    }


def test_one_device_sends_nothing():
    class Compiled:
        memory_analysis = staticmethod(lambda: types.SimpleNamespace(**given))
        cost_analysis = staticmethod(dict)
        as_text = staticmethod(lambda: "%b = f32[2]{0} all-gather(%w), dimensions={0}")

    sizes = ("argument", "output", "alias", "temp", "generated_code")
    given = {f"{name}_size_in_bytes": 0 for name in sizes}
    step = Program("step", jax.jit(abs), ())
    assert costs.of(step, Compiled, 1).collectives == {}
    assert costs.of(step, Compiled, 2).collectives == {"all-gather": (1, 8)}


def test_a_roofline_is_the_slowest_of_products_memory_and_links():
    chip = slices.Chip(operations=100.0, memory=1.0, bandwidth=10.0, link=5.0)
    sends = {"all-reduce": (2, 30), "all-gather": (1, 20)}
    cost = costs.Cost(0, 0, 0, operations=400.0, moved=70.0, collectives=sends)
    assert cost.seconds(chip, passes=1) == 10.0  # 50 bytes at 5 a second
    assert cost.seconds(chip, passes=6) == 24.0
