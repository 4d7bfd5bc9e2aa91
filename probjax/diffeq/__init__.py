"""Ordinary and stochastic differential equations."""

from probjax.diffeq.order_conditions import order_residuals as order_residuals
from probjax.diffeq.order_conditions import principal_error as principal_error
from probjax.diffeq.order_conditions import rooted_trees as rooted_trees
from probjax.diffeq.order_conditions import tableau_order as tableau_order
from probjax.diffeq.reverse_time import probability_flow as probability_flow
from probjax.diffeq.reverse_time import reverse_sde as reverse_sde
from probjax.diffeq.runge_kutta import rk_step as rk_step
from probjax.diffeq.runge_kutta import solve_fixed as solve_fixed
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
from probjax.diffeq.tableaus import METHODS as METHODS
from probjax.diffeq.tableaus import Tableau as Tableau
from probjax.diffeq.tableaus import make_tableau as make_tableau
from probjax.diffeq.tableaus import rk2 as rk2
