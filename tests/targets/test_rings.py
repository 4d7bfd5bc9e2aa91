import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probjax import targets


def test_density_against_a_sum_over_angles(x64):
    target = targets.rings(radii=[2.0, 0.7], scale=0.3)
    x, noise_scale = np.array([0.9, -1.4]), 0.4
    angles = 2 * np.pi * np.arange(4000) / 4000
    total = 0.3**2 + noise_scale**2
    density = 0.0
    for radius in (2.0, 0.7):
        centers = radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        density += (
            0.5 * np.mean(np.exp(-0.5 * ((x - centers) ** 2).sum(1) / total)) / (2 * np.pi * total)
        )
    np.testing.assert_allclose(
        target.log_density(jnp.asarray(x), noise_scale), np.log(density), rtol=1e-12
    )


@pytest.mark.slow
def test_centre_has_a_finite_second_derivative(x64):
    target = targets.rings(radii=[1.0], scale=0.5)
    jacobian = jax.jacfwd(target.score)(jnp.zeros(2))
    # Expanding I_0: log p = const - r^2 / (2 t) + R^2 r^2 / (4 t^2).
    expected = -1 / 0.25 + 1 / (2 * 0.25**2)
    np.testing.assert_allclose(jacobian, expected * np.eye(2), rtol=1e-6, atol=1e-9)


def test_bad_parameters_are_named():
    with pytest.raises(ValueError, match=r"radii\[1\] must be positive"):
        targets.rings(radii=[1.0, -1.0])
    with pytest.raises(ValueError, match="the number of radii must be at least 1"):
        targets.rings(radii=[])
