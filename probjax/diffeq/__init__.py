"""Ordinary and stochastic differential equations."""

from probjax.diffeq.reverse_time import probability_flow as probability_flow
from probjax.diffeq.reverse_time import reverse_sde as reverse_sde
from probjax.diffeq.sde import SDE as SDE
from probjax.diffeq.sde import check_sde as check_sde
from probjax.diffeq.sde import covariance_divergence as covariance_divergence
from probjax.diffeq.sde import covariance_product as covariance_product
