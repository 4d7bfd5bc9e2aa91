"""Ordinary and stochastic differential equations."""

from probjax.diffeq.reverse_time import probability_flow as probability_flow
from probjax.diffeq.reverse_time import reverse_sde as reverse_sde
from probjax.diffeq.sde import SDE as SDE
from probjax.diffeq.sde import check_sde as check_sde
from probjax.diffeq.sde import covariance_divergence as covariance_divergence
from probjax.diffeq.sde import covariance_product as covariance_product
from probjax.diffeq.solution import MAX_STEPS as MAX_STEPS
from probjax.diffeq.solution import NON_FINITE as NON_FINITE
from probjax.diffeq.solution import REACHED as REACHED
from probjax.diffeq.solution import STEP_TOO_SMALL as STEP_TOO_SMALL
from probjax.diffeq.solution import Solution as Solution
from probjax.diffeq.solution import Stats as Stats
