"""The digits experiment's training step in PyTorch: the same network, loss, optimiser and average.

Eager, with what PyTorch ships for each part. Nothing of it is tuned away: Adam updates all
parameters at once (its default), the moving average does too, the data lies in one tensor.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Modulated(nn.Module):
    """Layer norm whose scale and shift are linear in the embedded noise level."""

    def __init__(self, width: int, embedding_width: int):
        super().__init__()
        self.dense = nn.Linear(embedding_width, 2 * width)

    def forward(self, tokens, embedded):
        scale, shift = self.dense(embedded)[:, None].chunk(2, dim=-1)
        return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift


class DenoisingMixer(nn.Module):
    """`probjax.networks.DenoisingMixer` on tensors `(rows, tokens, channels)`."""

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        token_width: int,
        channel_width: int,
        num_blocks: int,
        embedding_width: int,
    ):
        super().__init__()
        self.side, self.count = patch_size, image_size // patch_size
        tokens, blocks = self.count**2, range(num_blocks)
        self.register_buffer("frequencies", torch.logspace(0, 5, 16, base=2.0))
        self.embed = nn.Linear(32, embedding_width)
        self.patches_in = nn.Linear(patch_size**2, width)
        self.position = nn.Parameter(torch.randn(tokens, width) / 2)
        self.token_norm = nn.ModuleList(Modulated(width, embedding_width) for _ in blocks)
        self.token_mix = nn.ModuleList(_bottleneck(tokens, token_width) for _ in blocks)
        self.channel_norm = nn.ModuleList(Modulated(width, embedding_width) for _ in blocks)
        self.channel_mix = nn.ModuleList(_bottleneck(width, channel_width) for _ in blocks)
        self.norm_out = nn.LayerNorm(width, eps=1e-6)
        self.patches_out = nn.Linear(width, patch_size**2)

    def forward(self, x, c_noise):
        angles = c_noise[:, None] * self.frequencies
        embedded = F.silu(self.embed(torch.cat([angles.cos(), angles.sin()], dim=-1)))
        grid = x.view(-1, self.count, self.side, self.count, self.side).transpose(2, 3)
        tokens = self.patches_in(grid.reshape(len(x), self.count**2, self.side**2)) + self.position
        for token_norm, token_mix, channel_norm, channel_mix in zip(
            self.token_norm, self.token_mix, self.channel_norm, self.channel_mix, strict=True
        ):
            mixed = token_mix(token_norm(tokens, embedded).transpose(1, 2)).transpose(1, 2)
            tokens = tokens + mixed
            tokens = tokens + channel_mix(channel_norm(tokens, embedded))
        patches = self.patches_out(self.norm_out(tokens))
        grid = patches.view(-1, self.count, self.count, self.side, self.side).transpose(2, 3)
        return grid.reshape(x.shape)


def copy_parameters(params: dict[str, Any], model: DenoisingMixer) -> None:
    """Take over the flax parameters; dense kernels are transposed here."""
    tree = params["params"]

    def dense(layer: nn.Linear, leaves: dict[str, Any]) -> None:
        _assign(layer.weight, np.asarray(leaves["kernel"]).T)
        _assign(layer.bias, leaves["bias"])

    dense(model.embed, tree["Dense_0"])
    dense(model.patches_in, tree["Dense_1"])
    dense(model.patches_out, tree["Dense_2"])
    _assign(model.position, tree["position"])
    _assign(model.norm_out.weight, tree["LayerNorm_0"]["scale"])
    _assign(model.norm_out.bias, tree["LayerNorm_0"]["bias"])
    for i in range(len(model.token_mix)):
        dense(model.token_norm[i].dense, tree[f"_Modulated_{2 * i}"]["Dense_0"])
        dense(model.channel_norm[i].dense, tree[f"_Modulated_{2 * i + 1}"]["Dense_0"])
        for layer, j in ((0, 0), (2, 1)):
            dense(model.token_mix[i][layer], tree[f"_TokenMix_{i}"][f"_LeadingDense_{j}"])
            dense(model.channel_mix[i][layer], tree[f"_ChannelMix_{i}"][f"Dense_{j}"])


def loss_fn(model: nn.Module, x0, noise_scale, noise, sigma_data: float):
    """The EDM loss at given noise: the mean over rows of `probjax.diffusion.edm_loss`."""
    sigma = noise_scale[:, None]
    total = sigma**2 + sigma_data**2
    x = x0 + sigma * noise
    inner = model(x / total.sqrt(), noise_scale.log() / 4)
    clean = sigma_data**2 / total * x + sigma * sigma_data / total.sqrt() * inner
    weight = total / (sigma * sigma_data) ** 2
    return (weight * (clean - x0).square()).sum(dim=1).mean()


class Recipe(NamedTuple):
    """What decides a training step, from the experiment's config."""

    batch_size: int
    learning_rate: float
    num_steps: int
    warmup_steps: int
    ema_decay: float
    log_noise_mean: float
    log_noise_std: float
    sigma_data: float
    levels: int
    mean: float
    scale: float


def trainer(
    model: DenoisingMixer, images: np.ndarray, recipe: Recipe, loss: Callable[..., Any] = loss_fn
) -> Callable[[int], float]:
    """Make `train(num_steps)`, which goes on where it stopped and gives the last loss."""
    device = model.position.device
    grey = torch.tensor(images.reshape(len(images), -1), device=device) * (recipe.levels - 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: _rate(t, recipe))
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=lambda old, new, age: _follow(old, new, age, recipe.ema_decay)
    )
    batches = _batches(len(images), recipe.batch_size, device)

    def step():
        chosen = grey[next(batches)]
        pixels = (chosen + torch.rand_like(chosen)) / recipe.levels
        x0 = (pixels - recipe.mean) * recipe.scale
        draws = torch.randn(len(x0), device=device)
        noise_scale = torch.exp(recipe.log_noise_mean + recipe.log_noise_std * draws)
        value = loss(model, x0, noise_scale, torch.randn_like(x0), recipe.sigma_data)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        return value

    def train(num_steps: int) -> float:
        for _ in range(num_steps):
            value = step()
        return value.item()

    return train


def _bottleneck(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))


@torch.no_grad()
def _assign(parameter: nn.Parameter, value: Any) -> None:
    parameter.copy_(torch.tensor(np.asarray(value)))


def _rate(t: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to zero."""
    if t < recipe.warmup_steps:
        return t / recipe.warmup_steps
    share = (t - recipe.warmup_steps) / (recipe.num_steps - recipe.warmup_steps)
    return (1 + math.cos(math.pi * min(share, 1.0))) / 2


def _follow(old: list[Any], new: list[Any], age: Any, ema_decay: float) -> None:
    age = float(age)
    torch._foreach_lerp_(old, new, 1 - min(ema_decay, (1 + age) / (10 + age)))


def _batches(num_examples: int, batch_size: int, device: torch.device) -> Iterator[Any]:
    """Indices, each example once in an epoch, the incomplete last batch dropped."""
    while True:
        order = torch.randperm(num_examples, device=device)
        yield from order[: num_examples - num_examples % batch_size].split(batch_size)
