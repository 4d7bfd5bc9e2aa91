"""Score-matching objectives."""

from probjax.score.denoising import control_coefficient as control_coefficient
from probjax.score.denoising import deen as deen
from probjax.score.denoising import deen_from_noise as deen_from_noise
from probjax.score.denoising import denoising_sm as denoising_sm
from probjax.score.denoising import denoising_sm_from_noise as denoising_sm_from_noise
from probjax.score.denoising import multi_noise_dsm as multi_noise_dsm
from probjax.score.denoising import multi_noise_dsm_from_noise as multi_noise_dsm_from_noise
from probjax.score.denoising import tweedie as tweedie
