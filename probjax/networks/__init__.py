"""Flax modules that the experiments use, as pure functions."""

from probjax.networks.energy import EnergyMLP as EnergyMLP
from probjax.networks.energy import ScoreMLP as ScoreMLP
from probjax.networks.energy import Swish as Swish
from probjax.networks.features import noise_features as noise_features
from probjax.networks.line_encoder import LineEncoder as LineEncoder
from probjax.networks.line_encoder import LineTransducer as LineTransducer
from probjax.networks.mixer import DenoisingMixer as DenoisingMixer
from probjax.networks.mlp import MLP as MLP
from probjax.networks.mlp import DenoisingMLP as DenoisingMLP
from probjax.networks.unet import UNet as UNet
