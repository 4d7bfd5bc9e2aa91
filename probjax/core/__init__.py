"""What everything stands on: random streams, argument checks, log space, traces, pytrees."""

from probjax.core import checks as checks
from probjax.core import keys as keys
from probjax.core import logspace as logspace
from probjax.core import rows as rows
from probjax.core import traces as traces
from probjax.core import trees as trees
from probjax.core.keys import as_key as as_key
from probjax.core.keys import item_key as item_key
from probjax.core.keys import item_keys as item_keys
from probjax.core.keys import raw_key as raw_key
from probjax.core.keys import row_normal as row_normal
from probjax.core.keys import step_key as step_key
from probjax.core.keys import stream as stream
from probjax.core.logspace import log1mexp as log1mexp
from probjax.core.logspace import logaddexp as logaddexp
from probjax.core.logspace import logmeanexp as logmeanexp
from probjax.core.logspace import logsumexp as logsumexp
from probjax.core.traces import divergence_exact as divergence_exact
from probjax.core.traces import divergence_hutchinson as divergence_hutchinson
from probjax.core.traces import probes as probes
from probjax.core.traces import trace_exact as trace_exact
from probjax.core.traces import trace_hutchinson as trace_hutchinson
