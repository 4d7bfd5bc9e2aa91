"""Samplers."""

from probjax.mcmc.driver import row_step_key as row_step_key
from probjax.mcmc.driver import scan_steps as scan_steps
from probjax.mcmc.langevin import AnnealedState as AnnealedState
from probjax.mcmc.langevin import LangevinInfo as LangevinInfo
from probjax.mcmc.langevin import LangevinState as LangevinState
from probjax.mcmc.langevin import annealed_langevin as annealed_langevin
from probjax.mcmc.langevin import sample_annealed as sample_annealed
from probjax.mcmc.langevin import ula as ula
