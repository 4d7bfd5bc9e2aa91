"""Distances between samples, each with its standard error."""

from probjax.metrics.classifier import two_sample_accuracy as two_sample_accuracy
from probjax.metrics.edit_distance import edit_distance as edit_distance
from probjax.metrics.edit_distance import label_error_rate as label_error_rate
from probjax.metrics.estimate import Estimate as Estimate
from probjax.metrics.estimate import noise_floor as noise_floor
from probjax.metrics.fisher import fisher_divergence as fisher_divergence
from probjax.metrics.kid import kid as kid
from probjax.metrics.kid import random_features as random_features
from probjax.metrics.mmd import mmd2 as mmd2
from probjax.metrics.neighbours import Nearest as Nearest
from probjax.metrics.neighbours import nearest_distances as nearest_distances
from probjax.metrics.wasserstein import sliced_wasserstein as sliced_wasserstein
