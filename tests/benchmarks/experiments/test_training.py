"""The PyTorch twin is the same function, and the case measures both."""

import numpy as np
import optax
import pytest

from benchmarks import harness
from benchmarks.experiments import training
from probjax.experiments import digits, digits_model

torch = pytest.importorskip("torch", reason="PyTorch is an extra (bench)")

from benchmarks.experiments import torch_digits  # noqa: E402

CONFIG = digits.Config(
    network=digits_model.NetworkConfig(width=8, token_width=3, channel_width=5, num_blocks=1),
    training=digits_model.TrainingConfig(batch_size=16, num_steps=50, warmup_steps=10),
)


@pytest.fixture(scope="module")
def check():
    return training._check(CONFIG)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def twin_errors(check, spoil=lambda model: None, loss=torch_digits.loss_fn):
    net = digits_model.make_network(CONFIG.network)
    shape = {name: getattr(net, name) for name in training._MIXER_FIELDS}
    model = torch_digits.DenoisingMixer(**shape)
    torch_digits.copy_parameters(check.params, model)
    with torch.no_grad():
        spoil(model)
    answers = training._torch_answers(model, loss, check, torch.device("cpu"))
    return training._errors(answers, check.truth)


@pytest.mark.slow
def test_the_twin_is_the_same_function(check, one_thread):
    assert max(twin_errors(check).values()) < 1e-4
    assert max(check.errors.values()) < 1e-4


MUTANTS = {
    "token mixing without bias": lambda model: model.token_mix[0][0].bias.zero_(),
    "channel mixing without bias": lambda model: model.channel_mix[0][2].bias.zero_(),
    "scale and shift swapped": lambda model: model.token_norm[0].dense.weight.copy_(
        model.token_norm[0].dense.weight.roll(8, 0)
    ),
    "patches in another order": lambda model: model.position.copy_(model.position.flip(0)),
    "frequencies off": lambda model: model.frequencies.mul_(1.01),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_check_sees_another_network(name, check, one_thread):
    assert max(twin_errors(check, MUTANTS[name]).values()) > 1e-3


def test_the_check_sees_another_loss(check, one_thread):
    def unweighted(model, x0, noise_scale, noise, sigma_data):
        return 0.5 * torch_digits.loss_fn(model, x0, noise_scale, noise, sigma_data)

    assert twin_errors(check, loss=unweighted)["loss"] > 0.4


def test_the_learning_rates_are_equal():
    recipe = torch_digits.Recipe(16, 3e-3, 50, 10, 0.999, -1.2, 1.2, 0.5, 17, 0.0, 1.0)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 10, 50)
    for t in (0, 1, 9, 10, 11, 30, 49, 50, 70):
        assert 3e-3 * torch_digits._rate(t, recipe) == pytest.approx(float(schedule(t)), abs=1e-8)


def test_the_average_follows_as_the_experiment_s():
    old, new = [torch.tensor([1.0])], [torch.tensor([3.0])]
    torch_digits._follow(old, new, torch.tensor(2), 0.999)  # decay (1 + 2) / (10 + 2)
    assert old[0].item() == pytest.approx(0.25 * 1 + 0.75 * 3)
    torch_digits._follow(old, new, torch.tensor(10**6), 0.5)
    assert old[0].item() == pytest.approx(0.5 * 2.5 + 0.5 * 3)


def test_an_epoch_takes_no_example_twice():
    batches = torch_digits._batches(10, 3, torch.device("cpu"))
    seen = np.concatenate([next(batches).numpy() for _ in range(3)])
    assert len(set(seen.tolist())) == 9


def measured(check, *contenders):
    case = harness.Case("experiments/training", "", "steps", 3, contenders, tolerance=1e-4)
    return harness.measure(case, harness.Effort(1, 0.0, 0.0), say=lambda line: None)


def torch_contender(check):
    return harness.Contender("peer", lambda: training._torch(CONFIG, check, 1, False), peer=True)


@pytest.mark.slow
def test_the_twin_is_timed(check, one_thread):
    found = measured(check, torch_contender(check))
    (peer,) = found["contenders"]
    assert peer["compile_seconds"] == 0 and peer["temporary_bytes"] is None
    assert set(peer["errors"]) == {"output", "loss", "gradient norm"}


@pytest.mark.slow  # compiles the whole training step
def test_both_train_and_are_timed(check, one_thread):
    ours = harness.Contender("ours", lambda: training._probjax(CONFIG, check, 2, 3))
    found = measured(check, ours, torch_contender(check))
    ours, peer = found["contenders"]
    assert ours["compile_seconds"] > 0 and ours["temporary_bytes"] > 0
    assert set(ours["errors"]) == set(peer["errors"])
    assert found["reference"] == "peer" and ours["ratio"][1] > 0


@pytest.mark.slow
def test_the_twin_learns(one_thread):
    """A constant image without noise of its own: the loss falls."""
    model = torch_digits.DenoisingMixer(
        image_size=4, patch_size=2, width=8, token_width=4, channel_width=8, num_blocks=1,
        embedding_width=8,
    )  # fmt: skip
    torch.manual_seed(0)
    recipe = torch_digits.Recipe(32, 1e-2, 10**6, 1, 0.9, -1.2, 0.1, 0.5, 17, 0.5, 1.0)
    train = torch_digits.trainer(model, np.ones((64, 4, 4, 1), np.float32), recipe)
    before = np.mean([train(1) for _ in range(3)])
    train(60)
    assert np.mean([train(1) for _ in range(3)]) < before / 2
