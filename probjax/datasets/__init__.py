"""Real data, and batches as a pure function of key and step."""

from probjax.datasets.batches import batch_indices as batch_indices
from probjax.datasets.batches import epoch_permutation as epoch_permutation
from probjax.datasets.digit_lines import DigitLines as DigitLines
from probjax.datasets.digit_lines import LineLayout as LineLayout
from probjax.datasets.digit_lines import compose_line as compose_line
from probjax.datasets.digit_lines import compose_lines as compose_lines
from probjax.datasets.digit_lines import load_glyphs as load_glyphs
from probjax.datasets.digits import load_digits as load_digits
from probjax.datasets.images import Images as Images
from probjax.datasets.images import dequantise as dequantise
from probjax.datasets.images import quantise as quantise
from probjax.datasets.mnist import load_mnist as load_mnist
from probjax.datasets.posteriordb import load_posterior as load_posterior
from probjax.datasets.sources import DatasetError as DatasetError
from probjax.datasets.uci import Table as Table
from probjax.datasets.uci import load_uci as load_uci
