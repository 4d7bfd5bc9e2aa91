"""Meshes and what runs over them: mapped items, ordered sums, chunked loops, checkpoints."""

from probjax.sharding import checkpoints as checkpoints
from probjax.sharding.bits import map_tiles as map_tiles
from probjax.sharding.bits import same_bits_options as same_bits_options
from probjax.sharding.gradients import value_and_grad as value_and_grad
from probjax.sharding.loops import Chunk as Chunk
from probjax.sharding.loops import LoopResult as LoopResult
from probjax.sharding.loops import chunk_program as chunk_program
from probjax.sharding.loops import run_chunks as run_chunks
from probjax.sharding.mapping import map_items as map_items
from probjax.sharding.mapping import map_rows as map_rows
from probjax.sharding.mapping import pmap_items as pmap_items
from probjax.sharding.meshes import auto_mesh as auto_mesh
from probjax.sharding.meshes import make_mesh as make_mesh
from probjax.sharding.meshes import place as place
from probjax.sharding.processes import initialize_distributed as initialize_distributed
from probjax.sharding.progress import progress as progress
from probjax.sharding.reduction import ordered_sum as ordered_sum
