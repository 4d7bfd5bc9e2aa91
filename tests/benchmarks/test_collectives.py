"""What crosses between devices, read from texts whose answer is known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from benchmarks import collectives
from benchmarks.collectives import Collective
from probjax import sharding


def program(*lines, head="HloModule m, num_partitions=8", others=""):
    body = "\n".join(f"  {line}" for line in lines)
    return f"{head}\n\n{others}\nENTRY %main (x: f32[8]) -> f32[8] {{\n{body}\n}}\n"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "%r = f32[3,4]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%add",
            Collective("all-reduce", 48, 2, 1),
        ),
        ("%r = bf16[10]{0} all-gather(%x), replica_groups=[2,4]<=[8]", ("all-gather", 20, 4, 1)),
        ("ROOT %r = f64[2]{0} reduce-scatter(%x), replica_groups={}", ("reduce-scatter", 16, 8, 1)),
        (
            "%r = (f32[2]{0}, /*index=1*/s32[3]{0}) all-to-all(%x, %y), replica_groups={{0,1}}",
            ("all-to-all", 20, 2, 1),
        ),
        (
            "%r = pred[5]{0} collective-permute(%x), source_target_pairs={{0,1},{1,2},{2,0}}",
            ("collective-permute", 5, 3, 1),
        ),
        (
            "%r = (f32[1]{0}, f32[4]{0}) all-gather-start(%x), replica_groups={{0,1,2,3}}",
            ("all-gather", 16, 4, 1),
        ),
        ("%r = f32[] all-reduce-start(%x), replica_groups={{0,1}}", ("all-reduce", 4, 2, 1)),
    ],
)
def test_a_line_is_read(line, found):
    assert collectives.in_text(program(line)) == [found]


@pytest.mark.parametrize(
    "line",
    [
        "%r = f32[4]{0} all-gather-done(%start)",
        "%all-reduce.1 = f32[4]{0} add(%x, %x)",
        "%r = f32[4]{0} all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add",
    ],
)
def test_what_does_not_cross_is_left_out(line):
    assert collectives.in_text(program(line)) == []


LOOP = """
%inner (p: f32[8]) -> f32[8] {
  %a = f32[8]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

%outer (p: f32[8]) -> f32[8] {
  %w = f32[8]{0} while(%p), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"5"}}
}

%never (p: f32[8]) -> f32[8] {
  %a = f32[99]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}
"""


def test_loops_count_as_often_as_they_run():
    twice = (
        '%w = f32[8]{0} while(%x), condition=%c, body=%outer, backend_config={"known_trip_count":'
        '{"n":"3"}}'
    )
    once = "%c = f32[8]{0} call(%w), to_apply=%outer"
    found = collectives.in_text(program(twice, once, others=LOOP))
    assert found == [Collective("all-reduce", 32, 2, 3 * 5 + 5)]
    unknown = "%w = f32[8]{0} while(%x), condition=%c, body=%outer"
    (found,) = collectives.in_text(program(unknown, others=LOOP))
    assert found.times is None


def test_bytes_sent_by_hand():
    """Four devices, 120 bytes left on each."""
    wanted = {
        "all-gather": 90,  # three parts of 30 pass through each device
        "all-reduce": 180,  # three parts to be summed, three sums
        "all-to-all": 90,
        "collective-permute": 120,
        "reduce-scatter": 360,  # what is summed is four times what is left
    }
    assert {kind: Collective(kind, 120, 4, 1).sent() for kind in collectives.KINDS} == wanted


def test_a_compiled_loop_of_sums():
    mesh = sharding.make_mesh(4)

    def body(x, _):
        return x + jax.lax.psum(x, "items").mean(), None

    def walk(x):
        return jax.lax.scan(body, jax.lax.psum(x, "items"), length=7)[0]

    fn = jax.jit(jax.shard_map(walk, mesh=mesh, in_specs=P("items"), out_specs=P("items"),
                               check_vma=False))  # fmt: skip
    found = collectives.of(fn, jnp.zeros(20))
    assert collectives.kinds(found) == {"all-reduce"}
    assert sum(each.times for each in found) == 8
    assert {each.group for each in found} == {4} and max(each.bytes for each in found) == 20


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        collectives.in_text("module @jit_f {}")
