"""Connectionist temporal classification: lattice, loss, posteriors, decoding."""

from probjax.sequence.beam import BeamState as BeamState
from probjax.sequence.beam import LanguageModel as LanguageModel
from probjax.sequence.beam import beam_init as beam_init
from probjax.sequence.beam import beam_step as beam_step
from probjax.sequence.ctc import ctc_loss as ctc_loss
from probjax.sequence.ctc import ctc_loss_from_log_probs as ctc_loss_from_log_probs
from probjax.sequence.ctc import ctc_loss_reference as ctc_loss_reference
from probjax.sequence.ctc import hybrid_loss as hybrid_loss
from probjax.sequence.ctc import reduce_loss as reduce_loss
from probjax.sequence.decoding import BeamDecoded as BeamDecoded
from probjax.sequence.decoding import Decoded as Decoded
from probjax.sequence.decoding import beam_decode as beam_decode
from probjax.sequence.decoding import greedy_decode as greedy_decode
from probjax.sequence.lattice import collapse as collapse
from probjax.sequence.lattice import ctc_feasible as ctc_feasible
from probjax.sequence.lattice import extend_labels as extend_labels
from probjax.sequence.lattice import lengths_from_mask as lengths_from_mask
from probjax.sequence.lattice import lengths_from_paddings as lengths_from_paddings
from probjax.sequence.lattice import log_num_alignments as log_num_alignments
from probjax.sequence.lattice import required_frames as required_frames
from probjax.sequence.posteriors import CTCPosterior as CTCPosterior
from probjax.sequence.posteriors import alignment_entropy as alignment_entropy
from probjax.sequence.posteriors import ctc_posteriors as ctc_posteriors
from probjax.sequence.posteriors import vocab_occupancy as vocab_occupancy
