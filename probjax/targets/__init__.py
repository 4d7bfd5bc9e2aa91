"""Distributions with exact log density, exact score and exact draws."""

from probjax.targets.banana import banana as banana
from probjax.targets.catalogue import NAMES as NAMES
from probjax.targets.catalogue import make as make
from probjax.targets.checkerboard import checkerboard as checkerboard
from probjax.targets.funnel import funnel as funnel
from probjax.targets.gaussians import eight_gaussians as eight_gaussians
from probjax.targets.gaussians import gaussian as gaussian
from probjax.targets.gaussians import gaussian_mixture as gaussian_mixture
from probjax.targets.gaussians import two_modes as two_modes
from probjax.targets.record import Target as Target
from probjax.targets.rings import rings as rings
from probjax.targets.spirals import two_spirals as two_spirals
